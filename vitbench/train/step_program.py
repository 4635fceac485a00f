"""How a step is launched: operation by operation, as a replayed CUDA graph, or compiled.

A graph computes what the operations compute, bit for bit, without a launch by the host for each; a compiled step fuses
them, so that it rounds otherwise.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from vitbench.base.errors import InputError
from vitbench.spec.trial import TrialSpec

Program = Literal["eager", "graph", "compile"]
Given = dict[str, Tensor]
Shapes = tuple[tuple[str, torch.Size], ...]

WARM_UP = 3
"""Steps taken before a graph is captured: libraries choose their kernels and allocate in them."""
FEWEST_STEPS = 50
"""Of shorter trainings a graph is not worth its capture."""
COMPILE_ABOVE_FLOPS = 1e16
"""Training FLOPs of a stack from which compiling (about a minute) is assumed to pay back; not measured."""


def program_of(asked: str, device: str, train_flops: float, spec: TrialSpec) -> Program:
    """How a stack of trials like `spec` is run on a device: as asked, or (auto) eager on a CPU, where compiling gave
    nothing; on CUDA compiled where the training is large, else as a graph.

    Always eager where dropout draws, since its generator is seeded anew in every step. Raises InputError.
    """
    if asked not in ("auto", *get_args(Program)):
        raise InputError(f"--program {asked}: allowed are auto, {', '.join(get_args(Program))}")
    on_cuda = device.startswith("cuda")
    if asked == "graph" and not on_cuda:
        raise InputError(f"--program graph: CUDA graphs need a CUDA device; this is {device}")
    if spec.model.drop_rate or spec.model.drop_path_rate:
        return "eager"
    if asked != "auto":
        return cast(Program, asked)
    if not on_cuda:
        return "eager"
    if train_flops >= COMPILE_ABOVE_FLOPS:
        return "compile"
    return "graph" if (spec.train.steps or 0) >= FEWEST_STEPS else "eager"


class Graph:
    """A function of tensors that changes others in place, replayed as a CUDA graph; one a set of shapes.

    The function may not wait for the device, nor allocate what outlives it. Its first calls run as they are.
    """

    def __init__(self, function: Callable[[Given], None]) -> None:
        self.function = function
        self.calls: dict[Shapes, int] = {}
        self.refused = False
        self.captured: dict[Shapes, tuple[torch.cuda.CUDAGraph, Given]] = {}

    def __call__(self, given: Given) -> None:
        key = tuple((name, tensor.shape) for name, tensor in given.items())
        self.calls[key] = self.calls.get(key, 0) + 1
        if self.calls[key] <= WARM_UP:
            self._beside(given)
            return
        if self.refused:
            self.function(given)
            return
        if key not in self.captured:
            try:
                self.captured[key] = self._capture(given)
            except RuntimeError as error:  # Of an operation that cannot be captured; nothing of it has run.
                self.refused = True
                warnings.warn(
                    f"a step runs operation by operation, since no CUDA graph of it can be made: {error}", stacklevel=2
                )
                self.function(given)
                return
        graph, static = self.captured[key]
        for name, tensor in given.items():
            static[name].copy_(tensor, non_blocking=True)
        graph.replay()

    def _beside(self, given: Given) -> None:
        """One call on a stream of its own, as capture needs it."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.function(given)
        torch.cuda.current_stream().wait_stream(stream)

    def _capture(self, given: Given) -> tuple[torch.cuda.CUDAGraph, Given]:
        """The graph of a call, which is recorded and not run, and the tensors that it reads."""
        static = {name: tensor.clone() for name, tensor in given.items()}
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.function(static)
        return graph, static
