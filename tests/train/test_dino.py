"""Self-distillation: against the paper's formula and lightly's loss, with faults planted, and collapsing on demand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_specs import TINY, images, made, resolved

from vitbench.base.seeding import uniforms
from vitbench.engines.memory import activation_bytes
from vitbench.inspection.specimen import spec_with, trainer_of
from vitbench.model.costs import forward_flops, train_flops
from vitbench.model.objective import Call, Given, MemberBatch, rising_momentum
from vitbench.spec import mechanism as registry
from vitbench.spec.trial import ObjectiveSpec
from vitbench.train.crops import crop_boxes, zoomed
from vitbench.train.losses import dino_loss
from vitbench.train.objectives.dino import Dino
from vitbench.train.trainer import Trainer

SMALL = "dino(bottleneck_dim=8, hidden_dim=16, out_dim=12)"
MODEL = resolved(TINY, pos_embed="sincos_2d")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def published_loss(
    student: np.ndarray, teacher: np.ndarray, centre: np.ndarray, temps: tuple[float, float]
) -> tuple[float, float]:
    """The mean over pairs of different views, in double precision, image by image; and the teacher's entropy."""

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max())
        return np.asarray(e / e.sum())

    losses, entropies = [], []
    for i in range(len(teacher)):
        for b in range(teacher.shape[1]):
            p = softmax((teacher[i, b] - centre) / temps[1])
            entropies.append(-(p * np.log(p)).sum())
            losses += [-(p * np.log(softmax(student[j, b] / temps[0]))).sum() for j in range(len(student)) if j != i]
    return float(np.mean(losses)), float(np.mean(entropies))


@pytest.mark.parametrize("num_views", [2, 5])
def test_the_loss_is_the_papers(num_views: int) -> None:
    student, teacher, centre = random(2, num_views, 4, 9), random(2, 2, 4, 9, seed=1), random(2, 9, seed=2)
    loss, entropy = dino_loss(student, teacher, centre, 0.1, 0.5)
    for e in range(2):
        arrays = (x[e].double().numpy() for x in (student, teacher, centre))
        expected = published_loss(*arrays, (0.1, 0.5))
        assert (float(loss[e]), float(entropy[e])) == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_lightlys() -> None:
    """lightly 1.6.0: lists of views, the teacher's two first."""
    lightly = pytest.importorskip("lightly.loss", reason="lightly, the reference, is not installed")
    theirs = lightly.DINOLoss(
        output_dim=64, warmup_teacher_temp=0.04, teacher_temp=0.04, warmup_teacher_temp_epochs=0, student_temp=0.1
    )
    student, teacher = random(1, 4, 8, 64), random(1, 2, 8, 64, seed=1)
    theirs.center.copy_(random(1, 1, 64, seed=2))
    centre = theirs.center.flatten()[None].clone()
    expected = theirs(list(teacher[0]), list(student[0]), epoch=0)
    loss, _ = dino_loss(student, teacher, centre, 0.1, 0.04)
    torch.testing.assert_close(loss[0], expected, rtol=1e-5, atol=1e-5)


class EarlyCentre(Dino):
    """Planted: the centre moves before the loss uses it."""

    name: ClassVar[str] = "dino_early_centre"

    def loss(self, call: Call, unit: torch.Tensor, given: Given) -> torch.Tensor:
        super().loss(call, unit, given)
        self.after_step(call)
        return super().loss(call, unit, given)


class LiveTeacher(Dino):
    """Planted: the student's own answers are the target, with their gradient."""

    name: ClassVar[str] = "dino_live_teacher"

    def _answers(self, call: Any, views: Any, given: Given, *, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        student, _ = super()._answers(call, views, given, train=train)
        return student, student[:, :2]


class SameViews(Dino):
    """Planted: pairs of the same crop count."""

    name: ClassVar[str] = "dino_same_views"

    def _answers(self, call: Any, views: Any, given: Given, *, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
        student, teacher = super()._answers(call, views, given, train=train)
        return student.flip(1), teacher


for _planted in (EarlyCentre, LiveTeacher, SameViews):
    registry._REGISTRY.pop(("objective", _planted.name))


def trainer_with(planted: type[Dino] | None = None) -> Trainer:
    """A tiny trainer of two seeds with centred state, its objective replaced by a planted one."""
    trainer = trainer_of(spec_with("objective", SMALL), (0, 1))
    trainer.networks.state["centre"].copy_(random(2, 12, seed=5))
    trainer.networks.averages["teacher"].add_(random(*trainer.stack.flat.shape, seed=6), alpha=0.05)
    if planted is not None:
        trainer.objective = planted(**trainer.objective.model_dump())
    return trainer


def given_of(trainer: Trainer) -> Given:
    (batches, pixels, draws), *_ = trainer.feed.raw(0)
    trainer.feed.close()
    return {"pixels": pixels, "draws": draws, **trainer._drawn(batches), **trainer.networks.scheduled(2)}


def faults(planted: type[Dino] | None) -> set[str]:
    """What differs from a reference that computes every crop alone, with the centre of before."""
    trainer = trainer_with(planted)
    given, centre = given_of(trainer), trainer.networks.state["centre"].clone()
    losses = trainer._losses(given)
    views = [trainer._view(given, number) for number in range(6)]
    sizes = [(8, 8)] * 2 + [(4, 4)] * 4
    crops = [
        trainer.images.standardise(zoomed(view, given["boxes"][:, :, n], size))
        for n, (view, size) in enumerate(zip(views, sizes, strict=True))
    ]
    moving = torch.ones(2)
    with torch.no_grad():
        student = [trainer.stack.forward(crop, moving) for crop in crops]
        teacher = [trainer.networks.outputs("teacher", crop, moving) for crop in crops[:2]]
    differing = set()
    for e in range(2):
        arrays = (torch.stack(logits)[:, e].double().numpy() for logits in (student, teacher))
        expected, _ = published_loss(*arrays, centre[e].double().numpy(), (0.1, float(given["teacher_temp"])))
        if losses[e].item() != pytest.approx(expected, rel=1e-4):
            differing.add("loss")
    _, target = trainer.objective._answers(trainer.calls, views, given, train=True)
    return differing | ({"gradient"} if target.requires_grad else set())


@pytest.mark.parametrize(
    ("planted", "caught"),
    [(None, set()), (EarlyCentre, {"loss"}), (LiveTeacher, {"loss", "gradient"}), (SameViews, {"loss"})],
)
def test_a_step_is_the_papers_and_planted_faults_are_caught(planted: type[Dino] | None, caught: set[str]) -> None:
    assert faults(planted) == caught


def test_the_centre_follows_the_teachers_mean() -> None:
    """Against a loop in double precision over three steps, for two members."""
    trainer = trainer_of(spec_with("objective", SMALL), (0, 1))
    centre = np.zeros((2, 12))
    for step in range(3):
        given = {**given_of(trainer), **trainer.networks.scheduled(step)}
        (batches, pixels, draws), *_ = trainer.feed.raw(step)
        given |= {"pixels": pixels, "draws": draws, **trainer._drawn(batches)}
        trainer.calls.given = given
        views = [trainer._view(given, number) for number in range(6)]
        _, teacher = trainer.objective._answers(trainer.calls, views, given, train=True)  # type: ignore[attr-defined]
        centre = 0.9 * centre + 0.1 * teacher.detach().double().mean((1, 2)).numpy()
        trainer.step(step)
    assert np.allclose(trainer.networks.state["centre"].numpy(), centre, atol=1e-6)
    assert not trainer.networks.state["batch_mean"].any()


def test_momentum_is_stated_for_a_thousandth_of_the_steps() -> None:
    for num_steps in (100, 1000, 5000):
        lag = num_steps // 100 or 1
        kept = math.prod(rising_momentum(0.98, step, num_steps) for step in range(lag))
        assert kept == pytest.approx(0.98 ** (1000 * lag / num_steps), rel=1e-2), "the same share of the training"
        assert rising_momentum(0.98, num_steps, num_steps) == pytest.approx(1.0)
    assert {rising_momentum(0.0, step, 50) for step in range(50)} == {0.0}


def test_the_last_layer_moves_after_a_hundredth_of_the_steps() -> None:
    schedules = Dino().schedules(500)
    assert [sum(value == 0 for value in schedules["moving"]), schedules["moving"][5]] == [5, 1.0]
    temps = schedules["teacher_temp"]
    assert (temps[0], temps[150], temps[-1]) == pytest.approx((0.04, 0.07, 0.07))
    module: Any = made(MODEL, ObjectiveSpec(name=SMALL), noise=0.1)
    x = images(MODEL, 2)
    for moving in (0.0, 1.0):
        module.zero_grad()
        module(x, torch.tensor(moving)).sum().backward()
        assert bool(module.dino_head.last.weight.grad.any()) == (moving == 1.0)
        assert module.dino_head.fc3.weight.grad.any()
    torch.testing.assert_close(module(x, torch.tensor(0.0)), module(x))


def test_outputs_are_cosines() -> None:
    module: Any = made(MODEL, ObjectiveSpec(name=SMALL), noise=0.3)
    with torch.no_grad():
        before = module(images(MODEL, 4))
        module.dino_head.last.weight.mul_(7.0)
        torch.testing.assert_close(module(images(MODEL, 4)), before)
    assert before.abs().max() <= 1


def test_small_crops_have_interpolated_positions() -> None:
    """Those of torch's interpolation; the class token keeps its own, and whole images theirs."""
    model = resolved(TINY, reg_tokens=1)
    module: Any = made(model, ObjectiveSpec(name=SMALL), noise=0.3)
    positions = module.positions(0, torch.device("cpu"))
    ours = module._interpolated(positions)
    grid = positions[:, 2:].view(1, 4, 4, 16).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(2, 2), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours, torch.cat([positions[:, :2], expected], dim=1))
    assert module(images(model, 2)[..., :4, :4]).shape == (2, 12)
    ours.sum().backward()
    assert module.pos_embed.grad.abs().min() > 0, "learned positions learn from small crops"


def test_crops_belong_to_seed_view_epoch_and_image() -> None:
    index, epoch = np.array([3, 9, 4]), np.array([0, 0, 1])
    boxes = crop_boxes(MemberBatch(7, index, epoch, np.zeros((3, 0))), 2, 0.1, 0.4)
    for row in range(3):
        alone = MemberBatch(7, index[row : row + 1], epoch[row : row + 1], np.zeros((1, 0)))
        assert np.array_equal(crop_boxes(alone, 2, 0.1, 0.4)[0], boxes[row])
        assert not np.array_equal(crop_boxes(alone, 3, 0.1, 0.4)[0], boxes[row])
    many = np.arange(500)
    left, top, right, bottom = crop_boxes(MemberBatch(0, many, 0 * many, np.zeros((500, 0))), 0, 0.1, 0.4).T
    area = (right - left) * (bottom - top)
    assert min(left.min(), top.min()) >= 0
    assert max(right.max(), bottom.max()) <= 1 + 1e-6
    assert 0.099 < area.min() < 0.15
    assert 0.35 < area.max() < 0.401
    assert np.corrcoef(area, uniforms(0, "crop/0", 0, many, 4)[:, 2])[0, 1] > 0.99


def test_a_zoomed_crop_is_the_resized_box() -> None:
    x = torch.rand(1, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = torch.tensor([[[0.0, 0.0, 1.0, 1.0]] * 2])
    torch.testing.assert_close(zoomed(x, whole, (8, 8)), x)
    expected = F.interpolate(x[0], size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(zoomed(x, whole, (16, 16))[0], expected)
    quarter = torch.tensor([[[0.5, 0.0, 1.0, 0.5]] * 2])
    torch.testing.assert_close(zoomed(x, quarter, (4, 4)), x[..., :4, 4:])


def test_flops_count_every_crop_and_the_teacher() -> None:
    objective = ObjectiveSpec(name=SMALL)
    whole = forward_flops(MODEL, objective)
    small = forward_flops(MODEL.model_copy(update={"img_size": (4, 4)}), objective)
    assert small < whole / 2
    assert train_flops(MODEL, objective, 10) == 10 * (3 * (2 * whole + 4 * small) + 2 * whole)
    alone = ObjectiveSpec(name="dino(bottleneck_dim=8, hidden_dim=16, local_crops=0, out_dim=12)")
    assert train_flops(MODEL, alone, 1) == 8 * whole


@pytest.mark.parametrize(
    ("fields", "text", "message"),
    [
        ({"pos_embed": "rope_2d"}, "dino", "model.pos_embed: rope_2d needs every patch of the grid"),
        ({"stem": "conv", "patch_size": 4}, "dino", "train.objective.local_crops: small crops need patches; 0, or"),
        ({}, "dino(local_crops_scale=0.5)", "train.objective.local_crops_scale: 0.5 is above global_crops_scale, 0.4"),
    ],
)
def test_what_it_refuses(fields: dict[str, Any], text: str, message: str) -> None:
    objective = registry.mechanism("objective", text)
    (problem,) = objective.problems(resolved({**TINY, **fields}))
    assert problem.startswith(message)
    alone = objective.model_copy(update={"local_crops": 0})
    assert alone.problems(resolved({**TINY, **fields})) == []


def test_memory_counts_every_crop() -> None:
    bytes_of = {n: activation_bytes(spec_with("objective", f"dino(local_crops={n})")) for n in (0, 4)}
    assert activation_bytes(spec_with("objective", None)) * 1.9 < bytes_of[0] < bytes_of[4]


def test_the_teacher_is_what_is_kept() -> None:
    trainer = trainer_with()
    assert trainer.evaluated is trainer.networks.averages["teacher"]
    still = SimpleNamespace(objective=SimpleNamespace(kept="student"), average=None, stack=trainer.stack)
    assert Trainer.evaluated.fget(still) is trainer.stack.flat  # type: ignore[attr-defined]
    trainer.feed.close()


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [("", "alive"), (", momentum=0.0, centre_momentum=1.0", "one answer"), (", teacher_temp=1.0", "equal answers")],
)
def test_a_collapse_is_recorded(fields: str, outcome: str) -> None:
    """Without centring all images have one answer, without sharpening all answers are equally probable; with both the
    teacher tells images apart. Thirty steps on the fake images."""
    temps = ", warmup_teacher_temp=1.0" if "teacher_temp" in fields else ""
    spec = spec_with("objective", f"dino(local_crops=0, out_dim=32{fields}{temps})")
    train = spec.train.model_copy(update={"steps": 30, "lr": 4e-3, "batch_size": 32})
    trainer = trainer_of(spec.model_copy(update={"train": train}), (0,))
    for step in range(30):
        trainer.step(step)
    (measured,) = trainer.measures()
    trainer.feed.close()
    entropy, divergence = measured["teacher_entropy_nats"], measured["teacher_kl_nats"]
    if outcome == "alive":
        assert 1.0 < entropy < math.log(32) - 0.05
        assert divergence > 0.1
    else:
        assert divergence < 0.01
        assert entropy == pytest.approx(0.0 if outcome == "one answer" else math.log(32), abs=0.01)
