"""Masked autoencoding: against the published model's port, against loops, and with faults planted."""

from __future__ import annotations

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
from vitbench.inspection.specimen import spec_with, trainer_of
from vitbench.model.costs import forward_flops
from vitbench.model.objective import Arrays, MemberBatch
from vitbench.model.sizes import Grid, transformer
from vitbench.plan.resolve import resolve
from vitbench.plan.trial_id import trial_id
from vitbench.spec import mechanism as registry
from vitbench.spec.trial import DataSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.train import losses
from vitbench.train.objectives.mae import MaskedAutoencoding, distances, ranks

MODEL = resolved(TINY, in_chans=3, pos_embed="sincos_2d")
DESIGNS = ["mae", "mae(mask_tokens_in_encoder=true)", 'mae(mask="block")', 'mae(target="pixels")']


def drawn(objective: MaskedAutoencoding, count: int, seed: int = 0, first: int = 0) -> torch.Tensor:
    index = np.arange(first, first + count)
    batch = MemberBatch(seed, index, np.zeros_like(index), np.zeros((count, 0)))
    return torch.from_numpy(objective.draw(MODEL, [batch], [])["rank"][0])


def call_of(forward: Callable[..., torch.Tensor]) -> Any:
    return SimpleNamespace(model=MODEL, standardise=lambda unit: unit, forward=forward)


def visible_gradient(objective: MaskedAutoencoding) -> float:
    """How much the predictions for visible patches change the loss; 0 in a masked autoencoder."""
    unit, rank = images(MODEL, 4)[None], drawn(objective, 4)
    predicted = torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = objective.loss(call_of(lambda *inputs, train: predicted), unit, {"rank": rank[None]})
    (gradient,) = torch.autograd.grad(loss.sum(), predicted)
    hidden = rank[None] >= objective.num_visible(MODEL)
    assert gradient[hidden].abs().min() > 0, "every masked patch counts"
    return float(gradient[~hidden].abs().max())


def masks_are_paired(objective: type[MaskedAutoencoding]) -> bool:
    """True if arms of one seed have equal masks, whatever else is in the batch."""
    arms = [objective(), objective(mask_tokens_in_encoder=True), objective(target="pixels")]
    together = [drawn(arm, 6) for arm in arms]
    alone = drawn(arms[0], 1, first=3)
    return all(torch.equal(rank, together[0]) for rank in together) and torch.equal(alone[0], together[0][3])


class AllPatches(MaskedAutoencoding):
    """Planted: the loss is over all patches."""

    name: ClassVar[str] = "mae_all_patches"

    def loss(self, call: Any, unit: torch.Tensor, given: Any) -> torch.Tensor:
        return super().loss(call, unit, {"rank": torch.full_like(given["rank"], 99)})


class OtherMask(MaskedAutoencoding):
    """Planted: the loss is over other patches than those that the encoder does not see."""

    name: ClassVar[str] = "mae_other_mask"

    def loss(self, call: Any, unit: torch.Tensor, given: Any) -> torch.Tensor:
        return super().loss(call, unit, {"rank": given["rank"].flip(-1)})


class OtherStream(MaskedAutoencoding):
    """Planted: the stream of the masks is the arm's own."""

    name: ClassVar[str] = "mae_other_stream"

    def draw(self, model: ModelSpec, batches: Any, mixtures: Any) -> Arrays:
        return {"rank": np.stack([ranks(uniforms(b.seed, self.text(), 0, b.index, 16)) for b in batches])}


for _planted in (AllPatches, OtherMask, OtherStream):
    registry._REGISTRY.pop(("objective", _planted.name))


def test_the_loss_is_over_masked_patches() -> None:
    assert visible_gradient(MaskedAutoencoding()) == 0
    assert visible_gradient(AllPatches()) > 0


def test_the_loss_and_the_encoder_have_one_mask() -> None:
    with pytest.raises(AssertionError, match="every masked patch counts"):
        visible_gradient(OtherMask())


def test_arms_of_one_seed_have_equal_masks() -> None:
    assert masks_are_paired(MaskedAutoencoding)
    assert not masks_are_paired(OtherStream)
    index = np.array([0, 1, 2])
    expected = ranks(uniforms(5, "mask", 0, index, 16))
    assert np.array_equal(drawn(MaskedAutoencoding(), 3, seed=5).numpy(), expected)


@pytest.mark.parametrize("text", DESIGNS)
def test_no_prediction_depends_on_masked_pixels(text: str) -> None:
    module: Any = made(MODEL, ObjectiveSpec(name=text), noise=0.2)
    objective = registry.mechanism("objective", text)
    x, rank = images(MODEL, 2), drawn(objective, 2)
    hidden = (rank >= objective.num_visible(MODEL)).view(2, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad():
        before, after = module(x, rank), module(torch.where(hidden, 9.0, x), rank)
        seen = module(torch.where(hidden, x, 9.0), rank)
    torch.testing.assert_close(before, after)
    assert not torch.allclose(before, seen)


@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.75, 0.99])
@pytest.mark.parametrize("mask", ["random", "block"])
def test_every_image_has_the_same_number_of_masked_patches(mask: str, ratio: float) -> None:
    objective = MaskedAutoencoding(mask=mask, mask_ratio=ratio)
    rank = drawn(objective, 32)
    assert (rank.sort(1).values == torch.arange(16)).all(), "ranks are a permutation"
    assert 16 - objective.num_visible(MODEL) == min(15, round(16 * ratio))


def test_a_block_is_one_block() -> None:
    """Most neighbours of a masked patch are masked, more than with masks anywhere; its place is any."""
    shares, places = {}, {}
    for mask in ("random", "block"):
        objective = MaskedAutoencoding(mask=mask, mask_ratio=0.4)
        hidden = (drawn(objective, 200) >= objective.num_visible(MODEL)).view(-1, 4, 4).float()
        pairs = (hidden[:, 1:] * hidden[:, :-1]).sum() + (hidden[:, :, 1:] * hidden[:, :, :-1]).sum()
        shares[mask], places[mask] = float(pairs / hidden.sum()), hidden.mean(0)
    assert shares["block"] > 1.5 * shares["random"]
    assert places["block"].min() > 0.15
    assert distances(np.full((1, 9), 0.5), Grid(3, 3)).argmin() == 4


def test_targets_are_normalised_in_each_patch() -> None:
    """Against a loop in double precision; a patch of one colour is 0."""
    unit = images(MODEL, 3).view(1, 3, 3, 8, 8).clone()
    unit[0, 0, :, :2, :2] = 0.7
    ours = losses.pixel_targets(unit, 2, normalised=True)
    raw = losses.pixel_targets(unit, 2, normalised=False)
    for image in range(3):
        for patch in range(16):
            y, x = 2 * (patch // 4), 2 * (patch % 4)
            values = unit[0, image, :, y : y + 2, x : x + 2].permute(1, 2, 0).double().flatten().numpy()
            assert np.array_equal(raw[0, image, patch].numpy(), values.astype(np.float32))
            expected = (values - values.mean()) / np.sqrt(values.var(ddof=1) + 1e-6)
            assert np.allclose(ours[0, image, patch].numpy(), expected, atol=1e-3)
    assert ours[0, 0, 0].abs().max() < 1e-3


def test_fewer_patches_cost_less() -> None:
    """The share of the encoder's FLOPs follows its tokens; with mask tokens it pays for all of them."""
    model = resolved(TINY, img_size=32, patch_size=2, pos_embed="sincos_2d", embed_dim=64, num_heads=4)
    cost = {text: forward_flops(model, ObjectiveSpec(name=text)) for text in ("classify", *DESIGNS[:2])}
    assert transformer(MaskedAutoencoding().encoded(model)).num_tokens == 65
    assert cost["mae"] < 0.5 * cost["mae(mask_tokens_in_encoder=true)"]
    assert cost["mae(mask_tokens_in_encoder=true)"] > cost["classify"]


def test_it_learns() -> None:
    """After 60 steps its error on validation images of digits is under three quarters of the error of the mean."""
    objective = ObjectiveSpec(name='mae(target="pixels")')
    written = TrialSpec(
        model=ModelSpec(**{**SPECIMEN, "embed_dim": 32, "pos_embed": "sincos_2d"}),
        data=DataSpec(name="digits"),
        train=TrainSpec(steps=60, batch_size=64, lr=6e-3, augment="none", objective=objective),
    )
    trainer = trainer_of(resolve(written, facts("digits", DataOptions()), {}), (0,))
    unit = next(iter(trainer.images.read("train", trainer.used[0].val[None], 512)))
    assert 0.8 < float(trainer.images.standardise(unit).square().mean()) < 1.2, "the error of the mean is about 1"
    for step in range(60):
        trainer.step(step)
    (percent, loss, finite), *_ = trainer.validate()
    trainer.feed.close()
    assert (percent, finite) == (None, True)
    assert loss is not None
    assert loss < 0.75


def test_the_decoder_is_plain_whatever_the_encoder_is() -> None:
    plain, odd = (
        resolved(TINY, **fields) for fields in ({}, {"without": "mlp", "layer_scale": 0.1, "qkv_bias": False})
    )
    decoders = [{n for n in made(m, ObjectiveSpec(name="mae")).state_dict() if "decoder" in n} for m in (plain, odd)]
    assert decoders[0] == decoders[1]
    assert "decoder_blocks.0.mlp.fc1.weight" in decoders[0]


def test_fields_are_part_of_the_name_and_of_the_id() -> None:
    spec = ObjectiveSpec(**{"name": "mae", "mask_ratio": 0.5, "target": "pixels"})
    assert spec == ObjectiveSpec(name='mae(mask_ratio=0.5, target="pixels")')
    ids = {trial_id(spec_with("objective", text), 0, "fake") for text in DESIGNS}
    assert len(ids) == len(DESIGNS)


@pytest.mark.parametrize(
    ("fields", "text", "message"),
    [
        ({"pos_embed": "rope_2d"}, "mae", "model.pos_embed: rope_2d needs every patch of the grid"),
        ({"token_mixer": "window", "global_pool": "avg"}, "mae", "model.token_mixer: window needs every"),
        ({"token_mixer": "mlp", "global_pool": "avg"}, "mae", "model.token_mixer: mlp needs every patch of the grid"),
        ({"pos_placement": "every_layer"}, "mae", "model.pos_placement: every_layer needs every patch of the grid"),
        ({}, "mae(decoder_embed_dim=30)", "train.objective.decoder_embed_dim: 30 must be divisible by 4 and by"),
        ({"patch_size": 1}, "mae", "train.objective.target: normalised_pixels needs patches of at least 2 values"),
        ({"stem": "conv", "patch_size": 4}, "mae", "train.objective.name: mae needs patches that do not overlap"),
    ],
)
def test_what_it_refuses(fields: dict[str, Any], text: str, message: str) -> None:
    objective = registry.mechanism("objective", text)
    (problem,) = objective.problems(resolved({**TINY, **fields}))
    assert problem.startswith(message)
    control = objective.model_copy(update={"mask_tokens_in_encoder": True})
    assert ("model." in problem) == (control.problems(resolved({**TINY, **fields})) == [])


def test_it_is_the_published_model() -> None:
    """Loss and predictions of transformers' ViTMAE, with copied weights and given noise."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers", reason="transformers, the reference, is not installed")
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    decoder = {f"decoder_{key}": value // 2 if key != "num_attention_heads" else 4 for key, value in sizes.items()}
    decoder["decoder_num_hidden_layers"] = 1
    config = transformers.ViTMAEConfig(
        **sizes, **decoder, image_size=32, patch_size=4, norm_pix_loss=True, layer_norm_eps=1e-6
    )
    theirs = transformers.ViTMAEForPreTraining(config).eval()
    model = resolved(
        TINY, img_size=32, patch_size=4, in_chans=3, embed_dim=64, num_heads=4, mlp_ratio=4.0, pos_embed="sincos_2d"
    )
    text = "mae(decoder_embed_dim=32, decoder_num_heads=4)"
    ours: Any = made(model, ObjectiveSpec(name=text), noise=0.05)
    theirs.load_state_dict(published_state(ours, theirs.state_dict()))
    x, noise = images(model, 3), torch.rand(3, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = theirs(pixel_values=x, noise=noise)
        rank = torch.from_numpy(ranks(noise.numpy()))
        predicted = ours(x, rank)
    loss = losses.masked_error(predicted[None], losses.pixel_targets(x[None], 4, normalised=True), (rank >= 16)[None])
    torch.testing.assert_close(predicted, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss[0], expected.loss, rtol=1e-5, atol=1e-5)
    assert loss[0] > 0.5


def published_state(ours: Any, theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our weights under the names of transformers 5, whose position tables are filled from our encodings."""
    state = ours.state_dict()
    out = {
        "vit.embeddings.position_embeddings": ours.positions(0, torch.device("cpu")),
        "vit.embeddings.cls_token": state["cls_token"],
        "vit.embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "vit.embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "decoder.mask_token": state["mask_token"],
        "decoder.decoder_pos_embed": ours.decoder_positions(torch.device("cpu")),
    }
    plain = {"norm": "vit.layernorm", "decoder_norm": "decoder.decoder_norm", "decoder_pred": "decoder.decoder_pred"}
    for name, other in {**plain, "decoder_embed": "decoder.decoder_embed"}.items():
        out |= {f"{other}.{kind}": state[f"{name}.{kind}"] for kind in ("weight", "bias")}
    inside = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
        "attn.proj": "attention.o_proj",
    }  # fmt: skip
    for blocks, layers, depth in (("blocks", "vit.layers", 2), ("decoder_blocks", "decoder.decoder_layers", 1)):
        for layer in range(depth):
            for kind in ("weight", "bias"):
                for name, other in inside.items():
                    out[f"{layers}.{layer}.{other}.{kind}"] = state[f"{blocks}.{layer}.{name}.{kind}"]
                thirds = state[f"{blocks}.{layer}.attn.qkv.{kind}"].chunk(3)
                for name, third in zip("qkv", thirds, strict=True):
                    out[f"{layers}.{layer}.attention.{name}_proj.{kind}"] = third
    assert out.keys() == theirs.keys(), out.keys() ^ theirs.keys()
    return out
