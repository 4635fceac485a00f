"""Cross entropy of the images' labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from vitbench.model.mechanisms import readout_of, stage_models
from vitbench.model.objective import Arrays, Call, Given, MemberBatch, Objective
from vitbench.model.sizes import known
from vitbench.model.tensors import SCHEMES, Tensor, affine
from vitbench.spec.trial import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import nn


class Classify(Objective):
    """A readout, optionally a hidden layer, and a linear classifier; label smoothing and MixUp where the spec asks.

    With `model.dist_token` the labels also train a second token's head: a second class token, the control of DeiT's
    distillation token. The loss is the mean of both. Source: Touvron et al. 2021, section 5.2.
    """

    name: ClassVar[str] = "classify"
    columns: ClassVar[frozenset[str]] = frozenset({"image", "label"})
    predicts_classes: ClassVar[bool] = True
    gives: ClassVar[frozenset[str]] = frozenset({"dist_token"})
    task_names: ClassVar[tuple[str, ...]] = ("head.", "representation.", "head_dist.")
    reads: ClassVar[frozenset[str]] = frozenset(
        ("smoothing", "mixup", "cutmix", "mixup_switch_prob", "reprob", "remode", "class_weights", "weight_decay_head")
    )

    def problems(self, model: ModelSpec) -> list[str]:
        if not model.dist_token or "class_token" in readout_of(model).needs:
            return []
        return [
            f"model.dist_token: stands beside a class token that is read; global_pool {model.global_pool} reads none"
        ]

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        last = stage_models(model)[-1]
        yield from readout_of(model).tensors(last)
        width, scheme = known(last.embed_dim), SCHEMES[model.weight_init]
        heads: list[Tensor] = []
        if model.head == "mlp_tanh":
            heads += affine("representation", (width, width), (scheme.representation, "zeros"), 1)
        for name in ("head", "head_dist") if model.dist_token else ("head",):
            heads += affine(name, (known(model.num_classes), width), (scheme.head, "zeros"), 1)
        yield from (replace(tensor, role="task", part="head") for tensor in heads)

    def macs(self, model: ModelSpec) -> dict[str, int]:
        return readout_of(model).macs(stage_models(model)[-1])

    def module(self, model: ModelSpec, patch_embed: nn.Module) -> nn.Module:
        from vitbench.model.vit import DistilledViT, ViT

        return (DistilledViT if model.dist_token else ViT)(model, patch_embed)

    def draw(self, model: ModelSpec, batches: Sequence[MemberBatch], mixtures: Sequence[Any]) -> Arrays:
        """Indices `[E, B]`; with MixUp or CutMix those of the partners, the share of each image, and CutMix's boxes."""
        arrays: Arrays = {"index": np.stack([batch.index for batch in batches])}
        if mixtures:
            arrays["partner"] = np.stack([batch.partners for batch in batches])
            arrays["mix"] = np.stack([mixture.share for mixture in mixtures]).astype(np.float32)
            arrays["box"] = np.stack([mixture.box for mixture in mixtures])
        return arrays

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        logits = call.forward(self.pixels(call, unit, given), train=True)
        if not call.model.dist_token:
            return self.labelled(call, logits, given)
        of_first, of_second = (self.labelled(call, of_token, given) for of_token in logits.unbind(2))
        return (of_first + of_second) / 2

    def pixels(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        """Images in [0, 1] as the trained network gets them: mixed, standardised, erased."""
        return call.erased(call.standardise(call.mixed(unit, given)), given)

    def labelled(self, call: Call, logits: torch.Tensor, given: Given) -> torch.Tensor:
        """Cross entropy `[E]` of logits `[E, B, K]` and the images' labels."""
        from vitbench.train.losses import cross_entropy

        labels = call.labels(given["index"])
        mixture = (given["mix"], call.labels(given["partner"])) if "mix" in given else None
        return cross_entropy(logits, labels, call.train.smoothing, mixture, call.class_weights)

    def timm(self, model: ModelSpec) -> Mapping[str, Any] | str:
        if model.dist_token:
            return "model.dist_token; its ViT has none"
        if model.head == "mlp_tanh":
            return "model.head mlp_tanh; its ViT has one linear layer after the pooling"
        return {}
