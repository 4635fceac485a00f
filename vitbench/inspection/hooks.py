"""Read the inside of a network during a forward pass: attention of every layer, tokens after every layer.

The network does not change: hooks read the inputs of each attention layer and compute its queries and keys again. So
the logits are the same bit for bit, and the network keeps its attention kernel.
Shapes: B images, H heads, T tokens, D width, K head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from vitbench.base.errors import InputError
from vitbench.inspection.network import Subject
from vitbench.model.attention_layers import Attention
from vitbench.model.layers import probabilities

See = Callable[[int, Tensor], None]
"""A function that is called per layer and batch with the layer's number and its attention `[B, H, T, T]`. Only the maps
of one layer are in memory at a time."""


def watch_attention(subject: Subject, images: Tensor, see: See) -> None:
    """Send images `[B, C, S, S]` in [0, 1] through the network, and call `see` with every layer's attention."""
    blocks = subject.blocks()
    with attention_seen(blocks, see), torch.no_grad():
        _features(subject, images)


@contextmanager
def attention_seen(blocks: list[nn.Module], see: See) -> Iterator[None]:
    """A context in which every run of `blocks` calls `see` with their attention."""
    handles = []
    for layer, block in enumerate(blocks):

        def hook(module: nn.Module, args: Any, _kwargs: Any, layer: int = layer) -> None:
            with torch.no_grad():
                see(layer, attention_of(module, args))

        handles.append(block.attn.register_forward_pre_hook(hook, with_kwargs=True))  # type: ignore[union-attr]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def attention_of(module: Any, args: tuple[Any, ...]) -> Tensor:
    """Attention `[B, H, T, T]` of one of our or timm's attention layers, called with `args`. Raises InputError."""
    if isinstance(module, Attention):
        return module.probabilities(*args)
    if not all(hasattr(module, name) for name in ("qkv", "num_heads", "q_norm", "k_norm", "scale")):
        raise InputError(f"the attention of timm's {type(module).__name__} cannot be read; only that of plain ViTs can")
    q, k, _ = rearrange(module.qkv(args[0]), "b t (s h k) -> s b h t k", s=3, h=module.num_heads).unbind(0)
    return probabilities(module.q_norm(q) * module.scale, module.k_norm(k), None)


def tokens_of(subject: Subject, images: Tensor) -> list[Tensor]:
    """The tokens `[B, T, D]` of images `[B, C, S, S]` in [0, 1]: the first block's input, then every block's output.

    For a ResNet: the cells of the feature map after the root and after every stage, `[B, cells, D]`.
    """
    subject.refuse_side_by_side()
    layers = list(getattr(subject.module, "blocks", ())) or list(getattr(subject.module, "stages", ()))
    if not layers:
        raise InputError(f"{subject.name}: a {type(subject.module).__name__} has no blocks or stages to look at")
    tokens: list[Tensor] = []
    handles = [
        layers[0].register_forward_pre_hook(lambda _, args: tokens.append(_as_tokens(args[0]))),
        *(layer.register_forward_hook(lambda _, _args, out: tokens.append(_as_tokens(out))) for layer in layers),
    ]
    try:
        with torch.no_grad():
            _features(subject, images)
    finally:
        for handle in handles:
            handle.remove()
    return tokens


def _features(subject: Subject, images: Tensor) -> None:
    subject.module.forward_features(subject.standardise(images))  # type: ignore[operator]


def _as_tokens(x: Tensor) -> Tensor:
    return rearrange(x, "b d y x -> b (y x) d") if x.dim() == 4 else x
