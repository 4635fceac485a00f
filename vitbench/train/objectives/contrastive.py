"""Contrast of images and captions: each image finds its caption in the batch, and each caption its image.

Source: Radford et al. 2021 (CLIP), section 2.3, Figure 3 and the published code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import PositiveInt

from vitbench.data.captions import NUM_WORDS, meaning
from vitbench.model.costs import product_macs
from vitbench.model.mechanisms import readout_of, token_mixer_of
from vitbench.model.objective import Arrays, Call, Given, MemberBatch
from vitbench.model.parameters import block_tensors
from vitbench.model.sizes import known
from vitbench.model.tensors import Tensor, affine, norm
from vitbench.spec.trial import ModelSpec
from vitbench.train.objectives.captioned import Captioned, captions_of, choices, three_captions

if TYPE_CHECKING:
    import torch
    from torch import nn

FIRST_SCALE = math.log(1 / 0.07)


class Contrastive(Captioned):
    """The mean cross entropy of images to captions and of captions to images, with a learned temperature.

    `text_mixer: causal` lets words see only those before them. FLOPs count all pairs of words. The temperature begins
    at 0.07; its inverse stays below 100 and has no weight decay. Differs: captions of one meaning are all right for
    their images, and the target is spread evenly over them; in the source only an image's own caption is.
    """

    name: ClassVar[str] = "contrastive"
    task_names: ClassVar[tuple[str, ...]] = ("text.", "image_proj.", "logit_scale")
    inputs: ClassVar[tuple[str, ...]] = ("captions",)
    scores_named: ClassVar[tuple[str, ...]] = (
        "retrieval_recall1_percent",
        "zero_shot_recall1_percent",
        "relation_accuracy_percent",
        "sized_relation_accuracy_percent",
        "class_accuracy_percent",
    )
    out_dim: PositiveInt = 32
    text_embed_dim: PositiveInt = 32
    text_depth: PositiveInt = 2
    text_num_heads: PositiveInt = 2
    text_mixer: Literal["causal", "attention"] = "causal"

    def problems(self, model: ModelSpec) -> list[str]:
        if model.family != "vit":
            return ["train.objective.name: contrastive is built for family vit"]
        if self.text_embed_dim % self.text_num_heads:
            return [
                f"train.objective.text_embed_dim: {self.text_embed_dim} must be divisible by text_num_heads, which is "
                f"{self.text_num_heads}"
            ]
        return []

    def words(self, model: ModelSpec) -> ModelSpec:
        """The word encoder as a transformer on one row of words."""
        return ModelSpec(
            family="vit",
            img_size=(1, NUM_WORDS),
            in_chans=1,
            patch_size=1,
            embed_dim=self.text_embed_dim,
            depth=self.text_depth,
            num_heads=self.text_num_heads,
            mlp_ratio=4.0,
            class_token=False,
            global_pool="avg",
            pos_embed="none",
            token_mixer=self.text_mixer,
            norm_eps=model.norm_eps,
            weight_init=model.weight_init,
        )

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        yield from readout_of(model).tensors(model)
        yield from (replace(tensor, role="task", part="head") for tensor in self._tensors(model))

    def _tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        words, width, image_width = self.words(model), self.text_embed_dim, known(model.embed_dim)
        yield Tensor("text.embed", (self.vocab_size, width), "normal:0.02", NUM_WORDS, decay=False)
        yield Tensor("text.pos_embed", (1, NUM_WORDS, width), "normal:0.01", decay=False)
        for layer in range(self.text_depth):
            for tensor in block_tensors(words, layer):
                yield tensor.at(f"text.blocks.{layer}")
        yield from norm("text.norm", width)
        for name, inputs in {"text.proj": width, "image_proj": image_width}.items():
            yield from affine(name, (self.out_dim, inputs), (f"normal:{inputs**-0.5!r}", "zeros"), 1, bias=False)
        yield Tensor("logit_scale", (1,), f"constant:{FIRST_SCALE!r}")

    def macs(self, model: ModelSpec) -> dict[str, int]:
        words = self.words(model)
        hidden = sum(token_mixer_of(words).hidden_macs(words, layer) for layer in range(self.text_depth))
        products = {f"text.{name}": count for name, count in product_macs(words).items()}
        return readout_of(model).macs(model) | products | {"text.hidden_pairs": hidden}

    def module(self, model: ModelSpec, patch_embed: nn.Module) -> nn.Module:
        from vitbench.model.image_text import ImageTextEncoder

        return ImageTextEncoder(model, patch_embed, self.words(model), self.vocab_size, self.out_dim)

    def draw(self, model: ModelSpec, batches: Sequence[MemberBatch], mixtures: Sequence[Any]) -> Arrays:
        """Captions `[E, B, 1, L]` and their meanings `[E, B]`."""
        words = np.stack([captions_of(batch) for batch in batches])
        return {"captions": words[:, :, None], "meaning": meaning(words)}

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        return self._compare(call, unit, given, train=True)[0]

    def validation(self, call: Call, unit: torch.Tensor, given: Given) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Loss, and the percentage of images whose nearest caption in the batch is right."""
        return self._compare(call, unit, given, train=False)

    def _compare(
        self, call: Call, unit: torch.Tensor, given: Given, *, train: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss `[E]` and percentage of right captions `[E]`."""
        from vitbench.train.losses import image_text_logits, image_text_loss

        logits = image_text_logits(call.forward(call.standardise(unit), given["captions"], train=train))
        meanings = given["meaning"]
        positive = meanings.unsqueeze(2) == meanings.unsqueeze(1)
        nearest = logits.argmax(-1, keepdim=True)
        return image_text_loss(logits, positive), 100 * positive.gather(2, nearest).float().mean((1, 2))

    def answers(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        """Vectors `[E, B, 4, K]` of the image, its caption, one with the inverse relation, one with another class."""
        import torch

        words = given["captions"].cpu().numpy()
        captions = np.concatenate(three_captions(words, self.num_classes), axis=2)
        return call.forward(call.standardise(unit), torch.from_numpy(captions).to(unit.device), train=False)

    def scores(self, answers: np.ndarray, columns: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Recall@1 among the captions of all test images, of known and of held-out combinations; and two choices."""
        captions, held_out, image = columns["captions"], columns["held_out"], answers[:, 0]
        meanings, nearest = meaning(captions), (image @ answers[:, 1].T).argmax(axis=1)
        right = 100 * (meanings[nearest] == meanings)
        return {
            "retrieval_recall1_percent": float(right[~held_out].mean()),
            "zero_shot_recall1_percent": float(right[held_out].mean()),
            **choices((image[:, None] * answers[:, 1:]).sum(axis=-1), captions),
        }

    def timm(self, model: ModelSpec) -> Mapping[str, Any] | str:
        return {}
