"""How a step is launched: as single operations, as a replayed CUDA graph, or compiled.

A graph gives the same bits as the single operations, without one launch per operation by the host. A compiled step
fuses operations, so that it rounds differently.
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
"""Steps before a graph is captured, in which libraries choose kernels and allocate memory."""
FEWEST_STEPS = 50
"""Shortest training for which capturing a graph is worth its time."""
COMPILE_ABOVE_FLOPS = 1e16
"""Training FLOPs of a stack above which compiling (about a minute) is assumed to pay off; not measured."""


def program_of(requested: str, device: str, train_flops: float, spec: TrialSpec) -> Program:
    """How a device runs a stack of trials like `spec`; `requested` overrides the choice, except `auto`.

    A CPU runs eagerly, because compiling gained nothing there. CUDA compiles large trainings and captures others as a
    graph. Dropout is always eager, because its generator gets a new seed in every step. Raises InputError.
    """
    if requested not in ("auto", *get_args(Program)):
        raise InputError(f"--program {requested}: allowed are auto, {', '.join(get_args(Program))}")
    on_cuda = device.startswith("cuda")
    if requested == "graph" and not on_cuda:
        raise InputError(f"--program graph: CUDA graphs need a CUDA device; this is {device}")
    if spec.model.drop_rate or spec.model.drop_path_rate:
        return "eager"
    if requested != "auto":
        return cast(Program, requested)
    if not on_cuda:
        return "eager"
    if train_flops >= COMPILE_ABOVE_FLOPS:
        return "compile"
    return "graph" if (spec.train.steps or 0) >= FEWEST_STEPS else "eager"


class Graph:
    """A function that changes tensors in place, replayed as a CUDA graph; one graph per set of input shapes.

    The function must not wait for the device, and must not allocate memory that outlives it. Its first calls run
    directly.
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
            except RuntimeError as error:  # An operation cannot be captured, and has not run.
                self.refused = True
                warnings.warn(
                    f"a step runs as single operations, because it cannot be a CUDA graph: {error}",
                    stacklevel=2,
                )
                self.function(given)
                return
        graph, static = self.captured[key]
        for name, tensor in given.items():
            static[name].copy_(tensor, non_blocking=True)
        graph.replay()

    def _beside(self, given: Given) -> None:
        """Make one call on a separate stream, which a later capture requires."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.function(given)
        torch.cuda.current_stream().wait_stream(stream)

    def _capture(self, given: Given) -> tuple[torch.cuda.CUDAGraph, Given]:
        """Record a call without running it; return the graph and its input tensors."""
        static = {name: tensor.clone() for name, tensor in given.items()}
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.function(static)
        return graph, static
