"""Diffusion: paired draws, a fixed table in evaluation, sampling against diffusers, and with faults planted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts
from vitbench.engines.trial_result import final_answers
from vitbench.inspection import contract
from vitbench.inspection.specimen import case_of, spec_with, trainer_of
from vitbench.model import costs
from vitbench.model.conditioning import CONDITIONINGS
from vitbench.model.objective import Arrays, Call, Given, MemberBatch, objective_of
from vitbench.model.sizes import known, pixel_grid
from vitbench.plan.resolve import resolve
from vitbench.spec.trial import DataSpec, EvaluateSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.train.diffusion import NUM_TIMESTEPS, guided, linear_error, noisy, normals, sample, signal_shares
from vitbench.train.loop import train_stack
from vitbench.train.objectives.diffuse import TABLE_ROWS, Diffuse

SPEC = spec_with("objective", "diffuse", "avg")
MODEL = SPEC.model
NO_CLASS = known(MODEL.num_classes)
NUM_STEPS = 120
Check = Callable[[Diffuse], bool]


def text(way: str) -> str:
    return ObjectiveSpec(name={"name": "diffuse", "conditioning": way}).name  # type: ignore[arg-type]


def drawn(objective: Diffuse, index: np.ndarray, *, epoch: int = 0, seed: int = 0) -> Arrays:
    batch = MemberBatch(seed, index, np.full(len(index), epoch), np.zeros((len(index), 0)))
    return {name: values[0] for name, values in objective.draw(MODEL, [batch], []).items()}


# ------------------------------------------------------------------ draws
def draws_are_paired(objective: Diffuse) -> bool:
    """True if an image's draws depend on neither its batch nor the conditioning, and differ between epochs."""
    together, other = drawn(objective, np.arange(8)), drawn(Diffuse(conditioning="adaln"), np.arange(8))
    alone, later = drawn(objective, np.array([5])), drawn(objective, np.arange(8), epoch=1)
    same = all(np.array_equal(together[name], other[name]) for name in together)
    whole = all(np.array_equal(alone[name][0], together[name][5]) for name in alone)
    return same and whole and not np.array_equal(together["noise"], later["noise"])


def evaluation_drops_no_class(objective: Diffuse) -> bool:
    return bool((drawn(objective, np.arange(300), epoch=-1)["label"] == -1).all())


def evaluation_is_one_table(objective: Diffuse) -> bool:
    """True if every seed has the same rows, and every image one time step in each quarter."""
    tables = [drawn(objective, np.arange(40), epoch=-1, seed=seed) for seed in (0, 1)]
    quarters = tables[0]["timestep"].reshape(-1, TABLE_ROWS) * TABLE_ROWS // NUM_TIMESTEPS
    same = all(np.array_equal(tables[0][name], tables[1][name]) for name in tables[0])
    return same and bool((quarters == np.arange(TABLE_ROWS)).all())


class DropsInEvaluation(Diffuse):
    def _drawn(self, model: ModelSpec, batch: MemberBatch) -> Arrays:
        arrays = super()._drawn(model, batch)
        dropped = np.arange(len(arrays["label"])) % 10 == 0
        return {**arrays, "label": np.where(dropped, NO_CLASS, arrays["label"])}


class DrawsByBatch(Diffuse):
    def _drawn(self, model: ModelSpec, batch: MemberBatch) -> Arrays:
        noise = np.random.default_rng(batch.seed).standard_normal(super()._drawn(model, batch)["noise"].shape)
        return {**super()._drawn(model, batch), "noise": noise.astype(np.float32)}


class TableBySeed(Diffuse):
    def _drawn(self, model: ModelSpec, batch: MemberBatch) -> Arrays:
        arrays = super()._drawn(model, batch)
        return {**arrays, "noise": (-1) ** batch.seed * arrays["noise"]}


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        (draws_are_paired, DrawsByBatch),
        (evaluation_drops_no_class, DropsInEvaluation),
        (evaluation_is_one_table, TableBySeed),
    ],
)
def test_draws(check: Check, broken: type[Diffuse]) -> None:
    assert check(Diffuse())
    assert not check(broken())


def test_draws_have_the_stated_distributions() -> None:
    arrays = drawn(Diffuse(), np.arange(4000))
    noise = arrays["noise"].reshape(4000, -1)
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert np.abs(np.corrcoef(noise.T) - np.eye(noise.shape[1])).max() < 0.08
    assert abs((np.abs(noise) > 1.959964).mean() - 0.05) < 0.003
    assert abs((arrays["label"] == NO_CLASS).mean() - 0.1) < 0.02
    assert abs(arrays["timestep"].mean() / (NUM_TIMESTEPS - 1) - 0.5) < 0.02
    assert arrays["timestep"].min() >= 0
    assert arrays["timestep"].max() < NUM_TIMESTEPS


# ------------------------------------------------------------------ the loss
class RecordedCall:
    """A call whose network predicts zero; its inputs are kept."""

    def __init__(self, labels: torch.Tensor) -> None:
        self._labels, self.inputs, self.roles = labels, list[torch.Tensor](), list[str]()

    def labels(self, index: torch.Tensor) -> torch.Tensor:
        return self._labels

    def forward(self, *inputs: torch.Tensor, train: bool) -> torch.Tensor:
        self.inputs, self.roles = list(inputs), [*self.roles, "trained"]
        return torch.zeros_like(inputs[0])

    def outputs_of(self, role: str, *inputs: torch.Tensor) -> torch.Tensor:
        self.inputs, self.roles = list(inputs), [*self.roles, role]
        return torch.zeros_like(inputs[0])


def given_of(objective: Diffuse, epoch: int) -> Given:
    arrays = drawn(objective, np.arange(16), epoch=epoch)
    return {name: torch.from_numpy(values)[None] for name, values in arrays.items()}


def noise_is_that_of_the_input(objective: Diffuse) -> bool:
    """True if the noise that the loss compares with is the one that the network's images hold."""
    given, call = given_of(objective, 0), RecordedCall(torch.zeros(1, 16, dtype=torch.int64))
    unit = torch.rand(given["noise"].shape)
    loss = objective.loss(cast(Call, call), unit, given)
    images, timestep, _ = call.inputs
    share = signal_shares()[timestep].view(1, 16, 1, 1, 1)
    held = (images - share.sqrt() * (2 * unit - 1)) / (1 - share).sqrt()
    return torch.allclose(loss, held.square().mean((1, 2, 3, 4)), atol=1e-3)


class OtherNoise(Diffuse):
    def _noisy(
        self, call: Call, unit: torch.Tensor, given: Given, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return super()._noisy(call, unit, {**given, "noise": 2 * given["noise"].roll(1, dims=1)}, labels)


def the_average_is_evaluated(objective: Diffuse) -> bool:
    """True if training runs the trained network, and evaluation its average."""
    call: Any = RecordedCall(torch.zeros(1, 16, dtype=torch.int64))
    given = given_of(objective, 0)
    unit = torch.rand(given["noise"].shape)
    objective.loss(call, unit, given)
    objective.validation(call, unit, given_of(objective, -1))
    objective.answers(call, unit, {**given_of(objective, -1), "test_labels": torch.zeros(1, 16, dtype=torch.int64)})
    return call.roles == ["trained", "average", "average"]


class TrainedEvaluated(Diffuse):
    def validation(self, call: Call, unit: torch.Tensor, given: Given) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.loss(call, unit, given), None


@pytest.mark.parametrize(
    ("check", "broken"), [(noise_is_that_of_the_input, OtherNoise), (the_average_is_evaluated, TrainedEvaluated)]
)
def test_the_loss(check: Check, broken: type[Diffuse]) -> None:
    assert check(Diffuse())
    assert not check(broken())


def test_classes_reach_the_network() -> None:
    labels = torch.arange(16)[None] % NO_CLASS
    call: Any = RecordedCall(labels)
    given, objective = given_of(Diffuse(), 0), Diffuse()
    unit = torch.rand(given["noise"].shape)
    objective.loss(call, unit, given)
    dropped = given["label"] == NO_CLASS
    assert torch.equal(call.inputs[2], torch.where(dropped, NO_CLASS, labels))
    objective.answers(call, unit, {**given_of(objective, -1), "test_labels": labels})
    assert torch.equal(call.inputs[2], labels.repeat_interleave(TABLE_ROWS, dim=1))


def test_the_average_forgets_its_start_by_the_share_of_the_training() -> None:
    for num_steps in (50, 2000):
        kept = np.prod([Diffuse().momentum_at("average", step, num_steps) for step in range(num_steps // 10)])
        assert kept == pytest.approx(0.96**100)


# ------------------------------------------------------------------ the network
@pytest.mark.parametrize("way", CONDITIONINGS)
def test_the_first_prediction_is_zero_and_the_first_loss_that_of_the_noise(way: str) -> None:
    trainer = trainer_of(spec_with("objective", text(way), "avg"), (0,))
    (batches, pixels, draws), *_ = trainer.feed.raw(0)
    given = {"pixels": pixels, "draws": draws, **trainer._drawn(batches)}
    loss = float(trainer._losses(given).detach())
    trainer.feed.close()
    assert loss == float(given["noise"].square().flatten(1).mean(1))
    assert loss == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("way", [way for way in CONDITIONINGS if way != "adaln_zero"])
def test_tensors_costs_and_stacks_of_each_conditioning(way: str) -> None:
    """The contract's own test has the default."""
    case = case_of("objective", text(way))
    checks = (contract._state, contract._decay, contract._costs, contract._step_costs, contract._training)
    assert [line for check in checks for line in check(case)] == []


def test_blocks_start_as_identity_with_adaln_zero_only() -> None:
    for way in ("adaln_zero", "adaln"):
        trainer = trainer_of(spec_with("objective", text(way), "avg"), (0,))
        state, module = trainer.stack.state(0), trainer.stack.module
        trainer.feed.close()
        module.to_empty(device="cpu").load_state_dict(state)
        images = torch.randn(2, known(MODEL.in_chans), *pixel_grid(MODEL))
        with torch.no_grad():
            entered = module.placed_tokens(module.patch_embed(images))  # type: ignore[operator]
            assert torch.equal(module.forward_features(images), entered) == (way == "adaln_zero")  # type: ignore[operator]


# ------------------------------------------------------------------ schedule and sampling
def test_the_schedule_is_the_sources() -> None:
    shares = signal_shares().double()
    assert shares[0] == pytest.approx(1 - 1e-4)
    assert shares[-1] == pytest.approx(4.0358e-5, rel=1e-3)
    images, noise = torch.full((1, 1, 1, 2, 2), 0.5), torch.full((1, 1, 1, 2, 2), 2.0)
    expected = 0.5 * shares[300].sqrt() + 2 * (1 - shares[300]).sqrt()
    assert float(noisy(images, noise, torch.tensor([[300]]))[0, 0, 0, 0, 0]) == pytest.approx(float(expected))


def best_prediction(variance: float) -> Any:
    """The best prediction of the noise in pixels of this variance."""

    def predict(images: torch.Tensor, timestep: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        share = signal_shares()[timestep].view(-1, 1, 1, 1)
        return (1 - share).sqrt() * images / (share * variance + 1 - share)

    return predict


def test_sampling_carries_noise_to_the_images_distribution() -> None:
    """For normal pixels the exact solution stretches the noise to their deviation."""
    noise = torch.from_numpy(normals(0, "sample", 0, np.arange(64), 4)).view(64, 1, 2, 2)
    images = sample(best_prediction(0.01), noise, torch.zeros(64, dtype=torch.int64), 1000)
    torch.testing.assert_close(images, 0.1 * noise, rtol=0.02, atol=1e-3)


def test_sampling_is_diffusers_ddim() -> None:
    scheduler = pytest.importorskip("diffusers").DDIMScheduler(clip_sample=True, beta_end=0.02, beta_schedule="linear")
    scheduler.set_timesteps(1000)
    noise, label = (
        torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)),
        torch.zeros(3, dtype=torch.int64),
    )
    expected, predict = noise, best_prediction(0.3)
    for step in scheduler.timesteps:
        eps = predict(expected, step.expand(3), label)
        expected = scheduler.step(eps, step, expected, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(sample(predict, noise, label, 1000), expected, rtol=0, atol=1e-4)


def test_guidance_moves_away_from_no_class() -> None:
    def predict(images: torch.Tensor, timestep: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return torch.where(label == 7, 1.0, 3.0).view(-1, 1, 1, 1).expand_as(images)

    images, label = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    assert guided(predict, 3.0, 7)(images, label, label).unique().item() == 1 + 3 * (3 - 1)
    assert guided(predict, 1.0, 7)(images, label, label).unique().item() == 3


def test_the_best_linear_predictions_error() -> None:
    """By the covariance of the error, written out; pixels without structure give the share of the signal."""
    images = torch.randn(50, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.2])
    covariance, eye = torch.cov(images.flatten(1).double().T, correction=0), torch.eye(4, dtype=torch.float64)
    errors = [
        (eye - (1 - share) * torch.linalg.inv(share * covariance + (1 - share) * eye)).trace() / 4
        for share in signal_shares().double()
    ]
    assert linear_error(images) == pytest.approx(float(torch.stack(errors).mean()))


# ------------------------------------------------------------------ training and measuring
def spec(objective: dict[str, Any], **train: Any) -> TrialSpec:
    model = ModelSpec(patch_size=2, embed_dim=32, depth=2, num_heads=2, global_pool="avg", pos_embed="sincos_2d")
    settings = {"steps": NUM_STEPS, "batch_size": 32, "lr": 8e-3, "weight_decay": 0.0, "augment": "none", **train}
    written = TrialSpec(
        model=model, data=DataSpec(name="fake", val_fraction=0.2),
        train=TrainSpec(objective=ObjectiveSpec(name={"name": "diffuse", **objective}), **settings),
    )  # fmt: skip
    classifier = spec_with("objective", None)
    return resolve(written, facts("fake", DataOptions()), {"classifier": classifier})


def test_it_learns() -> None:
    """Its test error is below 0.3; that of predicting no noise is 1, and that of the best linear prediction 0.143.

    On these images and in so few steps it does not reach the latter; on digits it does (docs/RECIPE.md).
    """
    trainer = trainer_of(spec({}), (0,))
    for step in range(NUM_STEPS):
        trainer.step(step)
    trainer.feed.close()
    images = next(iter(trainer.images.read("train", trainer.used[0].train[None], 10_000)))[0]
    assert linear_error(2 * images - 1) == pytest.approx(0.143, abs=5e-3)
    (numbers,) = trainer.scores()
    assert numbers["test_noise_mse"] < 0.3


def test_samples_are_judged_and_counted() -> None:
    chosen = spec({"samples_per_class": 2, "sample_steps": 3}, steps=2)
    objective = objective_of(chosen.train.objective)
    assert objective.frozen_roles == ("classifier",)
    trainers = [trainer_of(chosen, seeds) for seeds in ((0,), (0, 1))]
    with FlopCounterMode(display=False) as counter:
        (alone,) = trainers[0].measures()
    stacked, scores = trainers[1].measures()[0], trainers[1].scores()
    for trainer in trainers:
        trainer.feed.close()
    assert set(alone) == {*objective.made_metrics}
    assert [set(each) for each in scores] == [{"test_noise_mse"}] * 2
    assert {name: stacked[name] for name in objective.made_metrics} == pytest.approx(
        {name: alone[name] for name in objective.made_metrics}, abs=5
    )
    forward = costs.forward_flops(chosen.model, chosen.train.objective)
    assert alone["sampling_flops"] == 3 * 3 * 2 * NO_CLASS * forward
    judged = 2 * 2 * NO_CLASS * costs.forward_flops(spec_with("objective", None).model, ObjectiveSpec())
    assert counter.get_total_flops() == alone["sampling_flops"] + judged


def test_test_images_can_stay_unread() -> None:
    one = SPEC.model_copy(update={"evaluate": EvaluateSpec(test=False)})
    assert resolve(one, facts("fake", DataOptions())).evaluate == one.evaluate
    trainer = trainer_of(one, (0,))
    trained = train_stack(trainer, lambda step, speed, loss: None)
    assert final_answers(trainer, trained).measured == [{}]


REFUSED = [
    ({"token_mixer": "window"}, "model.token_mixer: diffuse needs attention of every token"),
    ({"global_pool": "token"}, "model.global_pool: diffuse has no place for token; set avg"),
    ({"class_token": True}, "model.class_token: diffuse reads no class token"),
    ({"pos_embed": "rope_2d"}, "model.pos_embed: diffuse adds positions"),
    ({"pos_embed": "none"}, "model.pos_embed: diffuse adds positions"),
    ({"reg_tokens": 2}, "model.reg_tokens: diffuse has no place for 2; set 0"),
    ({"without": "mlp"}, "model.without: diffuse has no place for mlp; set null"),
    ({"layer_scale": 0.1}, "model.layer_scale: diffuse has no place"),
    ({"stem": "conv"}, "train.objective.name: diffuse needs patches that do not overlap"),
    ({"family": "resnet", "layers": (1, 1), "width_factor": 0.25}, "diffuse needs patches"),
]


@pytest.mark.parametrize(("fields", "line"), REFUSED)
def test_models_that_do_not_fit_are_refused_in_one_line(fields: dict[str, Any], line: str) -> None:
    model = {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2, "global_pool": "avg", **fields}
    model = {"pos_embed": "sincos_2d", **model}
    train = TrainSpec(steps=3, objective=ObjectiveSpec(name="diffuse"))
    with pytest.raises(InputError) as refused:
        resolve(
            TrialSpec(model=ModelSpec(**model), data=DataSpec(name="fake"), train=train), facts("fake", DataOptions())
        )
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_samples_need_a_classifier() -> None:
    train = TrainSpec(steps=3, objective=ObjectiveSpec(name="diffuse(samples_per_class=2)"))
    model = ModelSpec(name="Mu/2", global_pool="avg", pos_embed="sincos_2d")
    written = TrialSpec(model=model, data=DataSpec(name="fake"), train=train)
    with pytest.raises(InputError, match=r"needs another network \(classifier\).*uses: \{classifier: STAGE\}"):
        resolve(written, facts("fake", DataOptions()))
    other = spec_with("objective", "mae")
    objective = objective_of(train.objective)
    assert objective.network_problems(written, {"classifier": other}) == [
        "uses.classifier: mae predicts no classes, which diffuse needs"
    ]
