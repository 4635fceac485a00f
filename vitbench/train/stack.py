"""The weights of E models of equal shapes in one flat tensor, and the forward pass over all of them.

E stacked trials, P parameters of one model (flat), B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

Forward = Callable[..., Tensor]


class Stack:
    """E models as `flat [E, P]`; `params` are leaves that view it, and `backward` adds to `grad [E, P]`.

    One flat tensor makes clipping and the optimizer a handful of operations, whatever the number of layers. A leaf has
    a leading axis E if E > 1. Without it for E = 1, a single model costs no more than in a plain loop.
    Without `trained` there are no gradients.
    """

    def __init__(
        self, module: nn.Module, states: Sequence[dict[str, Tensor]], device: torch.device, *, trained: bool = True
    ) -> None:
        _refuse_foreign(module, states)
        self.module = module
        self.num_members = len(states)
        convolves = any(isinstance(part, nn.Conv2d) and part.kernel_size != part.stride for part in module.modules())
        self.channels_last = device.type == "cuda" and convolves and self.num_members == 1
        """Tensor cores read convolutions' images with channels last; a stack's axes are the vmap's to order."""
        self.shapes = {name: p.shape for name, p in module.named_parameters()}
        self.flat = torch.stack([_flatten(state, self.shapes) for state in states]).to(device)
        self.grad = torch.zeros_like(self.flat) if trained else torch.empty(0)
        self.params = {name: view.detach().requires_grad_(trained) for name, view in self._leaves(self.flat).items()}
        self.buffers = {
            name: torch.stack([state[name].to(device) for state in states])
            for name, _ in module.named_buffers()
            if name in module.state_dict()
        }

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        """Name -> `[E, ...]`, each a view of `flat`."""
        views, start = {}, 0
        for name, shape in self.shapes.items():
            views[name] = flat[:, start : start + shape.numel()].view(flat.shape[0], *shape)
            start += shape.numel()
        return views

    def _leaves(self, flat: Tensor) -> dict[str, Tensor]:
        """`_views`, without the leading axis if there is one model."""
        views = self._views(flat)
        return views if self.num_members > 1 else {name: view.squeeze(0) for name, view in views.items()}

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of the sum of `loss [E]` to `grad`."""
        grads = torch.autograd.grad(loss.sum(), list(self.params.values()), allow_unused=True, materialize_grads=True)
        self.grad += torch.cat([grad.reshape(self.num_members, -1) for grad in grads], dim=1)

    def mask(self, names: Collection[str]) -> Tensor:
        """`[P]`, 1 in the parameters of these names."""
        pieces = [torch.full((shape.numel(),), float(name in names)) for name, shape in self.shapes.items()]
        return torch.cat(pieces).to(self.flat.device)

    def forward(self, *inputs: Tensor, flat: Tensor | None = None, train: bool = False) -> Tensor:
        """Outputs `[E, B, ...]` of inputs `[E, B, ...]`, with the weights of `flat` (default: the current ones)."""
        self.module.train(train)
        params = self.params if flat is None else self._leaves(flat)
        if self.num_members == 1:
            buffers = {name: b[0] for name, b in self.buffers.items()}
            single = [x.squeeze(0) for x in inputs]
            if self.channels_last:
                single[0] = single[0].contiguous(memory_format=torch.channels_last)
            return self._one(params, buffers, tuple(single)).unsqueeze(0)
        return torch.vmap(self._one, in_dims=0, randomness="different")(params, self.buffers, inputs)

    def _one(self, params: dict[str, Tensor], buffers: dict[str, Tensor], inputs: tuple[Any, ...]) -> Tensor:
        out: Tensor = functional_call(self.module, (params, buffers), inputs)
        return out

    def state(self, member: int, flat: Tensor | None = None) -> dict[str, Tensor]:
        """Weights and buffers of one member, on the CPU, by parameter name."""
        views = self._views(self.flat if flat is None else flat)
        tensors = {**views, **self.buffers}
        return {name: tensor[member].detach().cpu().clone() for name, tensor in tensors.items()}


def _refuse_foreign(module: nn.Module, states: Sequence[dict[str, Tensor]]) -> None:
    """Raise ValueError if a member's state has a tensor that the module lacks, or lacks one that the module has.

    One module serves all members: an entry that it does not know would be dropped, and the member would train another
    function than its trial says.
    """
    expected = module.state_dict().keys()
    for member, state in enumerate(states):
        if differing := sorted(expected ^ state.keys()):
            which = "lacks" if differing[0] in state else "has"
            raise ValueError(f"stack member {member}: {differing[0]} is a tensor that the stack's module {which}")


def _flatten(state: dict[str, Tensor], shapes: dict[str, torch.Size]) -> Tensor:
    return torch.cat([state[name].reshape(-1).float() for name in shapes])
