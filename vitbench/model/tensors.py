"""One tensor of a model's state: name, shape, initialisation, use, and how training and transfer treat it. No torch.

Source: vit_jax (`weight_init: jax`, the default) and timm (`weight_init: timm`).
Differs: vit_jax and timm fuse query, key and value differently; here each third is drawn as vit_jax draws it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

MemberRole = Literal["encoder", "readout", "task"]
Resampling = Literal["grid", "axis"]


@dataclass(frozen=True)
class Tensor:
    """One tensor.

    `uses`: multiply-adds per element for one image. `trained`: False for running statistics and for what an objective
    freezes. `decay`: whether weight decay applies; a trained tensor of two or more dimensions must say so. `role`: the
    `encoder` carries over to another task, a `readout` may be missing there and then starts fresh, what is of the
    `task` never carries over. `resample`: how its rows are interpolated to another grid; None: not at all. The first
    `prefix_rows` belong to no patch. `part` is the kind of mechanism that owns it.
    """

    name: str
    shape: tuple[int, ...]
    init: str
    uses: int = 0
    trained: bool = True
    decay: bool | None = None
    role: MemberRole = "encoder"
    resample: Resampling | None = None
    prefix_rows: int = 0
    part: str = ""

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def decays(self) -> bool:
        """True if weight decay applies."""
        return bool(self.decay)

    def at(self, prefix: str, part: str | None = None) -> Tensor:
        """The tensor under `prefix.name`, owned by `part`."""
        return replace(self, name=f"{prefix}.{self.name}" if prefix else self.name, part=part or self.part)


@dataclass(frozen=True)
class Scheme:
    """The initialisations of one `weight_init`, by kind of tensor."""

    linear: str
    qkv: str
    mlp_bias: str
    representation: str
    position: str
    class_token: str
    register: str
    head: str
    conv: str
    conv_head: str
    last_scale: str


SCHEMES = {
    "jax": Scheme(
        linear="xavier_uniform",
        qkv="xavier_uniform_qkv",
        mlp_bias="normal:1e-06",
        representation="lecun_normal",
        position="normal:0.02",
        class_token="zeros",
        register="normal:0.02",
        head="zeros",
        conv="lecun_normal",
        conv_head="zeros",
        last_scale="zeros",
    ),
    "timm": Scheme(
        linear="trunc_normal:0.02",
        qkv="trunc_normal:0.02",
        mlp_bias="zeros",
        representation="trunc_normal:0.02",
        position="trunc_normal:0.02",
        class_token="normal:1e-06",
        register="normal:1e-06",
        head="trunc_normal:0.02",
        conv="kaiming_normal",
        conv_head="normal:0.01",
        last_scale="ones",
    ),
}


def affine(
    name: str, weight: tuple[int, ...], inits: tuple[str, str], uses: int, bias: bool = True
) -> Iterator[Tensor]:
    """A linear or convolutional layer; `inits` are the weight's and the bias's."""
    yield Tensor(f"{name}.weight", weight, inits[0], uses, decay=True)
    if bias:
        yield Tensor(f"{name}.bias", weight[:1], inits[1])


def norm(name: str, width: int, scale: str = "ones", *, shift: bool = True) -> Iterator[Tensor]:
    """A norm's scale and shift."""
    yield Tensor(f"{name}.weight", (width,), scale)
    if shift:
        yield Tensor(f"{name}.bias", (width,), "zeros")


def mlp(name: str, widths: tuple[int, int], scheme: Scheme, uses: int) -> Iterator[Tensor]:
    """Two layers of widths (outer, hidden); `name` is empty or ends in a dot."""
    outer, hidden = widths
    inits = (scheme.linear, scheme.mlp_bias)
    yield from affine(f"{name}fc1", (hidden, outer), inits, uses)
    yield from affine(f"{name}fc2", (outer, hidden), inits, uses)
