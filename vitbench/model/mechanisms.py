"""What the parts of a model answer: one base class per kind. Nothing outside a part's file tests its name. No torch.

Every method takes the resolved ModelSpec; `vitbench.model.sizes.transformer(model)` gives its sizes. A part that says
nothing is refused: it cannot be exported, and it gives no capability.

Capabilities, in `gives` and `needs`: `attention_maps` (a mixer whose `module` has `probabilities`), `positions`,
`patches` (a patch embedding whose patches do not overlap), `subset` (a mixer or an encoding that works on some of the
patches), `causal` (a mixer in which no patch depends on a later one), `class_token`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from vitbench.model.palette import Floats, TrainingPixels
from vitbench.model.sizes import Grid, known, patch_grid
from vitbench.model.tensors import Tensor
from vitbench.spec.mechanism import Mechanism, mechanism
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

Rotation = Any
"""Cosines and sines `[T, K/2]`, as torch tensors."""

MODEL_KINDS: Mapping[str, str] = {
    "patch_embed": "stem",
    "position": "pos_embed",
    "token_mixer": "token_mixer",
    "channel_mixer": "channel_mixer",
    "readout": "global_pool",
    "stages": "stages",
}
"""{kind: the field of ModelSpec that chooses it}."""


class Part(Mechanism):
    """One part of a transformer."""

    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    changes: ClassVar[frozenset[str]] = frozenset()
    """Kinds of parts, beside its own, whose tensors its choice may change."""

    def reads(self, model: ModelSpec) -> frozenset[str]:
        """The fields of ModelSpec, among SHARED, that change this part; unread fields are left out of the id."""
        return frozenset()

    def problems(self, model: ModelSpec) -> list[str]:
        """Why this part cannot be built in `model`, one line each, with what would fit."""
        return []

    def timm(self, model: ModelSpec) -> dict[str, Any] | str:
        """The arguments with which timm's VisionTransformer builds this part, or why it cannot."""
        return f"model.{MODEL_KINDS[self.kind]} {self.text()}; its ViT has no such part"


SHARED = frozenset(
    ("num_heads", "qkv_bias", "mlp_ratio", "pos_placement", "no_embed_class", "relative_clip", "final_norm")
)
"""Fields that only some parts read."""


class PatchEmbed(Part):
    """Images to tokens."""

    kind: ClassVar[str] = "patch_embed"
    spatial: ClassVar[bool] = True
    """True if a token is a place in the image."""

    def grid(self, model: ModelSpec) -> Grid:
        """The grid of tokens of a ViT."""
        return patch_grid(model)

    def num_coefficients(self, model: ModelSpec) -> int | None:
        """Frequencies of a patch that a token holds; None if it holds pixels."""
        return None

    def fitted(self, model: ModelSpec, images: TrainingPixels) -> dict[str, Floats]:
        """Values of tensors that are measured on training images, by their name inside `patch_embed`."""
        return {}

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        """Tensors by their name inside `patch_embed`."""
        raise NotImplementedError

    def macs(self, model: ModelSpec) -> dict[str, int]:
        """Multiply-adds of products that use no weight, per image, by name."""
        return {}

    def module(self, model: ModelSpec) -> nn.Module:
        """A module from images `[B, C, H, W]` to tokens `[B, N, D]`, its state named as `tensors` says."""
        raise NotImplementedError


class Position(Part):
    """Where a token stands: added to the tokens, to the attention's logits, or as a rotation of queries and keys."""

    kind: ClassVar[str] = "position"
    absolute: ClassVar[bool] = False
    """True if it is added to the tokens, at the stem or before every block."""
    fixed: ClassVar[bool] = False
    """True if training changes nothing of it."""
    offsets: ClassVar[Mapping[str, str]] = {}
    """{table of offsets: `raster`, `row` or `column`}."""

    def tables(self, model: ModelSpec) -> tuple[Tensor, ...]:
        """Learned tables that are added to the tokens; names are relative to the model or block that has them."""
        return ()

    def attention_tables(self, model: ModelSpec) -> tuple[Tensor, ...]:
        """Learned tables of one attention layer; names are relative to it."""
        return ()

    def macs(self, model: ModelSpec) -> int:
        """Multiply-adds of one attention layer's products with the tables, per image."""
        return 0

    def class_row(self, model: ModelSpec) -> bool:
        """True if a row of what is added belongs to the class token."""
        return False

    def added(self, owner: Any, model: ModelSpec, device: torch.device) -> torch.Tensor | None:
        """What is added to the patches, `[1, N, D]`, or to the class token and the patches, `[1, 1 + N, D]`.

        `owner` has the tables.
        """
        return None

    def bias(self, attention: Any, model: ModelSpec, q: torch.Tensor) -> torch.Tensor | None:
        """What is added to the logits `[B, H, T, T]` of scaled queries `[B, H, T, K]`; `attention` has the tables."""
        return None

    def rotation(self, model: ModelSpec, device: torch.device) -> Rotation | None:
        """Cosines and sines `[T, K/2]` by which queries and keys are turned."""
        return None

    def timm(self, model: ModelSpec) -> dict[str, Any] | str:
        if not self.absolute:
            return f"model.pos_embed {self.text()} acts inside the attention; its ViT adds one position to each token"
        if model.pos_placement != "stem":
            return f"model.pos_placement {model.pos_placement}; its ViT adds positions once, at the stem"
        return {"pos_embed": "learn", "no_embed_class": not self.class_row(model)}


class TokenMixer(Part):
    """How tokens exchange information inside a block: `[B, T, D]` -> `[B, T, D]`.

    `slot` is the mixer's name in the block's state. A mixer that gives `attention_maps` is called with (tokens,
    rotation) and has the tables of the relative encodings; any other is called with the tokens alone.
    """

    kind: ClassVar[str] = "token_mixer"
    changes: ClassVar[frozenset[str]] = frozenset({"position"})
    slot: ClassVar[str] = "mixer"
    timm_class: ClassVar[str | None] = None
    """The class of timm's that has this mixer, beside its ViT: a key of `weights.timm_names.FAMILIES`."""

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        """One block's tensors by their name inside `blocks.N.<slot>`, with `macs` for each use of a weight."""
        raise NotImplementedError

    def macs(self, model: ModelSpec, layer: int) -> dict[str, int]:
        """Multiply-adds of block `layer`'s products that use no weight, per image, by name."""
        return {}

    def hidden_macs(self, model: ModelSpec, layer: int) -> int:
        """Multiply-adds of block `layer` that the module computes and hides; they are not needed and not counted."""
        return 0

    def module(self, model: ModelSpec, layer: int) -> nn.Module:
        """The module of block `layer`, its state named as `tensors` says."""
        raise NotImplementedError

    def problems_of_stages(self, stages: Sequence[ModelSpec]) -> list[str]:
        """Why the stages of an encoder, or its one grid, cannot have this mixer."""
        return [line for stage in stages for line in self.problems(stage)]

    def notes(self, stages: Sequence[ModelSpec]) -> list[str]:
        """What a user should know before training with this mixer in these stages, one line each."""
        return []

    def prefix_problems(self, model: ModelSpec) -> list[str]:
        """For `problems` of a mixer that has no place for tokens which are no patches."""
        problems, text = [], self.text()
        if "class_token" in readout_of(model).needs or model.class_token:
            problems.append(f"model.token_mixer: {text} has no place for a class token; set global_pool: avg or map")
        if model.reg_tokens:
            problems.append(f"model.reg_tokens: {text} has no place for register tokens; set 0")
        return problems


class ChannelMixer(Part):
    """What each token's channels become inside a block: `[B, T, D]` -> `[B, T, D]`."""

    kind: ClassVar[str] = "channel_mixer"

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        """One block's tensors by their name inside `blocks.N.mlp`."""
        raise NotImplementedError

    def module(self, model: ModelSpec) -> nn.Module:
        """The module of one block, its state named as `tensors` says."""
        raise NotImplementedError


class Stages(Part):
    """Whether all blocks work on one grid, or stages of blocks on ever coarser ones.

    Every stage is described by the ModelSpec of a flat encoder, so that parts need not know of stages.
    """

    kind: ClassVar[str] = "stages"
    changes: ClassVar[frozenset[str]] = frozenset(
        ("token_mixer", "channel_mixer", "position", "block_norm", "layer_scale", "readout", "final_norm", "head")
    )

    def num_blocks(self) -> int | None:
        """The number of all blocks; None: `model.depth` says it."""
        return None

    def models(self, model: ModelSpec) -> tuple[ModelSpec, ...]:
        """The flat model of every stage: its `depth`, `embed_dim`, `num_heads` and `patch_size`."""
        raise NotImplementedError

    def later_mixers(self) -> tuple[str, ...]:
        """The token mixers of the stages after the first; none: all stages have `model.token_mixer`."""
        return ()

    def merge_tensors(self, before: ModelSpec, after: ModelSpec) -> Iterator[Tensor]:
        """Tensors between two stages by their name inside `blocks.N.merge`, where N is the first block of `after`."""
        return iter(())

    def merge(self, before: ModelSpec, after: ModelSpec) -> nn.Module:
        """A module from the tokens of `before` to those of `after`, its state named as `merge_tensors` says."""
        raise NotImplementedError


class Readout(Part):
    """How the tokens become one feature vector per image."""

    kind: ClassVar[str] = "readout"
    changes: ClassVar[frozenset[str]] = frozenset({"class_token", "final_norm", "position"})

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        """Tensors by their name in the model."""
        return iter(())

    def macs(self, model: ModelSpec) -> dict[str, int]:
        """Multiply-adds of products that use no weight, per image, by name."""
        return {}

    def module(self, model: ModelSpec) -> nn.Module | None:
        """The module `attn_pool`, or None if pooling has no state."""
        return None

    def pooled(self, tokens: torch.Tensor, num_prefix: int, module: Any) -> torch.Tensor:
        """One feature vector per image, `[B, D]`, of tokens `[B, T, D]` whose first `num_prefix` are no patches."""
        raise NotImplementedError


KINDS: Mapping[str, type[Part]] = {
    cls.kind: cls for cls in (PatchEmbed, Position, TokenMixer, ChannelMixer, Readout, Stages)
}
"""The base class of each kind."""


def patch_embed_of(model: ModelSpec) -> PatchEmbed:
    """The patch embedding; a hybrid's is its backbone."""
    part: PatchEmbed = mechanism("patch_embed", "backbone" if model.family == "hybrid" else model.stem)
    return part


def position_of(model: ModelSpec) -> Position:
    """The position encoding."""
    part: Position = mechanism("position", model.pos_embed)
    return part


def token_mixer_of(model: ModelSpec) -> TokenMixer:
    """The token mixer of every block of a flat model, and of the first stage of a pyramid."""
    part: TokenMixer = mechanism("token_mixer", model.token_mixer)
    return part


def token_mixers_of(model: ModelSpec) -> tuple[TokenMixer, ...]:
    """Every token mixer of the model once, that of the first stage first."""
    texts = dict.fromkeys((model.token_mixer, *stages_of(model).later_mixers()))
    return tuple(mechanism("token_mixer", text) for text in texts)


def stages_by_mixer(model: ModelSpec) -> list[tuple[TokenMixer, list[ModelSpec]]]:
    """Every token mixer with the flat models of the stages that have it."""
    stages = stage_models(model)
    return [(mixer, [stage for stage in stages if token_mixer_of(stage) == mixer]) for mixer in token_mixers_of(model)]


def channel_mixer_of(model: ModelSpec) -> ChannelMixer:
    """The channel mixer of every block."""
    part: ChannelMixer = mechanism("channel_mixer", model.channel_mixer)
    return part


def readout_of(model: ModelSpec) -> Readout:
    """The readout."""
    part: Readout = mechanism("readout", model.global_pool)
    return part


def stages_of(model: ModelSpec) -> Stages:
    """How the blocks are grouped."""
    part: Stages = mechanism("stages", model.stages)
    return part


def stage_models(model: ModelSpec) -> tuple[ModelSpec, ...]:
    """The flat model of every stage; of a flat encoder the model itself."""
    return stages_of(model).models(model)


class BlockPlace(NamedTuple):
    """Where a block stands: the flat model of its stage, its number there, and any stage that ends before it."""

    stage: ModelSpec
    layer: int
    before: ModelSpec | None


def blocks_of(model: ModelSpec) -> list[BlockPlace]:
    """The place of every block."""
    stages = stage_models(model)
    return [
        BlockPlace(stage, layer, stages[number - 1] if number > 0 and layer == 0 else None)
        for number, stage in enumerate(stages)
        for layer in range(known(stage.depth))
    ]


def parts_of(model: ModelSpec) -> tuple[Part, ...]:
    """Every part of a transformer, from the images to the readout."""
    mixers = (*token_mixers_of(model), *(() if model.without == "mlp" else (channel_mixer_of(model),)))
    return (patch_embed_of(model), position_of(model), *mixers, readout_of(model), stages_of(model))


def unread_fields(model: ModelSpec) -> frozenset[str]:
    """The SHARED fields that no part of the model reads."""
    return SHARED.difference(*(part.reads(model) for part in parts_of(model)))
