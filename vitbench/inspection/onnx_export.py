"""A trial's network as an ONNX graph, checked against torch on the data set's own images.

The graph takes images in [0, 1] `[batch, C, H, W]`, standardises them as in training, and gives logits `[batch, K]`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitbench.base.errors import InputError, ResultsError
from vitbench.data.source import optional

MODEL_FILE = "model.onnx"
OPSET = 18
MAX_BYTES = 2**31 - 2**20
"""One ONNX file ends at 2 GiB, a limit of protocol buffers."""
TOLERANCE = 1e-4
"""Largest accepted difference of a logit from torch's, as a share of the largest logit."""
CHECKED_IMAGES = 64


class _Standardised(nn.Module):
    """A network and what standardised its images."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Any:
        return self.network((images - self.mean) / self.std)


def onnx_bytes(network: nn.Module, mean: Tensor, std: Tensor, images: Tensor) -> tuple[bytes, float]:
    """The graph of a network in eval mode, and its largest difference from torch on `images` `[n, C, H, W]` in [0, 1],
    as a share of the largest logit.

    Raises InputError if onnx, onnxscript or onnxruntime is missing or the model is too large, ResultsError if
    the graph computes something else.
    """
    for name in ("onnx", "onnxscript"):
        optional(name, "onnx", "--format onnx")
    runtime = optional("onnxruntime", "onnx", "--format onnx")
    if sum(4 * tensor.numel() for tensor in network.state_dict().values()) > MAX_BYTES:
        raise InputError("--format onnx: the weights exceed 2 GiB, which one ONNX file cannot hold")
    module = _Standardised(network, mean, std).eval()
    content = _graph(module, images[:2])
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = module(images).numpy()
    (logits,) = session.run(None, {"images": images.numpy()})
    difference = float(np.abs(logits - expected).max() / max(1e-12, np.abs(expected).max()))
    if not difference <= TOLERANCE:
        raise ResultsError(
            f"--format onnx: onnxruntime's logits differ from torch's by {difference:.1e} of the largest"
        )
    return content, difference


def _graph(module: nn.Module, example: Tensor) -> bytes:
    """The exporter's graph, with a free batch size; its own messages are dropped."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content
