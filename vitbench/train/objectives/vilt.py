"""Words and patches in one encoder: does the caption fit the image, and which words are hidden?

Source: Kim et al. 2021 (ViLT), section 3.2 and the published code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat

from vitbench.base.seeding import uniforms
from vitbench.data.captions import FIRST_PLACE, MASK, NUM_WORDS, meaning, with_inverse_relation
from vitbench.model.mechanisms import readout_of
from vitbench.model.objective import STUDENT, Arrays, Call, Given, MemberBatch, Pass
from vitbench.model.part_problems import subset_problems
from vitbench.model.sizes import known
from vitbench.model.tensors import SCHEMES, Tensor, affine, norm
from vitbench.spec.trial import ModelSpec
from vitbench.train.objectives.captioned import Captioned, captions_of, choices, of_one_size, three_captions

if TYPE_CHECKING:
    import torch
    from torch import nn

    from vitbench.model.fused_text import Fused

WORDS = slice(1, NUM_WORDS - 1)
"""The words of a caption without its start and its end: those that can be hidden."""
NUM_HIDEABLE = NUM_WORDS - 2
EMBEDDING_INIT = "normal:0.02"


class Vilt(Captioned):
    """Cross entropy of matching, of hidden words, and the cost of moving words to patches: two passes per image.

    Half of the images keep their captions. The others get that of the image before them in the batch (`negatives:
    others`; a match where it says the same), or their own with the inverse relation (`relation`). `alignment_weight`
    is that of the transport. A `blind` network sees no image: the baseline of words alone.
    Differs: in the source it is the image that is another one, of the whole data set. A caption has one hidden word at
    least.
    """

    name: ClassVar[str] = "vilt"
    task_names: ClassVar[tuple[str, ...]] = ("text.", "modality_embed", "pooler.", "match_head.", "word_head.")
    inputs: ClassVar[tuple[str, ...]] = ("hidden",)
    scores_named: ClassVar[tuple[str, ...]] = (
        "relation_accuracy_percent",
        "sized_relation_accuracy_percent",
        "class_accuracy_percent",
        "matching_accuracy_percent",
        "masked_word_accuracy_percent",
    )
    negatives: Literal["others", "relation"] = "others"
    mask_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    alignment_weight: NonNegativeFloat = 0.1
    blind: bool = False

    def problems(self, model: ModelSpec) -> list[str]:
        if model.family != "vit":
            return ["train.objective.name: vilt is built for family vit"]
        return subset_problems(model, "the blocks see words too")

    def encoded(self, model: ModelSpec) -> ModelSpec:
        """Words cost what registers cost."""
        return model.model_copy(update={"reg_tokens": model.reg_tokens + NUM_WORDS})

    def passes(self, model: ModelSpec) -> Sequence[Pass]:
        return [Pass(STUDENT, num_views=2)]

    def tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        yield from (replace(tensor, role="task", part="head") for tensor in self._tensors(model))

    def _tensors(self, model: ModelSpec) -> Iterator[Tensor]:
        width, scheme = known(model.embed_dim), SCHEMES[model.weight_init]
        yield Tensor("text.embed", (self.vocab_size, width), EMBEDDING_INIT, NUM_WORDS, decay=False)
        yield Tensor("text.pos_embed", (1, NUM_WORDS, width), EMBEDDING_INIT, decay=False)
        yield from norm("text.norm", width)
        yield Tensor("modality_embed", (2, width), EMBEDDING_INIT, decay=False)
        yield from affine("pooler", (width, width), (scheme.linear, "zeros"), 1)
        yield from affine("match_head", (2, width), (scheme.head, "zeros"), 1)
        yield from affine("word_head.transform", (width, width), (scheme.linear, "zeros"), NUM_WORDS)
        yield from norm("word_head.norm", width)
        yield from affine("word_head.decoder", (self.vocab_size, width), (scheme.head, "zeros"), NUM_WORDS)

    def module(self, model: ModelSpec, patch_embed: nn.Module) -> nn.Module:
        from vitbench.model.fused_text import FusedEncoder

        return FusedEncoder(model, patch_embed, self.vocab_size, NUM_WORDS)

    def draw(self, model: ModelSpec, batches: Sequence[MemberBatch], mixtures: Sequence[Any]) -> Arrays:
        """Captions `[E, B, L]` as they are, with hidden words, and of a pair that may match; which words are hidden
        and whether the pair matches `[E, B]`."""
        drawn = [self._drawn(batch) for batch in batches]
        return {name: np.stack([each[name] for each in drawn]) for name in drawn[0]}

    def _drawn(self, batch: MemberBatch) -> dict[str, np.ndarray]:
        words, draws = captions_of(batch), _draws(batch)
        order, kind, other, match = np.split(draws, [NUM_HIDEABLE, 2 * NUM_HIDEABLE, 3 * NUM_HIDEABLE], axis=1)
        chosen = (order < self.mask_ratio) | (order == order.min(axis=1, keepdims=True))
        replaced = FIRST_PLACE + (other * (self.vocab_size - FIRST_PLACE)).astype(np.int64)
        hidden, is_hidden = words.copy(), np.zeros(words.shape, dtype=bool)
        is_hidden[:, WORDS] = chosen
        shown = np.where(kind < 0.8, MASK, np.where(kind < 0.9, replaced, words[:, WORDS]))
        hidden[:, WORDS] = np.where(chosen, shown, words[:, WORDS])
        wrong = np.roll(words, 1, axis=0) if self.negatives == "others" else with_inverse_relation(words)
        pair = np.where(match < 0.5, words, wrong)
        return {
            "captions": words, "hidden": hidden, "is_hidden": is_hidden, "pair": pair,
            "match": (meaning(pair) == meaning(words)).astype(np.int64),
        }  # fmt: skip

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        return self._losses(call, unit, given, train=True)[0]

    def validation(self, call: Call, unit: torch.Tensor, given: Given) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Loss, and the percentage of pairs that are judged right."""
        return self._losses(call, unit, given, train=False)

    def _losses(
        self, call: Call, unit: torch.Tensor, given: Given, *, train: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss `[E]` and percentage of right judgements `[E]`."""
        from vitbench.train.losses import cross_entropy, hidden_cross_entropy
        from vitbench.train.transport import transport_cost

        hidden = self._said(call, unit, given["hidden"], train=train)
        pair, match = self._said(call, unit, given["pair"], train=train), given["match"]
        loss = hidden_cross_entropy(hidden.words, given["captions"], given["is_hidden"])
        loss = loss + cross_entropy(pair.match, match, 0.0)
        if self.alignment_weight:
            cost = transport_cost(pair.text[:, :, WORDS], pair.patches)
            loss = loss + self.alignment_weight * (cost * (2 * match - 1)).mean(1)
        return loss, 100 * (pair.match.argmax(-1) == match).float().mean(1)

    def _said(self, call: Call, unit: torch.Tensor, captions: torch.Tensor, *, train: bool) -> Fused:
        """What the network says of images `unit [E, B, C, H, W]` and captions `[E, B, L]`."""
        from vitbench.model.fused_text import parts

        pixels = call.standardise(unit)
        outputs = call.forward(pixels * 0 if self.blind else pixels, captions, train=train)
        return parts(outputs, NUM_WORDS, self.vocab_size, known(call.model.embed_dim))

    def answers(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        """How much three captions match, `[E, B, 3]`: the true one, one with the inverse relation, one with another
        class; then whether each word is found where it alone is hidden, `[E, B, 6]`."""
        import torch

        captions, columns = given["captions"], []
        for shown in three_captions(captions.cpu().numpy(), self.num_classes):
            match = self._said(call, unit, torch.from_numpy(shown).to(unit.device), train=False).match
            columns.append(match[..., 1] - match[..., 0])
        for place in range(NUM_WORDS)[WORDS]:
            hidden = captions.clone()
            hidden[..., place] = MASK
            words = self._said(call, unit, hidden, train=False).words[..., place, :]
            columns.append((words.argmax(-1) == captions[..., place]).float())
        return torch.stack(columns, dim=-1)

    def scores(self, answers: np.ndarray, columns: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Choices between captions; judgements of true captions and of those with the inverse relation, where both
        objects have one size; hidden words of known combinations."""
        captions = columns["captions"]
        judged = np.concatenate([answers[:, 0] > 0, answers[:, 1] <= 0])
        return {
            **choices(answers[:, :3], captions),
            "matching_accuracy_percent": 100 * float(judged[np.tile(of_one_size(captions), 2)].mean()),
            "masked_word_accuracy_percent": 100 * float(answers[~columns["held_out"], 3:].mean()),
        }

    def timm(self, model: ModelSpec) -> Mapping[str, Any] | str:
        if any(True for _ in readout_of(model).tensors(model)):
            return f"{model.global_pool} pools with weights that vilt does not train"
        return {}


def _draws(batch: MemberBatch) -> np.ndarray:
    """Numbers in [0, 1) `[B, 19]`: three per word that can be hidden, and one for the pair."""
    out = np.zeros((len(batch.index), 3 * NUM_HIDEABLE + 1))
    for epoch in np.unique(batch.epoch):
        at = batch.epoch == epoch
        out[at] = uniforms(batch.seed, "words", int(epoch), batch.index[at], out.shape[1])
    return out
