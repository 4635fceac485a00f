"""Detection: losses against torchvision's, average precision against pycocotools, with faults planted."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from model_specs import TINY, images, made, resolved
from torchvision.ops import batched_nms, generalized_box_iou_loss, sigmoid_focal_loss

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts
from vitbench.engines.trial_result import final_answers
from vitbench.inspection.specimen import spec_with, trained, trainer_of
from vitbench.model.costs import num_params
from vitbench.model.detection import cell_boxes, detection_loss, focal_loss, generalised_iou
from vitbench.plan.resolve import resolve
from vitbench.spec.trial import DataSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.train import average_precision as ap
from vitbench.train.average_precision import ALL, THRESHOLDS, Detections, average_precision, suppressed
from vitbench.train.objectives.detect import SMALL_AREA, Detect, cells_of

OBJECTIVE = ObjectiveSpec(name="detect", **{"width": 16})  # type: ignore[arg-type]
CLASSES, SIDE = 4, 32


def random_boxes(draw: np.random.Generator, num: int) -> np.ndarray:
    """Boxes `[num, 4]` on whole pixels."""
    corner = draw.integers(0, 24, (num, 2))
    return np.concatenate([corner, np.minimum(corner + draw.integers(1, 15, (num, 2)), SIDE)], axis=1)


def random_set(seed: int, num: int = 40) -> tuple[Detections, np.ndarray]:
    """Detections near objects and elsewhere, with scores of which many are equal, and the objects `[n, M, 5]`."""
    draw = np.random.default_rng(seed)
    truth = np.full((num, 5, 5), -1)
    for image in range(num - 2):  # The last two have no object.
        count = draw.integers(0, 6)
        truth[image, :count, :4], truth[image, :count, 4] = random_boxes(draw, count), draw.integers(0, CLASSES, count)
    image, row = np.nonzero(truth[..., 4] >= 0)
    near = np.repeat(np.arange(len(image)), 2)
    boxes = truth[image[near], row[near], :4] + draw.integers(-4, 5, (len(near), 4)) / 4
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    other = random_boxes(draw, 150).astype(float)
    classes = np.where(draw.random(len(near)) < 0.8, truth[image[near], row[near], 4], draw.integers(0, CLASSES))
    return Detections(
        np.concatenate([image[near], draw.integers(0, num, 150)]),
        np.concatenate([classes, draw.integers(0, CLASSES, 150)]),
        np.round(draw.random(len(near) + 150), 1),
        np.concatenate([boxes, other]),
    ), truth


def cocos(found: Detections, truth: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """pycocotools' average precision at each threshold."""
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    image, row = np.nonzero(truth[..., 4] >= 0)

    def written(box: np.ndarray) -> list[float]:
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    annotations = []
    for number, (i, box) in enumerate(zip(image, truth[image, row], strict=True), 1):
        xywh = written(box)
        annotations.append({"id": number, "image_id": int(i) + 1, "category_id": int(box[4]) + 1, "bbox": xywh,
                            "area": xywh[2] * xywh[3], "iscrowd": 0})  # fmt: skip
    answers = [
        {"image_id": int(i) + 1, "category_id": int(c) + 1, "bbox": written(box), "score": float(s)}
        for i, c, s, box in zip(found.image, found.classes, found.scores, found.boxes, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        gold = coco.COCO()
        gold.dataset = {
            "info": {}, "images": [{"id": i + 1} for i in range(len(truth))], "annotations": annotations,
            "categories": [{"id": c + 1, "name": str(c)} for c in range(CLASSES)],
        }  # fmt: skip
        gold.createIndex()
        evaluation = COCOeval(gold, gold.loadRes(answers), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [list(size)], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0]  # [T, R, K]
    return np.array([of[of > -1].mean() if (of > -1).any() else np.nan for of in precision])


SIZES = (ALL, (0.0, SMALL_AREA), (SMALL_AREA, 1e10))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", SIZES)
def test_average_precision_is_cocos(seed: int, size: tuple[float, float]) -> None:
    found, truth = random_set(seed)
    expected = cocos(found, truth, size)
    assert 0.05 < expected[0] < 0.95
    np.testing.assert_allclose(average_precision(found, truth, size=size), expected, atol=1e-12)


def test_average_precision_at_the_edges_is_cocos() -> None:
    found, truth = random_set(9)
    many = found[np.zeros(130, dtype=np.int64)]
    crowded = Detections(*(np.concatenate([getattr(many, f), getattr(found, f)]) for f in vars(found)))
    without_class = replace(found, classes=np.minimum(found.classes, 1))
    lone = np.full((3, 1, 5), -1)
    lone[1, 0] = [0, 0, 8, 8, 2]
    exact = Detections(np.array([1, 1]), np.array([2, 2]), np.array([0.5, 0.5]), np.array([[0, 0, 8, 8.0]] * 2))
    half = replace(exact, boxes=np.array([[0, 0, 8, 4.0], [0, 0, 4, 4.0]]))  # overlaps of 1/2 and 1/4
    for given, objects in ((crowded, truth), (without_class, truth), (exact, lone), (half, lone)):
        for size in SIZES:
            np.testing.assert_allclose(average_precision(given, objects, size=size), cocos(given, objects, size))
    none = found[np.zeros(0, dtype=np.int64)]
    assert average_precision(none, truth).tolist() == [0.0] * len(THRESHOLDS)
    assert average_precision(exact, lone).mean() == pytest.approx(1.0), "the second one misses below all of recall"
    assert np.isnan(average_precision(found, np.full((40, 1, 5), -1))).all()


@pytest.mark.parametrize("fault", ["twice", "order", "interpolation"])
def test_faults_of_average_precision_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, truth = random_set(0)
    if fault == "twice":  # An object may be matched again.
        choice = ap._choice
        monkeypatch.setattr(ap, "_choice", lambda row, free, counts: choice(
            row, np.repeat(free.any(0, keepdims=True) | True, len(free), 0) & (row >= THRESHOLDS[:, None]), counts
        ))  # fmt: skip
    elif fault == "order":
        found = replace(found, scores=-found.scores)
    else:
        monkeypatch.setattr(ap, "RECALLS", np.linspace(0, 1, 11))
    good, truth = random_set(0)
    assert np.abs(average_precision(found, truth) - cocos(good, truth, ALL)).max() > 1e-4


def test_suppression_is_torchvisions() -> None:
    found, _ = random_set(3)
    found = replace(found, scores=np.random.default_rng(0).permutation(len(found.scores)) / 1000)
    keep = batched_nms(
        torch.from_numpy(found.boxes), torch.from_numpy(found.scores),
        torch.from_numpy(found.image * CLASSES + found.classes), 0.5,
    ).numpy()  # fmt: skip
    ours = suppressed(found, 0.5)
    assert 50 < len(ours.scores) < len(found.scores)
    assert sorted(ours.scores) == sorted(found.scores[keep])


def test_the_losses_are_torchvisions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, classes = torch.randn(2, 3, 5, 4, generator=generator), torch.randint(-1, 4, (2, 3, 5), generator=generator)
    one_hot = torch.nn.functional.one_hot(classes.clamp(min=0), 4) * (classes >= 0).unsqueeze(-1)
    expected = sigmoid_focal_loss(logits, one_hot.float()).sum((2, 3))
    torch.testing.assert_close(focal_loss(logits, classes), expected)
    a, b = (torch.from_numpy(random_boxes(np.random.default_rng(s), 50)).float() for s in (0, 1))
    torch.testing.assert_close(1 - generalised_iou(a, b), generalized_box_iou_loss(a, b), rtol=1e-5, atol=1e-5)


def test_the_loss_is_per_object_of_each_image() -> None:
    model = resolved(TINY, img_size=SIDE, patch_size=8)
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, 3, 16, model.num_classes + 4, generator=generator)  # type: ignore[operator]
    boxes = np.full((6, 2, 5), -1)
    boxes[:4, 0], boxes[:2, 1] = [2, 3, 9, 12, 1], [20, 20, 30, 31, 3]
    classes, targets = cells_of(boxes, (4, 4), 8)
    given = [torch.from_numpy(x).view(2, 3, *x.shape[1:]) for x in (classes, targets)]
    total = []
    for e in range(2):
        of_image = []
        for i in range(3):
            cell = torch.nonzero(given[0][e, i] >= 0).flatten()
            one_hot = torch.zeros(16, model.num_classes or 0)
            one_hot[cell, given[0][e, i, cell]] = 1
            predicted = cell_boxes(outputs[e, i, :, -4:], model)[cell]
            value = sigmoid_focal_loss(outputs[e, i, :, :-4], one_hot, reduction="sum")
            value = value + generalized_box_iou_loss(predicted, given[1][e, i, cell]).sum()
            of_image.append(value / max(len(cell), 1))
        total.append(torch.stack(of_image).mean())
    torch.testing.assert_close(detection_loss(outputs, *given, model), torch.stack(total))


def test_a_cell_has_the_smallest_object_whose_centre_it_holds() -> None:
    boxes = np.full((2, 3, 5), -1)
    boxes[0] = [[0, 0, 14, 14, 1], [2, 2, 6, 7, 2], [24, 24, 32, 32, 0]]
    classes, targets = cells_of(boxes, (4, 4), 8)
    assert classes[0].tolist() == [2, *[-1] * 14, 0]
    assert targets[0, 0].tolist() == [2, 2, 6, 7]
    assert (classes[1] == -1).all()
    finer, _ = cells_of(boxes, (16, 16), 2)
    assert {int(c) for c in finer[0]} == {-1, 0, 1, 2}


def test_boxes_begin_in_their_cell() -> None:
    model = resolved(TINY, img_size=(16, 32), patch_size=8)
    boxes = cell_boxes(torch.zeros(8, 4), model)
    assert boxes[5].tolist() == [12 - 4, 12 - 2, 12 + 4, 12 + 2], "row 1, column 1"
    assert cell_boxes(torch.full((8, 4), 100.0), model).isfinite().all()


def test_perfect_answers_score_all() -> None:
    data = facts("scenes", DataOptions())
    trainer = trainer_of(spec_with("objective", "detect"), (0,))
    trainer.feed.close()
    truth = trainer.images.columns("test", frozenset({"boxes"}), np.arange(data.num_test))["boxes"]
    answers = np.concatenate([np.where(truth[..., 4:] >= 0, 1.0, 0.0), truth[..., 4:], truth[..., :4]], axis=2)
    right, none = (list(Detect().scores(a, {"boxes": truth}).values()) for a in (answers, np.zeros_like(answers)))
    np.testing.assert_allclose(right, 100.0)
    assert none == [0.0] * 4
    turned = np.concatenate([answers[..., :2], answers[..., [3, 2, 5, 4]]], axis=2)
    assert Detect().scores(turned, {"boxes": truth})["ap50_percent"] < 10, "rows and columns exchanged"


def test_it_learns_more_than_where_objects_are() -> None:
    """By 3 points of AP50: the mean box of each class, in every image, reaches 0.001, its six commonest ones 0.14."""
    one = spec_with("objective", "detect")
    model = one.model.model_copy(update={"patch_size": 4, "embed_dim": 32, "pos_embed": "sincos_2d"})
    train = one.train.model_copy(update={"steps": 200, "batch_size": 32, "lr": 8e-3})
    trainer = trainer_of(one.model_copy(update={"model": model, "train": train}), (0,))
    truth = trainer.images.columns("train", frozenset({"boxes"}), np.arange(1000))["boxes"]
    objects = truth[truth[..., 4] >= 0]
    mean = np.array([[0.5, c, *objects[objects[:, 4] == c, :4].mean(axis=0)] for c in range(10)])
    test = {"boxes": trainer.images.columns("test", frozenset({"boxes"}), np.arange(1000))["boxes"]}
    trivial = Detect().scores(np.repeat(mean[None], 1000, axis=0), test)["ap50_percent"]
    for step in range(200):
        trainer.step(step)
    trainer.feed.close()
    (scores,) = trainer.scores()
    assert scores["ap50_percent"] > trivial + 3.0


def test_parameters_are_counted_by_the_formula() -> None:
    model = resolved(TINY, img_size=32, patch_size=4)
    d, k = model.embed_dim or 0, model.num_classes or 0
    encoder = num_params(model, ObjectiveSpec()) - (d * k + k)
    assert num_params(model, OBJECTIVE) - encoder == d * 16 + 16 + 16 * (k + 4) + k + 4
    module: Any = made(model, OBJECTIVE, noise=0.1)
    with torch.no_grad():
        assert module(images(model, 2)).shape == (2, 64, k + 4)


def test_a_trained_stack_is_scored_and_its_boxes_pair_with_its_images() -> None:
    trainer = trained(spec_with("objective", "detect"), (0, 1))
    for scores in final_answers(trainer, []).measured:
        assert scores.keys() == set(Detect.scores_named)
    order = trainer.orders[1].batch(2)
    drawn = trainer._drawn([each.batch(2) for each in trainer.orders])
    read = next(trainer.images.read("train", order.index[None], 64))[0, :, 0]
    image, cell = torch.nonzero(drawn["cls"][1] >= 0, as_tuple=True)
    assert len(image) > 2 * len(read) - 3
    for i, (left, top, right, bottom) in zip(image, drawn["box_px"][1][image, cell].int().tolist(), strict=True):
        assert (read[i, top:bottom, [left, right - 1]] > 0.25).any(0).all()
        assert (read[i, [top, bottom - 1], left:right] > 0.25).any(1).all()


def written(data: dict[str, Any], **train: Any) -> TrialSpec:
    fields = {"steps": 3, "augment": "none", "objective": ObjectiveSpec(name="detect"), **train}
    sizes = {key: TINY[key] for key in ("family", "embed_dim", "depth", "num_heads", "mlp_ratio")}
    model = ModelSpec(patch_size=4, **sizes)
    return TrialSpec(model=model, data=DataSpec(**data), train=TrainSpec(**fields))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (written({"name": "digits"}), "train.objective detect reads boxes; digits has no such column"),
        (written({"name": "scenes"}, augment="medium"), "train.augment: medium moves the pixels, and boxes would"),
        (written({"name": "scenes", "img_size": 16}), "data.img_size: 16 x 16 px, and boxes are for images of 32 x 32"),
        (written({"name": "scenes", "classes": [0, 1]}), "data.classes: boxes show all classes of an image"),
        (
            written({"name": "scenes"}).model_copy(update={"model": ModelSpec(name="R14x0.25")}),
            "detect needs patches that do not overlap; family vit with stem patchify",
        ),
    ],
)
def test_what_it_refuses(spec: TrialSpec, message: str) -> None:
    with pytest.raises(InputError) as error:
        resolve(spec, facts(spec.data.name, DataOptions()))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
