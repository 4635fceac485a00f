"""Contrast of images and captions: against transformers' CLIP with copied weights, with faults planted."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_specs import TINY, images, made, resolved

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts
from vitbench.data.captions import captions as captions_of
from vitbench.data.captions import meaning, turned, with_inverse_relation
from vitbench.engines.options import why_not_halve
from vitbench.engines.trial_result import final_answers
from vitbench.inspection.specimen import spec_with, trained
from vitbench.model.costs import forward_flops, train_flops
from vitbench.model.image_text import LARGEST_SCALE
from vitbench.model.parameters import parameters
from vitbench.plan.resolve import resolve
from vitbench.plan.trial_id import trial_id
from vitbench.spec import mechanism as registry
from vitbench.spec.mechanism import MechanismError
from vitbench.spec.metrics import measured, metric_named
from vitbench.spec.trial import DataSpec, EvaluateSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.train.losses import image_text_logits, image_text_loss
from vitbench.train.objectives.contrastive import Contrastive

NAME = ObjectiveSpec(name="contrastive")


def words(count: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    axis, side, place = (draw.integers(0, 2, count) for _ in range(3))
    first, second = ((draw.integers(0, 2, count), draw.integers(0, 10, count)) for _ in range(2))
    return captions_of(2 * axis + place, first, 2 * axis + side, second)


def test_it_is_the_published_model() -> None:
    """Logits of transformers' CLIP from a config, with copied weights; its norm before the blocks is taken out."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers", reason="transformers, the reference, is not installed")
    model = resolved(TINY, img_size=32, patch_size=8, in_chans=3, embed_dim=64, num_heads=4, mlp_ratio=4.0)
    shared = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_hidden_layers": 2}
    config = transformers.CLIPConfig(
        vision_config={
            **shared, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "image_size": 32,
            "patch_size": 8,
        },
        text_config={
            **shared, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 128, "vocab_size": 23,
            "max_position_embeddings": 8, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 2,
        },
        projection_dim=32,
    )  # fmt: skip
    theirs = transformers.CLIPModel(config).eval()
    vision = getattr(theirs.vision_model, "vision_model", theirs.vision_model)
    vision.pre_layrnorm = torch.nn.Identity()
    ours: Any = made(model, NAME, noise=0.05)
    ours.patch_embed.proj.bias.data.zero_()
    theirs.load_state_dict(published_state(ours, theirs.state_dict()))
    x, text = images(model, 3), torch.from_numpy(words(3))
    with torch.no_grad():
        expected = theirs(input_ids=text, pixel_values=x).logits_per_image
        logits = image_text_logits(ours(x, text[:, None])[None])[0]
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


def published_state(ours: Any, theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our weights under the names of transformers 5."""
    state, vision, text = ours.state_dict(), "vision_model", "text_model"
    out = {
        "logit_scale": state["logit_scale"][0],
        "visual_projection.weight": state["image_proj.weight"],
        "text_projection.weight": state["text.proj.weight"],
        f"{vision}.embeddings.class_embedding": state["cls_token"][0, 0],
        f"{vision}.embeddings.patch_embedding.weight": state["patch_embed.proj.weight"],
        f"{vision}.embeddings.position_embedding.weight": state["pos_embed"][0],
        f"{text}.embeddings.token_embedding.weight": state["text.embed"],
        f"{text}.embeddings.position_embedding.weight": state["text.pos_embed"][0],
    }
    norms = {"norm": f"{vision}.post_layernorm", "text.norm": f"{text}.final_layer_norm"}
    inside = {"norm1": "layer_norm1", "norm2": "layer_norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for kind in ("weight", "bias"):
        out |= {f"{other}.{kind}": state[f"{name}.{kind}"] for name, other in norms.items()}
        for blocks, tower in (("blocks", vision), ("text.blocks", text)):
            for layer in range(2):
                for name, other in {**inside, "attn.proj": "self_attn.out_proj"}.items():
                    out[f"{tower}.encoder.layers.{layer}.{other}.{kind}"] = state[f"{blocks}.{layer}.{name}.{kind}"]
                thirds = state[f"{blocks}.{layer}.attn.qkv.{kind}"].chunk(3)
                for name, third in zip("qkv", thirds, strict=True):
                    out[f"{tower}.encoder.layers.{layer}.self_attn.{name}_proj.{kind}"] = third
    out |= {name: tensor for name, tensor in theirs.items() if name.endswith("position_ids")}
    assert out.keys() == theirs.keys(), out.keys() ^ theirs.keys()
    return out


def reference_loss(logits: torch.Tensor) -> torch.Tensor:
    """Figure 3 of the paper."""
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def test_the_loss_is_the_papers_where_no_caption_repeats() -> None:
    logits = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0)) * 3
    losses = image_text_loss(logits, torch.eye(6, dtype=torch.bool).expand(2, 6, 6))
    torch.testing.assert_close(losses, torch.stack([reference_loss(each) for each in logits]))


def test_captions_of_one_meaning_are_all_right() -> None:
    """Two images of one meaning, and logits that find it: nothing is left but the choice between the two."""
    text = np.array([0, 3, 8, 20, 9, 7, 16, 1])
    text = np.stack([text, turned(text), with_inverse_relation(text)])
    meanings = torch.from_numpy(meaning(text))[None]
    positive = meanings.unsqueeze(2) == meanings.unsqueeze(1)
    assert positive[0].tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    loss = image_text_loss(100.0 * positive, positive)
    assert float(loss) == pytest.approx(2 * math.log(2) / 3, abs=1e-4)
    diagonal = torch.eye(3, dtype=torch.bool)[None]
    assert float(image_text_loss(10.0 * diagonal, positive)) > 3, "the copy as a negative is a planted fault"


def test_words_see_only_those_before_them() -> None:
    model = resolved(TINY)
    text = torch.from_numpy(words(2))
    other = text.clone()
    other[:, 5] = (other[:, 5] - 7 + 1) % 2 + 7
    for mixer, is_equal in (("causal", True), ("attention", False)):
        module: Any = made(model, ObjectiveSpec(name=f'contrastive(text_mixer="{mixer}")'), noise=0.1).text
        kept: list[torch.Tensor] = []
        module.norm.register_forward_hook(lambda _, inputs, __, kept=kept: kept.append(inputs[0]))
        with torch.no_grad():
            module(text), module(other)
        assert torch.equal(kept[0][:, :5], kept[1][:, :5]) == is_equal
        assert not torch.equal(kept[0][:, 5:], kept[1][:, 5:])


def test_the_temperature_is_learned_clamped_and_not_decayed() -> None:
    model = resolved(TINY)
    (scale,) = (tensor for tensor in parameters(model, NAME) if tensor.name == "logit_scale")
    assert not scale.decays
    assert {t.name for t in parameters(model, NAME) if "embed" in t.name and t.decays} == {"patch_embed.proj.weight"}
    module: Any = made(model, NAME, noise=0.0)
    x, text = images(model, 2), torch.from_numpy(words(2))[:, None]
    norm = float(module(x, text)[:, 0].norm(dim=-1).mean().detach())
    assert norm == pytest.approx(1 / 0.07, rel=1e-5)
    module.logit_scale.data.fill_(9.0)
    assert float(module(x, text)[:, 0].norm(dim=-1).mean().detach()) == pytest.approx(100, rel=1e-5)
    assert pytest.approx(100) == math.exp(LARGEST_SCALE)
    before, after = (trained_scale(steps) for steps in (0, 1))
    assert before != after


def trained_scale(steps: int) -> float:
    from vitbench.inspection.specimen import trainer_of

    trainer = trainer_of(spec_with("objective", "contrastive"), (0,))
    for step in range(steps):
        trainer.step(step)
    trainer.feed.close()
    return float(trainer.stack.state(0)["logit_scale"])


def test_flops_are_those_of_both_encoders() -> None:
    """The words' part in closed form: V D L + blocks + a projection, with all pairs of words."""
    model = resolved(TINY)
    width, length = 32, 8
    block = length * (4 * width**2 + 2 * width * 4 * width) + 2 * length**2 * width
    text = 23 * width * length + 2 * block + width * 32
    image = forward_flops(model, ObjectiveSpec()) - 2 * model.embed_dim * model.num_classes  # type: ignore[operator]
    assert forward_flops(model, NAME) == image + 2 * (model.embed_dim * 32 + text)  # type: ignore[operator]
    assert train_flops(model, NAME, 10) == 30 * forward_flops(model, NAME)


def scene_answers(count: int, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    text = words(count, seed)
    vectors = np.random.default_rng(1).normal(size=(count, 4, 16))
    return vectors, {"captions": text, "held_out": np.arange(count) % 2 == 0}


def test_scores_are_full_for_right_vectors_and_chance_for_random_ones() -> None:
    objective = Contrastive()
    vectors, columns = scene_answers(400)
    chance = objective.scores(vectors, columns)
    assert max(chance["retrieval_recall1_percent"], chance["zero_shot_recall1_percent"]) < 3
    assert chance["relation_accuracy_percent"] == pytest.approx(50, abs=12)
    assert chance["sized_relation_accuracy_percent"] == pytest.approx(50, abs=12)
    assert chance["class_accuracy_percent"] == pytest.approx(50, abs=8)
    codes = np.random.default_rng(2).normal(size=(400, 4, 64))
    _, first = np.unique(meaning(columns["captions"]), return_index=True)
    assert len(first) < 400, "some captions repeat"
    for i, code in enumerate(meaning(columns["captions"])):
        codes[i, :2] = np.random.default_rng(code % 2**31).normal(size=64)
    assert set(objective.scores(codes, columns).values()) == {100.0}
    only_seen = codes.copy()
    only_seen[columns["held_out"], 0] *= -1
    scores = objective.scores(only_seen, columns)
    assert scores["retrieval_recall1_percent"] == 100
    assert scores["zero_shot_recall1_percent"] == 0


def test_a_trained_stack_is_scored_on_the_test_images() -> None:
    trainer = trained(spec_with("objective", "contrastive"), (0, 1))
    answers = final_answers(trainer, [])
    assert answers.last is None
    for of_member in answers.measured:
        assert of_member.keys() == set(Contrastive.scores_named)
    assert answers.measured[0] != answers.measured[1]
    assert all(metric_named(name).source == "test" for name in Contrastive.scores_named)
    spec = trainer.spec
    unread = spec.model_copy(update={"evaluate": EvaluateSpec(test=False)})
    assert "zero_shot_recall1_percent" in measured(spec, False, scores=Contrastive.scores_named)
    assert "zero_shot_recall1_percent" not in measured(unread, False, scores=Contrastive.scores_named)
    assert trial_id(spec, 0, "x", None) != trial_id(unread, 0, "x", None)


def written(data: dict[str, Any], text: str = "contrastive", **train: Any) -> TrialSpec:
    fields = {"steps": 3, "augment": "none", "objective": ObjectiveSpec(name=text), **train}
    model = ModelSpec(patch_size=8, **{key: TINY[key] for key in ("family", "embed_dim", "depth", "num_heads")})
    return TrialSpec(
        model=model.model_copy(update={"mlp_ratio": 2.0}), data=DataSpec(**data), train=TrainSpec(**fields)
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (written({"name": "digits"}), "reads captions, held_out; digits has no such column"),
        (written({"name": "scenes"}, augment="light"), "train.augment: light moves the pixels, and captions, held_out"),
        (written({"name": "scenes", "img_size": 64}), "data.img_size: 64 x 64 px, and captions, held_out are for"),
        (written({"name": "scenes"}, "contrastive(vocab_size=22)"), "vocab_size: 22 words and 8 per caption; scenes"),
        (written({"name": "scenes"}, "contrastive(text_num_heads=3)"), "text_embed_dim: 32 must be divisible by"),
        (written({"name": "scenes"}, grad_accum=2), "train.grad_accum: contrastive compares the images of a batch"),
    ],
)
def test_what_it_refuses(spec: TrialSpec, message: str) -> None:
    with pytest.raises(InputError) as error:
        resolve(spec, facts(spec.data.name, DataOptions()))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_word_encoder_with_windows_is_refused() -> None:
    with pytest.raises(MechanismError, match="text_mixer: input should be 'causal' or 'attention', not 'window'"):
        registry.canonical("objective", {"name": "contrastive", "text_mixer": "window"})


def test_a_batch_of_captions_is_not_cut() -> None:
    assert why_not_halve(spec_with("objective", "contrastive")) == "the objective compares the images of a micro-batch"
