"""Prediction of pixels: against the published model's port, against loops, and with faults planted."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from model_specs import TINY, images, made, resolved

from vitbench.base.seeding import uniforms
from vitbench.data import DataOptions, facts
from vitbench.inspection.specimen import TINY as SPECIMEN
from vitbench.inspection.specimen import trainer_of
from vitbench.model import costs
from vitbench.model.build import build
from vitbench.model.objective import Arrays, MemberBatch, objective_of
from vitbench.model.palette import clusters, nearest
from vitbench.plan.resolve import resolve
from vitbench.spec import mechanism as registry
from vitbench.spec.trial import DataSpec, EvaluateSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.train import fitting
from vitbench.train.evaluate import probes
from vitbench.train.objectives.igpt import IgptBert
from vitbench.train.resident import Images, load_images

CPU = torch.device("cpu")
PIXELS: dict[str, Any] = {**TINY, "global_pool": "avg", "patch_size": 1, "stem": "pixel_tokens"}
CAUSAL: dict[str, Any] = {**PIXELS, "stem": "pixel_tokens(start=true)", "token_mixer": "causal"}
AR, BERT = ObjectiveSpec(name="igpt_ar"), ObjectiveSpec(name="igpt_bert")
MODEL = resolved(PIXELS)


def predictor(fields: dict[str, Any], objective: ObjectiveSpec = AR) -> Any:
    return made(resolved(fields), objective, noise=0.2)


def digits() -> Images:
    source = load_images(DataSpec(name="digits", img_size=8), DataOptions(), CPU)
    assert isinstance(source, Images)
    return source


def trial(objective: str, data: str, steps: int, **model: Any) -> TrialSpec:
    fields = {**SPECIMEN, "patch_size": 1, "embed_dim": 32, "global_pool": "avg", "pos_embed": "sincos_2d"}
    fields |= objective_of(ObjectiveSpec(name=objective)).required if objective != "classify" else {}
    train = TrainSpec(steps=steps, batch_size=32, lr=1e-2, augment="none", objective=ObjectiveSpec(name=objective))
    written = TrialSpec(model=ModelSpec(**{**fields, **model}), data=DataSpec(name=data, val_fraction=0.2), train=train)
    return resolve(written, facts(data, DataOptions()), {})


def test_it_is_the_published_model() -> None:
    """Logits of transformers' ImageGPT with copied weights, biases of zero and exact GELU; it has no row for SOS."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers", reason="transformers, the reference, is not installed")
    config = transformers.ImageGPTConfig(
        vocab_size=18, n_positions=64, n_embd=16, n_layer=2, n_head=2, n_inner=32, activation_function="gelu"
    )
    theirs = transformers.ImageGPTForCausalImageModeling(config).eval()
    ours = predictor({**CAUSAL, "block_norm": "rms", "norm_eps": 1e-5})
    with torch.no_grad():
        for name, weight in ours.named_parameters():
            if name.endswith(".bias"):
                weight.zero_()
    state = published_state(ours.state_dict())
    assert state.keys() == theirs.state_dict().keys()
    theirs.load_state_dict(state)
    colours = torch.randint(17, (3, 64), generator=torch.Generator().manual_seed(1))
    inputs = torch.cat([torch.full((3, 1), 17), colours[:, :-1]], dim=1)
    with torch.no_grad():
        expected, logits = theirs(input_ids=inputs).logits, ours.logits(colours)
    assert expected.shape == (3, 64, 17)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


def published_state(ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our weights under the names of transformers, whose layers hold theirs transposed; SOS is the last token."""
    out = {
        "transformer.wte.weight": torch.cat([ours["patch_embed.embed"], ours["patch_embed.start"][0]]),
        "transformer.wpe.weight": ours["pos_embed"][0],
        "transformer.ln_f.weight": ours["norm.weight"],
        "lm_head.weight": ours["pixel_head.weight"],
    }
    layers = {"attn.qkv": "attn.c_attn", "attn.proj": "attn.c_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for block in range(2):
        for number in (1, 2):
            out[f"transformer.h.{block}.ln_{number}.weight"] = ours[f"blocks.{block}.norm{number}.weight"]
        for name, other in layers.items():
            out[f"transformer.h.{block}.{other}.weight"] = ours[f"blocks.{block}.{name}.weight"].T
            out[f"transformer.h.{block}.{other}.bias"] = ours[f"blocks.{block}.{name}.bias"]
    return out


def leaks(fields: dict[str, Any]) -> bool:
    """True if a pixel's prediction depends on itself or on a later pixel."""
    module = made(ModelSpec(**fields, class_token=False), AR, noise=0.2)  # Unchecked: a planted leak is refused.
    colours = torch.randint(17, (1, 64), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = module.logits(colours)
        moved = []
        for pixel in (0, 5, 40, 62):
            changed = colours.clone()
            changed[0, pixel] = (changed[0, pixel] + 7) % 17
            moved.append((module.logits(changed) - before).abs().amax(-1)[0] > 1e-6)
    assert all(m[pixel + 1 :].any() for m, pixel in zip(moved, (0, 5, 40, 62), strict=True)), "later ones depend on it"
    return any(bool(m[: pixel + 1].any()) for m, pixel in zip(moved, (0, 5, 40, 62), strict=True))


@pytest.mark.parametrize("pos_embed", ["learned_1d", "relative_2d", "rope_2d"])
def test_no_pixel_sees_itself_or_a_later_one(pos_embed: str) -> None:
    assert not leaks({**CAUSAL, "num_heads": 2, "pos_embed": pos_embed})


def test_a_leak_is_caught() -> None:
    """Planted: attention to all tokens; no start token."""
    assert leaks({**CAUSAL, "token_mixer": "attention"})
    assert leaks({**CAUSAL, "stem": "pixel_tokens"})


def test_no_prediction_depends_on_hidden_pixels() -> None:
    module, hidden = predictor(PIXELS, BERT), drawn(IgptBert(), 4)
    colours = torch.randint(17, (4, 64), generator=torch.Generator().manual_seed(3))
    other = (colours + 5) % 17
    with torch.no_grad():
        before, after = module.logits(colours, hidden), module.logits(torch.where(hidden, other, colours), hidden)
        seen = module.logits(torch.where(hidden, colours, other), hidden)
    torch.testing.assert_close(before, after)
    assert not torch.allclose(before, seen)


def drawn(objective: IgptBert, count: int, seed: int = 0, first: int = 0, epoch: int = 0) -> torch.Tensor:
    index = np.arange(first, first + count)
    batch = MemberBatch(seed, index, np.full_like(index, epoch), np.zeros((count, 0)))
    return torch.from_numpy(objective.draw(MODEL, [batch], [])["hidden"][0])


def call_of(forward: Callable[..., torch.Tensor]) -> Any:
    return SimpleNamespace(model=MODEL, standardise=lambda unit: unit, forward=forward)


def loss_of(objective: IgptBert, nats: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss `[E]` of nats `[E, B, N, 2]`, and which pixels were hidden."""
    hidden = drawn(objective, nats.shape[1])
    unit = images(MODEL, nats.shape[1])[None]
    return objective.loss(call_of(lambda *inputs, train: nats), unit, {"hidden": hidden[None]}), hidden


class AllPixels(IgptBert):
    """Planted: the loss is over all pixels."""

    name: ClassVar[str] = "igpt_all_pixels"

    def loss(self, call: Any, unit: torch.Tensor, given: Any) -> torch.Tensor:
        return super().loss(call, unit, {"hidden": torch.ones_like(given["hidden"])})


class OtherStream(IgptBert):
    """Planted: the stream of the masks is the arm's own."""

    name: ClassVar[str] = "igpt_other_stream"

    def draw(self, model: ModelSpec, batches: Any, mixtures: Any) -> Arrays:
        return {"hidden": np.stack([uniforms(b.seed, self.text(), 0, b.index, 64) < 0.15 for b in batches])}


for _planted in (AllPixels, OtherStream):
    registry._REGISTRY.pop(("objective", _planted.name))


def seen_gradient(objective: IgptBert) -> float:
    """How much the predictions of pixels that the network sees change the loss."""
    nats = torch.rand(1, 6, 64, 2, generator=torch.Generator().manual_seed(4)).requires_grad_()
    loss, hidden = loss_of(objective, nats)
    (gradient,) = torch.autograd.grad(loss.sum(), nats)
    assert gradient[0, :, :, 0][hidden].min() > 0, "every hidden pixel counts"
    assert gradient[..., 1].abs().max() == 0, "the shares do not train"
    return float(gradient[0, :, :, 0][~hidden].abs().max())


def test_the_loss_is_over_hidden_pixels_only() -> None:
    assert seen_gradient(IgptBert()) == 0
    assert seen_gradient(AllPixels()) > 0


def test_the_loss_is_the_mean_over_images_of_each_ones_mean() -> None:
    """Against a loop in double precision."""
    nats = torch.rand(2, 6, 64, 2, generator=torch.Generator().manual_seed(5))
    loss, hidden = loss_of(IgptBert(), nats)
    for member in range(2):
        of_image = [nats[member, image, :, 0].double()[hidden[image]].mean() for image in range(6)]
        assert float(loss[member]) == pytest.approx(float(sum(of_image) / 6), rel=1e-6)
    assert len({int(row.sum()) for row in hidden}) > 1, "images hide different numbers of pixels"


def masks_are_paired(objective: type[IgptBert]) -> bool:
    """True if arms of one seed have nested masks, whatever else is in the batch."""
    few, many = objective(), objective(mask_ratio=0.5)
    return bool((drawn(few, 6) <= drawn(many, 6)).all()) and torch.equal(drawn(few, 1, first=3)[0], drawn(few, 6)[3])


def test_masks_are_functions_of_seed_epoch_and_image() -> None:
    assert masks_are_paired(IgptBert)
    assert not masks_are_paired(OtherStream)
    expected = uniforms(5, "mask", 2, np.arange(9), 64) < 0.15
    assert np.array_equal(drawn(IgptBert(), 9, seed=5, epoch=2).numpy(), expected)
    assert not torch.equal(drawn(IgptBert(), 9), drawn(IgptBert(), 9, epoch=1))
    assert abs(float(drawn(IgptBert(), 400).float().mean()) - 0.15) < 0.01
    assert drawn(IgptBert(mask_ratio=1e-6), 20).sum(1).tolist() == [1] * 20, "each image has a hidden pixel"


def test_digits_have_the_palette_of_their_own_levels() -> None:
    """17 levels in, 17 entries out, no two levels in one; the shares are the counts."""
    source = digits()
    fitted = fitting.fitted_tensors(resolved({**PIXELS, "num_classes": 10}), source)
    module: Any = build(resolved({**PIXELS, "num_classes": 10}), BERT)
    module.load_state_dict(fitted, strict=False)
    colours = module.patch_embed.colours(source.standardise(source.train.float() / 255))
    levels = (source.train.double() * 16 / 255).round().long().flatten(1)
    assert torch.equal(colours, levels)
    counts = torch.bincount(levels.flatten(), minlength=17).double() + 1
    torch.testing.assert_close(
        fitted["patch_embed.log_share"].double(), (counts / counts.sum()).log(), rtol=0, atol=1e-6
    )


def palette_moved(fit: Callable[[ModelSpec, Images], dict[str, torch.Tensor]], part: str) -> bool:
    """True if a palette depends on the images of one part of the set."""
    model = resolved({**PIXELS, "stem": "pixel_tokens(colours=5)", "num_classes": 10})
    source = digits()
    other = dataclasses.replace(source, **{part: 255 - getattr(source, part)})
    return not torch.equal(fit(model, source)["patch_embed.palette"], fit(model, other)["patch_embed.palette"])


def fitted_with_test(model: ModelSpec, source: Images) -> dict[str, torch.Tensor]:
    """Planted: the palette is fitted on the test images too."""
    pixels = torch.cat([source.train, source.test])
    labels = np.concatenate([source.train_labels, source.test_labels])
    return fitting.fitted_tensors(model, dataclasses.replace(source, train=pixels, train_labels=labels))


def test_a_palette_is_of_training_images_only() -> None:
    assert palette_moved(fitting.fitted_tensors, "train")
    assert not palette_moved(fitting.fitted_tensors, "test")
    assert palette_moved(fitted_with_test, "test")


def test_a_palette_is_as_good_as_scikit_learns() -> None:
    from sklearn.cluster import KMeans

    colours = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    palette = clusters(colours, 12)
    error = ((colours - palette[nearest(colours, palette)]) ** 2).sum()
    assert error < 1.03 * KMeans(12, n_init=3, random_state=0).fit(colours).inertia_
    assert np.array_equal(palette, clusters(colours, 12))
    assert (np.diff(palette.sum(1)) >= 0).all(), "from dark to light"


def test_few_colours_are_their_own_palette() -> None:
    colours = np.array([[0.5, 0, 0], [0, 0, 0], [0.5, 0, 0]], dtype=np.float32)
    assert clusters(colours, 4).tolist() == [[0, 0, 0], [0.5, 0, 0], [0.5, 0, 0], [0.5, 0, 0]]
    assert nearest(colours, clusters(colours, 4)).tolist() == [1, 0, 1]


def test_larger_patches_make_a_smaller_image() -> None:
    """The token of a patch is the entry nearest to its mean colour, row by row."""
    model = resolved({**PIXELS, "patch_size": 2, "stem": "pixel_tokens(colours=9)", "in_chans": 3, "img_size": (4, 8)})
    embedding, x = made(model, BERT, noise=0.1).patch_embed, images(model, 2)
    palette = torch.randn(9, 3, generator=torch.Generator().manual_seed(6))
    embedding.palette.copy_(palette)
    colours = embedding.colours(x)
    assert colours.shape == (2, 8)
    for place in range(8):
        y, column = 2 * (place // 4), 2 * (place % 4)
        mean = x[1, :, y : y + 2, column : column + 2].double().mean((1, 2))
        assert int(((palette.double() - mean) ** 2).sum(1).argmin()) == int(colours[1, place])
    assert torch.equal(embedding(x), embedding.embed[colours])


@pytest.mark.parametrize(("objective", "steps", "margin"), [("igpt_ar", 60, 0.1), ("igpt_bert", 100, 0.05)])
def test_it_learns(objective: str, steps: int, margin: float) -> None:
    """Bits per pixel of validation images are below those of the colours' shares by a margin.

    Three of four pixels of `fake` are noise, so there is little to learn.
    """
    trainer = trainer_of(trial(objective, "fake", steps), (0,))
    (untrained,) = trainer.measures()
    for step in range(steps):
        trainer.step(step)
    (measures,), ((percent, loss, finite),) = trainer.measures(), trainer.validate()
    trainer.feed.close()
    assert measures.keys() == {"bits_per_pixel", "unigram_bits_per_pixel"}
    assert untrained["bits_per_pixel"] == pytest.approx(math.log2(17), rel=1e-5), "a head of zeros"
    assert measures["unigram_bits_per_pixel"] == pytest.approx(untrained["unigram_bits_per_pixel"])
    assert measures["bits_per_pixel"] < measures["unigram_bits_per_pixel"] - margin
    assert (percent, finite) == (None, True)
    assert loss == pytest.approx(measures["bits_per_pixel"] * math.log(2), rel=1e-5)


def test_a_later_stage_reads_the_trunk() -> None:
    """A classifier has the trunk's tensors, start token and palette, and features of every layer can be probed."""
    generative, labels = trial("igpt_ar", "fake", 1), trial("classify", "fake", 1, **objective_of(AR).required)
    states = [{t.name for t in costs.parameters(s.model, s.train.objective)} for s in (generative, labels)]
    assert states[0] ^ states[1] == {"pixel_head.weight", "head.weight", "head.bias"}
    assert {"patch_embed.palette", "patch_embed.start"} <= states[0] & states[1]
    trainer = trainer_of(labels, (0,))
    module: Any = build(labels.model, labels.train.objective)
    module.load_state_dict(trainer.stack.state(0))
    spec = EvaluateSpec(probe_layers=True)
    percents = probes(module, trainer.images, trainer.used[0], spec, 0)
    trainer.feed.close()
    assert percents.keys() == {"linear_probe_layer_1_percent", "linear_probe_layer_2_percent"}
    assert all(25 < value <= 100 for value in percents.values()), "guessing is 25%"


@pytest.mark.parametrize(
    ("fields", "name", "message"),
    [
        (
            TINY,
            "igpt_ar",
            "train.objective.name: igpt_ar predicts pixels of a palette; set model.stem: pixel_tokens(st",
        ),
        (
            {**CAUSAL, "token_mixer": "attention"},
            "igpt_ar",
            "train.objective.name: igpt_ar predicts from all pixels be",
        ),
        ({**CAUSAL, "token_mixer": "window"}, "igpt_ar", "train.objective.name: igpt_ar predicts from all pixels befo"),
        (
            {**CAUSAL, "stem": "pixel_tokens"},
            "igpt_ar",
            "train.objective.name: igpt_ar: without another stem a token s",
        ),
        (
            CAUSAL,
            "igpt_bert",
            "train.objective.name: igpt_bert predicts from all pixels that are not hidden, and model.t",
        ),
        ({**PIXELS, "token_mixer": "mlp"}, "igpt_bert", "train.objective.name: igpt_bert predicts from all pixels tha"),
        (
            {**PIXELS, "stem": "pixel_tokens(start=true)"},
            "igpt_bert",
            "train.objective.name: igpt_bert: without anothe",
        ),
    ],
)
def test_what_the_objectives_refuse(fields: dict[str, Any], name: str, message: str) -> None:
    model = ModelSpec(**fields, class_token=False)
    problem, *others = objective_of(ObjectiveSpec(name=name)).problems(model)
    assert problem.startswith(message), problem
    assert "; set model.stem: pixel_tokens" in problem
    assert not others


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"in_chans": 3}, "model.stem: pixel_tokens has a palette for grey images, and these have 3 channels; set col"),
        ({"img_size": 224}, "model.patch_size: 1 makes 50,176 tokens of images of 224 px, and pixel_tokens has at mos"),
        (
            {"stem": "pixel_tokens(start=true)"},
            "model.stem: with start a token shows the pixel before its own, which only",
        ),
        ({"patch_size": 3}, "model.patch_size: 3 does not divide images of 8 px; 1, 2, 4, 8 do"),
        ({"token_mixer": "causal", "global_pool": "token"}, "model.token_mixer: causal has no place for a class token"),
        ({"token_mixer": "causal", "reg_tokens": 1}, "model.reg_tokens: causal has no place for register tokens; set"),
    ],
)
def test_what_the_parts_refuse(fields: dict[str, Any], message: str) -> None:
    model = ModelSpec(**{**PIXELS, **fields}, class_token="token" in fields.values())
    (problem,) = costs.check(model)
    assert problem.startswith(message), problem


def test_the_limit_says_what_fits() -> None:
    (problem,) = costs.check(ModelSpec(**{**PIXELS, "img_size": 224}, class_token=False))
    assert problem.endswith("set 7 or more, or a smaller data.img_size")
    assert costs.check(ModelSpec(**{**PIXELS, "img_size": 224, "patch_size": 7}, class_token=False)) == []
