"""Diffusion: predict the noise in images, given how much there is and the class.

Source: Peebles and Xie 2023 (DiT), section 3 and the published code; Ho et al. 2020 (DDPM) for the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeInt

from vitbench.base.seeding import uniforms
from vitbench.model.conditioning import CONDITIONINGS, Conditioning
from vitbench.model.mechanisms import patch_embed_of, position_of, token_mixer_of
from vitbench.model.objective import (
    AVERAGE,
    FROZEN,
    STUDENT,
    Arrays,
    Call,
    Given,
    MemberBatch,
    Objective,
    Pass,
    objective_of,
)
from vitbench.model.sizes import known, pixel_grid, transformer
from vitbench.model.tensors import Tensor, affine
from vitbench.spec.trial import ModelSpec, TrialSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

SMOOTHED, CLASSIFIER = "average", "classifier"
EMBEDDING_INIT = "normal:0.02"
FREQUENCY_DIM = 256
TABLE_SEED, TABLE_ROWS = 0, 4
"""The table that networks are compared on is the same for all seeds; each of its images stands in it at 4 time steps,
one of each quarter of them."""
SAMPLE_BATCH = 512
REFUSED: Mapping[str, Any] = {
    "global_pool": "avg", "reg_tokens": 0, "final_norm": "before_pool", "block_norm": "layer", "layer_scale": None,
    "without": None, "pos_placement": "stem", "parallel": 1,
}  # fmt: skip
"""The one value that these fields of the model may have, since a diffusion transformer has its own answer to each."""


class Diffuse(Objective):
    """The mean squared error of the predicted noise, at a time step drawn for each image; images are in [-1, 1].

    `conditioning` says how blocks learn time step and class. A share `label_drop` of the images has no class in
    training. `momentum` is what stays of the averaged weights after a thousandth of all steps; the average is what is
    evaluated and kept (the source's 0.9999 per step over 400,000 steps is 0.96). With `samples_per_class` the trained
    network makes images of each class by `sample_steps` steps of DDIM, with guidance 1 and with `guidance`, and the
    `classifier` of an earlier stage says how many show their class.
    Differs: the variance is fixed, not predicted.
    """

    name: ClassVar[str] = "diffuse"
    networks: ClassVar[Mapping[str, str]] = {SMOOTHED: AVERAGE, CLASSIFIER: FROZEN}
    columns: ClassVar[frozenset[str]] = frozenset({"image", "label"})
    changes: ClassVar[frozenset[str]] = Objective.changes | {"block_norm"}
    task_names: ClassVar[tuple[str, ...]] = ("conditioning.", "t_embedder.", "y_embedder.", "final_layer.")
    kept: ClassVar[str] = SMOOTHED
    required: ClassVar[Mapping[str, str]] = {"global_pool": "avg", "pos_embed": "sincos_2d"}
    inputs: ClassVar[tuple[str, ...]] = ("timestep", "label")
    scores_named: ClassVar[tuple[str, ...]] = ("test_noise_mse",)
    conditioning: Literal["adaln_zero", "adaln", "in_context", "cross_attention"] = "adaln_zero"
    label_drop: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.96
    samples_per_class: NonNegativeInt = 0
    sample_steps: Annotated[int, Field(ge=2, le=1000)] = 25
    guidance: Annotated[float, Field(gt=1.0, le=100.0)] = 3.0

    @property
    def way(self) -> Conditioning:
        """The conditioning."""
        return CONDITIONINGS[self.conditioning]

    @property
    def frozen_roles(self) -> tuple[str, ...]:
        """A classifier judges samples, if there are any."""
        return (CLASSIFIER,) if self.samples_per_class else ()

    @property
    def made_metrics(self) -> tuple[str, ...]:
        names = ("class_fidelity_percent", "guided_class_fidelity_percent", "sampling_flops")
        return names if self.samples_per_class else ()

    def resolved(self, model: ModelSpec) -> Diffuse:
        """Without samples their settings change nothing."""
        idle = () if self.samples_per_class else ("sample_steps", "guidance")
        return self.model_copy(update={key: type(self).model_fields[key].default for key in idle})

    def problems(self, model: ModelSpec) -> list[str]:
        if model.family != "vit" or "patches" not in patch_embed_of(model).gives:
            return ["train.objective.name: diffuse needs patches that do not overlap; family vit with stem patchify"]
        problems = [
            f"model.{field}: diffuse has no place for {getattr(model, field)}; set {_written(value)}"
            for field, value in REFUSED.items()
            if getattr(model, field) != value
        ]
        if model.class_token and not problems:
            problems.append("model.class_token: diffuse reads no class token; set false")
        mixer, position = token_mixer_of(model), position_of(model)
        if not {"attention_maps", "subset"} <= mixer.gives or "causal" in mixer.gives:
            problems.append(
                f"model.token_mixer: diffuse needs attention of every token to every token; {mixer.text()} has less; "
                "set attention"
            )
        if not position.absolute:
            problems.append(f"model.pos_embed: diffuse adds positions to its patches, and {position.text()} adds none; "
                            "set sincos_2d")  # fmt: skip
        if known(model.num_classes) < 2:
            problems.append("train.objective.name: diffuse is told the class, and the data have one class only")
        return problems

    def network_problems(self, spec: TrialSpec, networks: Mapping[str, TrialSpec]) -> list[str]:
        if (classifier := networks.get(CLASSIFIER)) is None:
            return []
        if not objective_of(classifier.train.objective).predicts_classes:
            return [f"uses.classifier: {classifier.train.objective.name} predicts no classes, which {self.name} needs"]
        if classifier.data.classes != spec.data.classes:
            return ["uses.classifier: it is trained on other data.classes than this stage"]
        return []

    def passes(self, model: ModelSpec) -> Sequence[Pass]:
        return [Pass(STUDENT)]

    def momentum_at(self, role: str, step: int, num_steps: int) -> float:
        stays: float = self.momentum ** (1000 / num_steps)
        return stays

    def encoded(self, model: ModelSpec) -> ModelSpec:
        return self.way.encoded(model)

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        yield from (replace(tensor, role="task", part="head") for tensor in self._tensors(model))

    def _tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        shape, inits = transformer(model), (EMBEDDING_INIT, "zeros")
        width = shape.embed_dim
        yield from affine("t_embedder.fc1", (width, FREQUENCY_DIM), inits, 1)
        yield from affine("t_embedder.fc2", (width, width), inits, 1)
        yield Tensor("y_embedder.weight", (known(model.num_classes) + 1, width), EMBEDDING_INIT, 1, decay=False)
        for layer in range(shape.depth):
            yield from (tensor.at(f"conditioning.{layer}") for tensor in self.way.tensors(model))
        if self.way.modulates:
            yield from affine("final_layer.modulation", (2 * width, width), self.way.inits(model), 1)
        outputs = known(model.patch_size) ** 2 * known(model.in_chans)
        yield from affine("final_layer.linear", (outputs, width), ("zeros", "zeros"), shape.num_patches)

    def macs(self, model: ModelSpec) -> dict[str, int]:
        counts = self.way.macs(model)
        return {f"conditioning.{n}.{k}": c for n in range(known(model.depth)) for k, c in counts.items()}

    def module(self, model: ModelSpec, patch_embed: nn.Module) -> nn.Module:
        from vitbench.model.diffusion_transformer import DiffusionTransformer

        return DiffusionTransformer(model, patch_embed, self.way)

    def draw(self, model: ModelSpec, batches: Sequence[MemberBatch], mixtures: Sequence[Any]) -> Arrays:
        """Indices `[E, B]`, time steps and noise `[E, R B, ...]`, and the class `[E, R B]`: none, or -1 for its own.

        R is 1 in training. In evaluation no class is dropped, and each image stands in R rows one after another.
        """
        drawn = [self._drawn(model, batch) for batch in batches]
        arrays = {name: np.stack([of_member[name] for of_member in drawn]) for name in drawn[0]}
        return {"index": np.stack([batch.index for batch in batches]), **arrays}

    def _drawn(self, model: ModelSpec, batch: MemberBatch) -> Arrays:
        """One member's draws; epochs below 0 are those of evaluation."""
        from vitbench.train.diffusion import NUM_TIMESTEPS, normals

        index, epoch, rows, seed = batch.index, batch.epoch, 1, batch.seed
        if len(epoch) and epoch.max() < 0:
            rows, seed = TABLE_ROWS, TABLE_SEED
            index = np.repeat(index, rows) * rows + np.tile(np.arange(rows), len(index))
            epoch = np.repeat(epoch, rows)
        values, quarter = known(model.in_chans) * pixel_grid(model).area, np.tile(np.arange(rows), len(batch.index))
        draws, noise = np.zeros((len(index), 2)), np.zeros((len(index), values), dtype=np.float32)
        for number in np.unique(epoch):
            chosen = epoch == number
            draws[chosen] = uniforms(seed, "timestep", int(number), index[chosen], 2)
            noise[chosen] = normals(seed, "noise", int(number), index[chosen], values)
        timestep = np.floor((quarter + draws[:, 0]) * (NUM_TIMESTEPS / rows)).astype(np.int64)
        dropped = (draws[:, 1] < self.label_drop) & (rows == 1)
        return {
            "timestep": timestep,
            "noise": noise.reshape(-1, known(model.in_chans), *pixel_grid(model)),
            "label": np.where(dropped, known(model.num_classes), -1),
        }

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        images, timestep, label = self._noisy(call, unit, given, call.labels(given["index"]))
        return _squared_error(call.forward(images, timestep, label, train=True), given["noise"])

    def validation(self, call: Call, unit: torch.Tensor, given: Given) -> tuple[torch.Tensor, torch.Tensor | None]:
        images, timestep, label = self._noisy(call, unit, given, call.labels(given["index"]))
        return _squared_error(call.outputs_of(SMOOTHED, images, timestep, label), given["noise"]), None

    def answers(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        """The squared error `[E, B]` of the averaged weights on the rows of each image."""
        images, timestep, label = self._noisy(call, unit, given, given["test_labels"])
        error = (call.outputs_of(SMOOTHED, images, timestep, label).float() - given["noise"]).square()
        of_image: torch.Tensor = error.view(*unit.shape[:2], -1).mean(2)
        return of_image

    def scores(self, answers: np.ndarray, columns: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        return {"test_noise_mse": float(answers.astype(np.float64).mean())}

    def _noisy(
        self, call: Call, unit: torch.Tensor, given: Given, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Noisy images `[E, R B, C, H, W]`, their time steps and their classes `[E, R B]`."""
        import torch

        from vitbench.train.diffusion import noisy

        timestep, rows = given["timestep"], given["timestep"].shape[1] // unit.shape[1]
        unit, labels = (tensor.repeat_interleave(rows, dim=1) for tensor in (unit, labels))
        label = torch.where(given["label"] < 0, labels, given["label"])
        return noisy(2 * unit - 1, given["noise"], timestep), timestep, label

    def made(self, call: Call, seeds: Sequence[int], device: torch.device) -> Mapping[str, torch.Tensor]:
        """Shares of samples, in percent, that the classifier takes for their class, and the FLOPs of sampling."""
        import torch

        if not self.samples_per_class:
            return {}
        plain, led = (self._fidelity(call, seeds, device, guidance) for guidance in (1.0, self.guidance))
        flops = torch.full_like(plain, float(self.sampling_flops(call.model, call.train.objective)))
        return dict(zip(self.made_metrics, (plain, led, flops), strict=True))

    def sampling_flops(self, model: ModelSpec, objective: Any) -> int:
        """FLOPs of all samples: one forward pass per step without guidance, two with it; training has none of them."""
        from vitbench.model.costs import forward_flops

        passes = 3 * self.sample_steps * self.samples_per_class * known(model.num_classes)
        return passes * forward_flops(model, objective)

    def _fidelity(self, call: Call, seeds: Sequence[int], device: torch.device, guidance: float) -> torch.Tensor:
        """Per member `[E]`, in float64, the percentage of samples that the classifier takes for their class."""
        import torch

        from vitbench.train.diffusion import guided, normals, sample

        model = call.model
        shape = (known(model.in_chans), *pixel_grid(model))
        num_classes, values = known(model.num_classes), int(np.prod(shape))
        number = np.arange(self.samples_per_class * num_classes)
        right = torch.zeros(len(seeds), dtype=torch.float64, device=device)

        def predict(images: torch.Tensor, timestep: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            return call.outputs_of(SMOOTHED, images, timestep, label)

        for start in range(0, len(number), SAMPLE_BATCH):
            index = number[start : start + SAMPLE_BATCH]
            noise = np.stack([normals(seed, "sample", 0, index, values) for seed in seeds])
            label = torch.from_numpy(index % num_classes).to(device).expand(len(seeds), -1)
            noise_on_device = torch.from_numpy(noise).to(device).view(len(seeds), len(index), *shape)
            images = sample(guided(predict, guidance, num_classes), noise_on_device, label, self.sample_steps)
            answers = call.outputs_of(CLASSIFIER, call.standardise((images + 1) / 2)).argmax(-1)
            right += (answers == label).double().sum(1)
        return 100 * right / len(number)


def _written(value: Any) -> str:
    """A value as a file writes it."""
    return "null" if value is None else str(value)


def _squared_error(predicted: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The mean squared error per member `[E]` of predictions and noise `[E, R B, C, H, W]`."""
    return (predicted.float() - noise).square().flatten(1).mean(1)
