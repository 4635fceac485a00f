"""How a diffusion transformer's blocks learn the time step and the class: one class per way. No torch at the top.

Source: Peebles and Xie 2023 (DiT), section 3.2. N patches, D embed_dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from vitbench.model.sizes import known, transformer
from vitbench.model.tensors import SCHEMES, Tensor, affine, norm
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    from torch import nn

NUM_CONDITIONS = 2
"""The time step and the class, each a vector of width D."""


class Conditioning:
    """One way. `prepended`: both vectors are tokens before the patches. `modulates`: they scale and shift what the
    norms give, which have no weights of their own then. `zero`: modulations start at zero.
    """

    prepended: ClassVar[bool] = False
    modulates: ClassVar[bool] = False
    zero: ClassVar[bool] = False

    def network(self, model: ModelSpec) -> ModelSpec:
        """The model of the encoder that the network has; norms without weights are left to the blocks' conditions."""
        return model.model_copy(update={"without": "norm", "final_norm": "none"}) if self.modulates else model

    def encoded(self, model: ModelSpec) -> ModelSpec:
        """The model whose blocks cost what the network's blocks cost."""
        return self.network(model).model_copy(update={"reg_tokens": NUM_CONDITIONS if self.prepended else 0})

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        """One block's tensors by their name inside `conditioning.N`."""
        return iter(())

    def macs(self, model: ModelSpec) -> dict[str, int]:
        """Multiply-adds of one block's products that use no weight, per image, by name."""
        return {}

    def module(self, model: ModelSpec) -> nn.Module:
        """A module from (block, tokens, rotation, conditions `[B, 2, D]`) to tokens, its state as in `tensors`."""
        raise NotImplementedError

    def inits(self, model: ModelSpec) -> tuple[str, str]:
        """First values of the weights and biases that make scales and shifts."""
        return ("zeros" if self.zero else SCHEMES[model.weight_init].linear, "zeros")


class InContext(Conditioning):
    """Two more tokens, which the final layer leaves out; the blocks are those of a ViT."""

    prepended: ClassVar[bool] = True

    def module(self, model: ModelSpec) -> nn.Module:
        from vitbench.model.diffusion_transformer import PlainCondition

        return PlainCondition()


class CrossAttention(Conditioning):
    """Between its two branches each block has attention of the patches to both vectors, with a norm of its own."""

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        shape, linear = transformer(model), SCHEMES[model.weight_init].linear
        width, inits = shape.embed_dim, (linear, "zeros")
        yield from norm("norm", width)
        yield from affine("q", (width, width), inits, shape.num_patches)
        yield from affine("kv", (2 * width, width), (SCHEMES[model.weight_init].linear, "zeros"), NUM_CONDITIONS)
        yield from affine("proj", (width, width), inits, shape.num_patches)

    def macs(self, model: ModelSpec) -> dict[str, int]:
        shape = transformer(model)
        product = shape.num_patches * NUM_CONDITIONS * shape.embed_dim
        return {"scores": product, "values": product}

    def module(self, model: ModelSpec) -> nn.Module:
        from vitbench.model.diffusion_transformer import CrossCondition

        return CrossCondition(known(model.embed_dim), known(model.num_heads), model.norm_eps)


class AdaLn(Conditioning):
    """The sum of both vectors gives each branch's norm its scale and shift.

    Differs: how the source draws these projections is not published; here they are drawn as other linear layers are.
    """

    modulates: ClassVar[bool] = True
    num_vectors: ClassVar[int] = 4
    """Scales, shifts and gates of both branches."""

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        width = known(model.embed_dim)
        yield from affine("modulation", (self.num_vectors * width, width), self.inits(model), 1)

    def module(self, model: ModelSpec) -> nn.Module:
        from vitbench.model.diffusion_transformer import Modulation

        return Modulation(known(model.embed_dim), self.num_vectors, model.norm_eps)


class AdaLnZero(AdaLn):
    """As `adaln`, with a gate on each branch; all projections start at zero, so that each block starts as identity."""

    num_vectors: ClassVar[int] = 6
    zero: ClassVar[bool] = True


CONDITIONINGS: Mapping[str, Conditioning] = {
    "adaln_zero": AdaLnZero(),
    "adaln": AdaLn(),
    "in_context": InContext(),
    "cross_attention": CrossAttention(),
}
"""Every way by its name in a file."""
