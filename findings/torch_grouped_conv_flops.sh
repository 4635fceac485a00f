#!/usr/bin/env bash
# torch 2.15.0, torch.utils.flop_counter.FlopCounterMode.
#
# Behaviour: the backward pass of a grouped convolution is counted as if its weight gradient were that of a dense
# convolution: `groups` times too many operations. The forward pass is counted right. A depthwise convolution of 8
# channels trains at 10 times its forward pass by this count, a dense one at 3 times. torch.func.vmap turns a batch of
# convolutions into one grouped convolution, so a stack of dense networks is hit as well. A matrix times a vector
# (`matrix @ vector`, `torch.dot`) counts as 0, the same product with a batch of one does not.
# Why it surprises: the same counter is right for the forward pass, and training at 3 times the forward pass is what
# everybody expects; so a comparison at equal counted training FLOPs gives depthwise networks too short a training.
# What vitbench does: it counts forward passes only, of every network, and states a training step as 3 times that.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
uv venv -q "$folder/venv"
uv pip install -q --python "$folder/venv/bin/python" torch==2.15.0 numpy
cat >"$folder/run.py" <<'PY'
import sys

import torch
import torch.nn.functional as F
from torch.func import grad, vmap
from torch.utils.flop_counter import FlopCounterMode


def count(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def both_passes(groups):
    images = torch.randn(4, 8, 6, 6, requires_grad=True)
    weight = torch.randn(8, 8 // groups, 3, 3, requires_grad=True)
    forward = count(lambda: F.conv2d(images, weight, padding=1, groups=groups))
    return count(lambda: F.conv2d(images, weight, padding=1, groups=groups).sum().backward()) / forward


weights, images = torch.randn(3, 8, 8, 3, 3), torch.randn(3, 4, 8, 6, 6)
slope = grad(lambda weight, batch: F.conv2d(batch, weight, padding=1).sum())
alone = sum(count(lambda i=i: slope(weights[i], images[i])) for i in range(3))
matrix, vector = torch.randn(7, 8), torch.randn(8)
seen = {
    "both passes / forward pass, 1, 2 and 8 groups of 8 channels": [both_passes(groups) for groups in (1, 2, 8)],
    "gradients of three dense convolutions under vmap / one by one": count(lambda: vmap(slope)(weights, images)) / alone,
    "matrix @ vector, matrix @ one column": [count(lambda: matrix @ vector), count(lambda: matrix @ vector[:, None])],
}
print("torch", torch.__version__)
for name, value in seen.items():
    print(f"{name}: {value}")
sys.exit(list(seen.values()) != [[3.0, 4.0, 10.0], 2.0, [0, 112]])
PY
"$folder/venv/bin/python" "$folder/run.py"
