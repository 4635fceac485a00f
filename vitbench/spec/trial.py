"""Frozen specifications of what one trial computes. Unknown keys are errors; machine details are options, not specs.

`vitbench.plan.resolve` derives a field that is `None` from the data or from other fields; a resolved spec has no such
field. `trial_id` hashes the resolved spec, so every field is part of a trial's identity unless `resolve` drops it.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from vitbench.spec.mechanism import NAME_OR_FIELDS, canonical, mechanism, registered

T = TypeVar("T")


class Frozen(BaseModel):
    """A strict, immutable model: unknown keys and wrong types are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Items = Annotated[tuple[T, ...], BeforeValidator(_as_tuple)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]


def _as_img_size(value: Any) -> Any:
    """A pair of equal sides is one number, so that equal sizes have equal ids."""
    pair = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ValueError(f"needs a whole number above 0 or [height, width], not {value!r}")
    return pair[0] if pair[0] == pair[1] else pair


ImgSize = Annotated[PositiveInt | tuple[PositiveInt, PositiveInt], BeforeValidator(_as_img_size)]
"""Pixels: one side of a square, or [height, width]."""


def sides(img_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels."""
    return (img_size, img_size) if isinstance(img_size, int) else img_size


def size_words(img_size: int | tuple[int, int]) -> str:
    """`28 x 28`, height first."""
    return " x ".join(map(str, sides(img_size)))


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Scale = Literal["minmax", "bits", "none"]
DrawnBy = Literal["random", "blocks"]
Share = Annotated[float, Field(gt=0.0, le=1.0)]

Family = Literal["vit", "resnet", "hybrid"]
PatchEmbedName = Annotated[str, BeforeValidator(partial(canonical, "patch_embed")), NAME_OR_FIELDS]
PositionName = Annotated[str, BeforeValidator(partial(canonical, "position")), NAME_OR_FIELDS]
TokenMixerName = Annotated[str, BeforeValidator(partial(canonical, "token_mixer")), NAME_OR_FIELDS]
ChannelMixerName = Annotated[str, BeforeValidator(partial(canonical, "channel_mixer")), NAME_OR_FIELDS]
ReadoutName = Annotated[str, BeforeValidator(partial(canonical, "readout")), NAME_OR_FIELDS]
StagesName = Annotated[str, BeforeValidator(partial(canonical, "stages")), NAME_OR_FIELDS]
ObjectiveName = Annotated[str, BeforeValidator(partial(canonical, "objective")), NAME_OR_FIELDS]


Part = Literal[
    "class_token", "registers", "position", "patch_embed", "token_mixer", "channel_mixer", "block_norm", "layer_scale",
    "final_norm",
]  # fmt: skip
"""The parts of a transformer that can keep their first weights."""


def _as_parts(value: Any) -> Any:
    """Parts in one order, each once, so that equal sets have equal ids."""
    return tuple(sorted(set(value))) if isinstance(value, list | tuple) else value


class ModelSpec(Frozen):
    """A ViT, a ResNet (BiT) or a hybrid; names are timm's where timm has one."""

    name: str | None = Field(None, description="Shorthand: 'Mu/2', 'ViT-Ti/4', 'R26x1', 'R26x1+ViT-Ti/16', 'Swin-T'")
    family: Family | None = None
    img_size: ImgSize | None = Field(None, description="Pixels per side, or [height, width]; follows the data")
    in_chans: PositiveInt | None = Field(None, description="Channels; follows the data")
    num_classes: PositiveInt | None = Field(None, description="Follows the data")
    # The transformer (also the hybrid's). For a hybrid `patch_size` counts cells of the feature map (the paper: 1).
    patch_size: PositiveInt | None = None
    embed_dim: PositiveInt | None = None
    depth: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    mlp_ratio: PositiveFloat | None = None
    qkv_bias: bool = True
    global_pool: ReadoutName = "token"
    class_token: bool | None = Field(None, description="Derived: true where global_pool is token")
    reg_tokens: Annotated[int, Field(ge=0, le=1024)] = Field(
        0, description="Register tokens after the class token: learned, without a position, read by nothing"
    )
    dist_token: bool = Field(
        False,
        description="Another token whose own head follows the teacher, or with classify the labels too",
    )
    final_norm: Literal["before_pool", "after_pool", "none"] = Field(
        "before_pool", description="Final LayerNorm before the pooling (vit_jax) or after it (timm's avg)"
    )
    head: Literal["linear", "mlp_tanh"] = "linear"
    stages: StagesName = Field("flat", description="One grid for all blocks, or a pyramid of ever coarser ones")
    block_norm: Literal["layer", "group", "rms"] = Field(
        "layer",
        description="Norm of each branch; group: over all tokens and channels of an image (PoolFormer); rms: without "
        "mean and shift, the final norm too (iGPT)",
    )
    norm_eps: PositiveFloat = Field(1e-6, description="Epsilon of LayerNorm and rms; that of block_norm group is 1e-5")
    layer_scale: PositiveFloat | None = Field(
        None, description="First value of a learned factor per channel on each branch; None: off"
    )
    pos_embed: PositionName = "learned_1d"
    token_mixer: TokenMixerName = Field("attention", description="How tokens mix in a block")
    channel_mixer: ChannelMixerName = Field("mlp", description="How channels mix in a block")
    without: Literal["norm", "residual", "mlp"] | None = Field(
        None, description="What every block lacks: both norms, both residual connections, or the channel mixer"
    )
    parallel: Annotated[int, Field(ge=1, le=8)] = Field(
        1,
        description="Consecutive blocks that run side by side: their token mixers read one input, and so do their MLPs",
    )
    pos_placement: Literal["stem", "every_layer", "every_layer_shared"] = Field(
        "stem", description="Where an absolute encoding is added"
    )
    no_embed_class: bool = Field(False, description="True: the class token gets no position (big_vision)")
    relative_clip: PositiveInt | None = Field(None, description="Largest offset told apart by relative_*; None: all")
    stem: PatchEmbedName = Field("patchify", description="conv: 3x3 stride-2 convolutions, Xiao et al.")
    drop_rate: Fraction = 0.0
    drop_path_rate: Fraction = 0.0
    weight_init: Literal["jax", "timm"] = "jax"
    # The ResNet (also the hybrid's backbone).
    layers: Items[PositiveInt] | None = Field(None, description="Bottleneck blocks per stage, as (3, 4, 6, 3)")
    width_factor: PositiveFloat | None = None
    root: Literal["imagenet", "small"] | None = Field(None, description="small: 3x3, stride 1, no pooling")
    norm_layer: Literal["group", "batch"] = "group"
    weight_standardize: bool = True
    preact: bool | None = Field(None, description="Derived: true for a ResNet (BiT), false in a hybrid (vit_jax)")
    freeze: Annotated[tuple[Part, ...], BeforeValidator(_as_parts)] = Field(
        (),
        description="Parts of the transformer that keep the weights that the stage starts from; a head always trains",
    )
    init_from: str | None = Field(None, description="Weights to start from: 'timm:NAME' or an exported folder")


class DataSpec(Frozen):
    """The images and their splits. The images' fingerprint is part of a trial's identity; `name` is not."""

    name: str = "digits"
    in_chans: Literal[1] | None = Field(
        None, description="1: colour as grey, 0.299 red + 0.587 green + 0.114 blue; None: as it is"
    )
    img_size: ImgSize | None = Field(
        None, description="Resize to this many pixels per side, or to [height, width]; None: as they are"
    )
    val_fraction: Fraction = Field(0.15, description="Share of the training images held out, stratified")
    train_fraction: Share = Field(1.0, description="Nested, stratified subset of the training images")
    classes: Items[int | str] | None = Field(
        None, description="Train on these classes only, by name or by position; None: all"
    )
    flip: bool | None = Field(None, description="May images be mirrored? Follows the data source")
    scale: Scale | None = Field(
        None, description="How 16-bit grey and float images become 8 bits; None: such images are refused"
    )
    split: DrawnBy = Field(
        "random", description="How splits that the data lack are drawn; blocks: neighbours in file order stay together"
    )

    @property
    def source(self) -> str:
        """`name` with `scale` and `split`, as `vitbench.data` takes it."""
        fields = {"scale": self.scale, "split": None if self.split == "random" else self.split}
        query = "&".join(f"{key}={value}" for key, value in fields.items() if value)
        return f"{self.name}{'&' if '?' in self.name else '?'}{query}" if query else self.name

    @property
    def labels(self) -> tuple[int, ...] | None:
        """The `classes` of a resolved spec, which are all positions; None: all classes."""
        if self.classes is None:
            return None
        positions = tuple(value for value in self.classes if isinstance(value, int))
        assert len(positions) == len(self.classes), "data.classes holds names until the spec is resolved"
        return positions


class ObjectiveSpec(Frozen):
    """The training objective. Fields of a single objective stand beside `name` and become part of its text."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": True})

    name: ObjectiveName = "classify"
    target: Literal["mean_colour", "downsampled", "pixels"] = "mean_colour"
    mask_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5

    @model_validator(mode="before")
    @classmethod
    def _fields_into_name(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return value
        name, _, inside = value["name"].partition("(")
        objective = registered("objective").get(name)
        if inside and objective:  # Move fields out of the text: each has one place.
            value = {**mechanism("objective", value["name"]).model_dump(mode="json"), **value, "name": name}
        in_text = objective.model_fields.keys() - objective.flat if objective else set()
        extra = {key: item for key, item in value.items() if key in in_text or key not in cls.model_fields}
        shared = {key: item for key, item in value.items() if key not in extra}
        return {**shared, "name": {"name": value["name"], **extra}} if extra else value


class TrainSpec(Frozen):
    """How a model is trained. Exactly one of epochs, steps, images, train_flops says how long."""

    objective: ObjectiveSpec = ObjectiveSpec()
    epochs: PositiveFloat | None = None
    steps: PositiveInt | None = None
    images: PositiveInt | None = None
    train_flops: PositiveFloat | None = Field(None, description="3 x forward FLOPs x images, 2 FLOPs per multiply-add")
    batch_size: PositiveInt = 64
    grad_accum: PositiveInt = Field(1, description="Micro-batches per step; the batch stays batch_size")
    opt: Literal["adamw", "sgd"] = "adamw"
    lr: PositiveFloat = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    weight_decay_head: Annotated[float, Field(ge=0.0)] | None = Field(
        None, description="Weight decay of the classifier's weight matrix; None: weight_decay"
    )
    momentum: Fraction = 0.9
    layer_decay: Share | None = Field(
        None, description="Each layer's rate is this share of the next layer's, the head's is lr; None: off"
    )
    sched: Literal["cosine", "linear", "constant", "rsqrt"] = Field(
        "cosine", description="Course of the rate after the warm-up; rsqrt: one over a square root of the steps"
    )
    warmup_fraction: Fraction = 0.05
    timescale_fraction: Share = Field(
        0.01, description="rsqrt: share of the steps after which the square root has doubled what is under it"
    )
    cooldown_fraction: Fraction = Field(
        0.0, description="Share of the steps, the last ones, in which a constant or rsqrt rate falls to 0"
    )
    continues: bool = Field(
        False, description="True: start from all weights of the earlier stage, its heads included, as a cooldown does"
    )
    clip_grad: PositiveFloat | None = 1.0
    smoothing: Fraction = 0.0
    mixup: Annotated[float, Field(ge=0.0)] | None = Field(
        None, description="Alpha of MixUp's Beta distribution; 0: off. Derived: 0.2 with augment medium, else 0"
    )
    cutmix: Annotated[float, Field(ge=0.0)] = Field(0.0, description="Alpha of CutMix's Beta distribution; 0: off")
    mixup_switch_prob: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.5, description="Share of images that get CutMix where MixUp is on too"
    )
    reprob: Share | Literal[0] = Field(0, description="Share of images of which a rectangle is erased; 0: off")
    remode: Literal["pixel", "rand", "const"] = Field(
        "pixel", description="Fill of the rectangle: noise per pixel, one random colour, or the mean colour"
    )
    class_weights: Literal["balanced"] | Items[PositiveFloat] | None = Field(
        None, description="Weight of each class in the loss, in class order; balanced: by inverse frequency"
    )
    model_ema: bool = Field(False, description="Evaluate and keep a moving average of the weights")
    model_ema_decay: Fraction = 0.9998
    model_ema_warmup: bool = Field(True, description="Shorter averages early on, as short trainings need them")
    augment: Literal["none", "light", "medium"] = Field(
        "light", description="light: crop with padding, flip; medium: also RandAugment and MixUp"
    )
    repeats: PositiveInt = Field(
        1, description="Augmented views of an image in its batch; an epoch has that many times fewer images"
    )
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"


class EvaluateSpec(Frozen):
    """Whether the test images are read, and measures beside top-1 accuracy, on frozen features (pre-logits)."""

    test: bool = Field(True, description="false: read no test image; the trial has validation scores only")
    few_shot: Items[PositiveInt] = Field((), description="Shots per class, for example [1, 5, 10, 25]")
    few_shot_draws: PositiveInt = 3
    few_shot_l2: PositiveFloat = 1024.0
    few_shot_classes: Literal["trained", "held_out"] = "trained"
    linear_probe: bool = False
    probe_layers: bool = Field(False, description="A linear probe of every block: the mean of its patches' tokens")
    knn: Annotated[int, Field(ge=0)] = Field(0, description="Neighbours; 0: off")
    knn_temperature: PositiveFloat | None = Field(
        None, description="Neighbours vote with exp(cosine similarity / temperature), DINO: 0.07; None: all alike"
    )
    features: Literal["trained", "start"] = Field(
        "trained", description="Features of the trained weights, or of the weights that the stage starts from"
    )

    @property
    def has_probes(self) -> bool:
        """True if anything is fitted on features."""
        return bool(self.few_shot or self.linear_probe or self.probe_layers or self.knn)


class TrialSpec(Frozen):
    """Everything that one stage of a trial computes, except for its seed and its images."""

    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    train: TrainSpec = TrainSpec()
    evaluate: EvaluateSpec = EvaluateSpec()


RESIZED_ABOVE = 64
"""Above so many pixels per side a crop has a random size and shape, as in the paper; up to it, a small image is padded
and shifted, since a crop of a twentieth of its area would show next to nothing."""


def crops_have_random_sizes(spec: TrialSpec) -> bool:
    """Whether the training crops of a resolved spec are cut from the original images."""
    assert spec.data.img_size is not None
    return spec.train.augment != "none" and max(sides(spec.data.img_size)) > RESIZED_ABOVE


DURATIONS = ("epochs", "steps", "images", "train_flops")
