"""Words and patches in one encoder: against transformers' ViLT and exact transport, with faults planted."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from model_specs import TINY, images, made, resolved
from scipy.optimize import linear_sum_assignment

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts
from vitbench.data.captions import END, FIRST_CLASS, MASK, OBJECT_SIZE, RELATION, START, SUBJECT_SIZE
from vitbench.data.captions import captions as captions_of
from vitbench.engines.trial_result import final_answers
from vitbench.inspection.specimen import spec_with, trained
from vitbench.model.costs import forward_flops, train_flops
from vitbench.model.fused_text import parts
from vitbench.model.objective import MemberBatch
from vitbench.model.parameters import parameters
from vitbench.plan.resolve import resolve
from vitbench.spec.metrics import metric_named
from vitbench.spec.trial import DataSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.train.losses import hidden_cross_entropy
from vitbench.train.objectives.vilt import Vilt
from vitbench.train.transport import cosine_cost, transport_cost, transport_plan

NAME = ObjectiveSpec(name="vilt")
MODEL = resolved(TINY)


def words(count: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    axis, side, place = (draw.integers(0, 2, count) for _ in range(3))
    first, second = ((draw.integers(0, 2, count), draw.integers(0, 10, count)) for _ in range(2))
    return captions_of(2 * axis + place, first, 2 * axis + side, second)


def test_it_is_the_published_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens, pooled vector and words of transformers' ViLT from a config, with copied weights.

    Its patches come in a random order at every call, even if all are taken; here its draw gives them in order.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers", reason="transformers, the reference, is not installed")
    monkeypatch.setattr(torch, "multinomial", lambda weights, count, **_: torch.arange(int(count)))
    config = transformers.ViltConfig(
        vocab_size=23, hidden_size=16, num_hidden_layers=2, num_attention_heads=MODEL.num_heads, intermediate_size=32,
        image_size=8, patch_size=2, num_channels=1, max_position_embeddings=8, max_image_length=-1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, layer_norm_eps=1e-6, tie_word_embeddings=False,
    )  # fmt: skip
    theirs = transformers.ViltForMaskedLM(config).eval()
    decoder = theirs.mlm_score.decoder  # Tied to the words whatever the config says (transformers 5.24).
    decoder.weight = torch.nn.Parameter(decoder.weight.detach().clone())
    ours: Any = made(MODEL, NAME, noise=0.2)
    theirs.load_state_dict(published_state(ours, theirs.state_dict()))
    x, text = images(MODEL, 3), torch.from_numpy(words(3))
    asked = {"input_ids": text, "attention_mask": torch.ones_like(text), "pixel_values": x}
    with torch.no_grad():
        expected = theirs.vilt(**asked, pixel_mask=torch.ones(3, 8, 8))
        logits = theirs(**asked, pixel_mask=torch.ones(3, 8, 8)).logits
        tokens, said = ours.fused(x, text), parts(ours(x, text), 8, 23, 16)
        pooled = torch.tanh(ours.pooler(tokens[:, 0]))
    torch.testing.assert_close(tokens, expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pooled, expected.pooler_output, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(said.words, logits[:, :8], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(said.match, ours.match_head(pooled))
    torch.testing.assert_close(said.text, tokens[:, :8])
    torch.testing.assert_close(said.patches, tokens[:, 9:])
    assert logits.std() > 0.1


def published_state(ours: Any, theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our weights under the names of transformers 5; BERT's segment, which we lack, is zero."""
    state, inner = ours.state_dict(), "vilt.embeddings"
    out = {
        f"{inner}.cls_token": state["cls_token"],
        f"{inner}.position_embeddings": state["pos_embed"],
        f"{inner}.text_embeddings.word_embeddings.weight": state["text.embed"],
        f"{inner}.text_embeddings.position_embeddings.weight": state["text.pos_embed"][0],
        f"{inner}.text_embeddings.token_type_embeddings.weight": torch.zeros(2, 16),
        f"{inner}.token_type_embeddings.weight": state["modality_embed"],
    }
    names = {
        "text.norm": f"{inner}.text_embeddings.LayerNorm", "patch_embed.proj": f"{inner}.patch_embeddings.projection",
        "norm": "vilt.layernorm", "pooler": "vilt.pooler.dense", "word_head.transform": "mlm_score.transform.dense",
        "word_head.norm": "mlm_score.transform.LayerNorm", "word_head.decoder": "mlm_score.decoder",
    }  # fmt: skip
    inside = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense",
              "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}  # fmt: skip
    for kind in ("weight", "bias"):
        out |= {f"{other}.{kind}": state[f"{name}.{kind}"] for name, other in names.items()}
        for layer in range(2):
            block = f"vilt.encoder.layer.{layer}"
            out |= {f"{block}.{other}.{kind}": state[f"blocks.{layer}.{name}.{kind}"] for name, other in inside.items()}
            thirds = state[f"blocks.{layer}.attn.qkv.{kind}"].chunk(3)
            for name, third in zip(("query", "key", "value"), thirds, strict=True):
                out[f"{block}.attention.attention.{name}.{kind}"] = third
    assert out.keys() == theirs.keys(), out.keys() ^ theirs.keys()
    return out


def tokens(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(4, count, 16, generator=torch.Generator().manual_seed(seed)) + shift


def test_the_transport_is_nearly_the_cheapest() -> None:
    """Against the exact cost: a linear assignment, as words and patches are equally many; never cheaper."""
    for shift, tolerance in ((0.0, 0.01), (1.0, 0.05)):
        rows, columns = tokens(12, 0, shift), tokens(12, 1, shift)
        cost = cosine_cost(rows, columns)
        for ours, one in zip(transport_cost(rows, columns), cost.double().numpy(), strict=True):
            least = one[linear_sum_assignment(one)].mean()
            assert least - 1e-6 <= float(ours) <= least * (1 + tolerance)
            assert float(one.mean()) > least * (1 + 2 * tolerance), "spreading evenly is a planted fault"


def test_the_transport_is_that_of_pot() -> None:
    ot = pytest.importorskip("ot", reason="POT, the reference, is not installed")
    rows, columns = tokens(6, 0), tokens(16, 1)
    cost = cosine_cost(rows, columns).double().numpy()
    exact = [ot.emd2(np.full(6, 1 / 6), np.full(16, 1 / 16), one) for one in cost]
    np.testing.assert_allclose(transport_cost(rows, columns).numpy(), exact, rtol=5e-3)


def test_a_plan_moves_everything_and_gradients_reach_the_tokens() -> None:
    rows, columns = tokens(6, 0).requires_grad_(), tokens(16, 1)
    plan = transport_plan(cosine_cost(rows, columns).detach())
    torch.testing.assert_close(plan.sum(-1), torch.full((4, 6), 1 / 6))
    torch.testing.assert_close(plan.sum(-2), torch.full((4, 16), 1 / 16), rtol=0.01, atol=0.0)
    (of_cost,) = torch.autograd.grad((cosine_cost(rows, columns) * plan).sum(), rows)
    (ours,) = torch.autograd.grad(transport_cost(rows, columns).sum(), rows)
    torch.testing.assert_close(ours, of_cost)


def batch(count: int, epoch: int = 0, start: int = 0, seed: int = 0) -> MemberBatch:
    index = np.arange(start, start + count)
    columns = {"captions": words(10_000)[index]}
    return MemberBatch(seed, index, np.full(count, epoch), np.zeros((count, 0)), columns=columns)


def drawn(objective: Vilt, batch: MemberBatch) -> dict[str, np.ndarray]:
    return {name: array[0] for name, array in objective.draw(MODEL, [batch], []).items()}


def test_words_are_hidden_as_in_bert() -> None:
    """15% of six words, and one at least; of these 80% a mask, 10% any word, 10% as they were."""
    arrays = drawn(Vilt(), batch(10_000))
    hidden, shown, text = arrays["is_hidden"], arrays["hidden"], arrays["captions"]
    assert not hidden[:, [0, -1]].any()
    assert hidden.any(axis=1).all()
    at_least_one = (6 * 0.15 + 0.85**6) / 6
    assert hidden[:, 1:-1].mean() == pytest.approx(at_least_one, abs=0.01)
    assert np.array_equal(shown[~hidden], text[~hidden])
    assert (shown[hidden] == MASK).mean() == pytest.approx(0.8, abs=0.01)
    kept = (shown[hidden] == text[hidden]).mean()
    assert kept == pytest.approx(0.1 + 0.1 / 20, abs=0.01)
    assert not np.isin(shown[:, 1:-1], (START, END)).any()


def test_draws_are_functions_of_seed_epoch_and_index() -> None:
    whole, part = drawn(Vilt(), batch(64)), drawn(Vilt(), batch(16, start=16))
    assert np.array_equal(whole["hidden"][16:32], part["hidden"])
    for other in (batch(64, epoch=1), batch(64, seed=1)):
        assert not np.array_equal(whole["hidden"], drawn(Vilt(), other)["hidden"])


@pytest.mark.parametrize("negatives", ["others", "relation"])
def test_half_of_the_pairs_match(negatives: Any) -> None:
    arrays = drawn(Vilt(negatives=negatives), batch(4_000))
    text, pair, match = arrays["captions"], arrays["pair"], arrays["match"] == 1
    assert match.mean() == pytest.approx(0.5, abs=0.03)
    assert np.array_equal(pair[match & (pair == text).all(1)], text[match & (pair == text).all(1)])
    differs = pair[~match] != text[~match]
    if negatives == "relation":
        assert set(np.flatnonzero(differs.any(axis=0))) == {RELATION}
        assert (differs.sum(axis=1) == 1).all()
    else:
        assert np.array_equal(pair[~match], np.roll(text, 1, axis=0)[~match])


def test_an_equally_true_caption_matches() -> None:
    text = words(1).repeat(2, axis=0)
    pairs = MemberBatch(0, np.arange(64), np.zeros(64), np.zeros((64, 0)), columns={"captions": text[[0] * 64]})
    assert drawn(Vilt(), pairs)["match"].all(), "a copy as a negative is a planted fault"
    assert not drawn(Vilt(negatives="relation"), pairs)["match"].all()


def test_only_hidden_words_count() -> None:
    logits = torch.randn(1, 3, 8, 23, generator=torch.Generator().manual_seed(0))
    text, hidden = torch.from_numpy(words(3))[None], torch.zeros(1, 3, 8, dtype=torch.bool)
    hidden[0, 0, 2] = hidden[0, 2, 5] = True
    each = torch.nn.functional.cross_entropy(logits[0].flatten(0, 1), text[0].flatten(), reduction="none").view(3, 8)
    torch.testing.assert_close(hidden_cross_entropy(logits, text, hidden)[0], (each[0, 2] + each[2, 5]) / 2)


def test_flops_are_those_of_words_and_patches_in_two_passes() -> None:
    width, tokens, length = 16, 8 + 1 + 16, 8
    block = tokens * (4 * width**2 + 2 * width * 2 * width) + 2 * tokens**2 * width
    heads = width**2 + 2 * width + length * (width**2 + 23 * width)
    macs = 16 * 4 * width + 23 * width * length + 2 * block + heads
    assert forward_flops(MODEL, NAME) == 2 * macs
    assert train_flops(MODEL, NAME, 10) == 10 * 2 * 3 * 2 * macs


def test_embeddings_are_not_decayed() -> None:
    decayed = {tensor.name for tensor in parameters(MODEL, NAME) if tensor.decays and "blocks" not in tensor.name}
    heads = {"pooler.weight", "match_head.weight", "word_head.transform.weight", "word_head.decoder.weight"}
    assert decayed == {"patch_embed.proj.weight", *heads}


def test_scores_are_full_for_right_answers_and_chance_for_random_ones() -> None:
    text = words(2_000)
    columns = {"captions": text, "held_out": np.arange(2_000) % 2 == 0}
    right = np.tile(np.array([1.0, -1.0, -1.0] + [1.0] * 6), (2_000, 1))
    assert set(Vilt().scores(right, columns).values()) == {100.0}
    random = np.random.default_rng(0).normal(size=(2_000, 9))
    for name in Vilt.scores_named[:4]:
        assert Vilt().scores(random, columns)[name] == pytest.approx(50, abs=5)
    other_sizes = text[:, SUBJECT_SIZE] != text[:, OBJECT_SIZE]
    right[other_sizes, :2] = (-1, 1)
    assert Vilt().scores(right, columns)["relation_accuracy_percent"] == 100, "sizes would tell the relation"
    assert Vilt().scores(right, columns)["sized_relation_accuracy_percent"] == 0
    right[columns["held_out"], 3:] = 0
    assert Vilt().scores(right, columns)["masked_word_accuracy_percent"] == 100, "held-out combinations mislead words"
    assert all(metric_named(name).source == "test" for name in Vilt.scores_named)


def test_a_blind_network_sees_no_image() -> None:
    """All its answers depend on the captions alone; a network that sees differs."""
    for text, is_equal in (("vilt", False), ("vilt(blind=true)", True)):
        trainer = trained(spec_with("objective", text), (0,))
        ((unit, given, _),) = list(trainer._still(np.stack([trainer.used[0].val[:8]])))
        with torch.no_grad():
            answers = [trainer.objective.answers(trainer.calls, x, given) for x in (unit, unit.flip(1))]
        assert torch.equal(answers[0], answers[1]) == is_equal


def test_a_trained_stack_is_scored_on_the_test_images() -> None:
    answers = final_answers(trained(spec_with("objective", "vilt"), (0, 1)), [])
    assert answers.last is None
    for of_member in answers.measured:
        assert of_member.keys() == set(Vilt.scores_named)
    assert answers.measured[0] != answers.measured[1]


def written(data: str, text: str = "vilt", model: dict[str, Any] | None = None, **train: Any) -> TrialSpec:
    fields = {"steps": 3, "augment": "none", "objective": ObjectiveSpec(name=text), **train}
    base = {"family": "vit", "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, "patch_size": 8}
    return TrialSpec(model=ModelSpec(**{**base, **(model or {})}), data=DataSpec(name=data), train=TrainSpec(**fields))


WINDOWS = {"token_mixer": "window(window_size=2)", "global_pool": "avg"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (written("digits", model={"patch_size": 2}), "reads captions, held_out; digits has no such column"),
        (written("scenes", "vilt(vocab_size=22)"), "vocab_size: 22 words and 8 per caption; scenes has 23 and 8"),
        (written("scenes", model=WINDOWS), "needs every patch of the grid, and the blocks see words too"),
        (written("scenes", model={"pos_embed": "rope_2d"}), "needs every patch of the grid, and the blocks see words"),
        (written("scenes", augment="light"), "train.augment: light moves the pixels, and captions, held_out"),
        (written("scenes", grad_accum=2), "train.grad_accum: vilt compares the images of a batch"),
    ],
)
def test_what_it_refuses(spec: TrialSpec, message: str) -> None:
    with pytest.raises(InputError) as error:
        resolve(spec, facts(spec.data.name, DataOptions()))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_class_words_are_the_last_of_the_vocabulary() -> None:
    assert Vilt().vocab_size == FIRST_CLASS + 10
