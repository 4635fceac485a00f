"""Streamed images are the resident ones, bit by bit, for every number of loader processes."""

from __future__ import annotations

import io
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitbench.base.errors import InputError
from vitbench.cli.commands.device import choose_num_workers
from vitbench.data import DataOptions, cut, facts
from vitbench.engines.execute import execute
from vitbench.engines.options import Options
from vitbench.plan.resolve import resolve
from vitbench.plan.trial_id import trial_id
from vitbench.plan.trials import Trial
from vitbench.spec.trial import RESIZED_ABOVE, DataSpec, EvaluateSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.store.events import Progress
from vitbench.store.trials import Store
from vitbench.train import resident as images_module
from vitbench.train import streamed
from vitbench.train.augment import MAX_ASPECT, MIN_AREA, Augment, resized_box
from vitbench.train.image_source import ImageSource
from vitbench.train.resident import Images, load_images, open_source
from vitbench.train.sampling import Batch, Cut, Order, all_draws
from vitbench.train.streamed import PIECE, StreamedImages

CPU = torch.device("cpu")
VIT: dict[str, Any] = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2.0}
NUM_TRAIN = 3 * 31


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`folder:PATH` of three classes that differ in brightness, in JPEG files of unequal sizes."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("train", 31), ("test", 7)):
        for label in range(3):
            place = root / part / f"class_{label}"
            place.mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 100, (*rng.integers(14, 40, 2), 3)) + 70 * label
                Image.fromarray(noise.astype(np.uint8)).save(place / f"{i:02d}.jpg", quality=95)
    return f"folder:{root}"


def spec(folder: str, img_size: int = 16, **train: Any) -> TrialSpec:
    settings = {"steps": 6, "batch_size": 40, "lr": 3e-3, "augment": "light", **train}
    written = TrialSpec(
        model=ModelSpec(**VIT),
        data=DataSpec(name=folder, img_size=img_size, val_fraction=0.2),
        train=TrainSpec(**settings),
        evaluate=EvaluateSpec(few_shot=(2,)),
    )
    return resolve(written, facts(folder, DataOptions()))


def sources(folder: str, img_size: int = 16) -> list[ImageSource]:
    """The same images resident, streamed in this process, and streamed by two others."""
    data = DataSpec(name=folder, img_size=img_size)
    ways = (DataOptions(), DataOptions(stream=True), DataOptions(stream=True, num_workers=2))
    resident, alone, helped = (load_images(data, way, CPU) for way in ways)
    assert isinstance(resident, Images)
    assert isinstance(alone, StreamedImages)
    assert isinstance(helped, StreamedImages)
    return [resident, alone, helped]


def orders(num: int, augment: Augment, batch_size: int = 40) -> list[Order]:
    return [Order(seed, np.arange(NUM_TRAIN), batch_size, augment.streams) for seed in range(num)]


@pytest.mark.slow
@pytest.mark.parametrize("level", ["none", "light", "medium"])
@pytest.mark.parametrize(("num_trials", "grad_accum"), [(1, 1), (2, 3)])
def test_batches_are_bit_equal(folder: str, level: str, num_trials: int, grad_accum: int) -> None:
    """Five steps of 40 images over epochs of 93, so that batches straddle epochs."""
    augment = Augment(level, True, 0.2 if level == "medium" else 0.0)
    feeds = [s.feed(orders(num_trials, augment), augment, Cut(grad_accum)) for s in sources(folder)]
    for step in range(5):
        resident, *streamed = ([*feed(step)] for feed in feeds)
        assert len(resident) == grad_accum
        for other in streamed:
            for (batches, unit), (theirs, same) in zip(resident, other, strict=True):
                assert unit.shape == (num_trials, len(batches[0].index), 3, 16, 16)
                assert torch.equal(unit, same)
                assert [b.index.tolist() for b in batches] == [b.index.tolist() for b in theirs]


def test_another_step_starts_afresh(folder: str) -> None:
    augment = Augment("light", True, 0.0)
    _, source, _ = sources(folder)
    straight, jumping = (source.feed(orders(1, augment), augment, Cut(2)) for _ in range(2))
    expected = [[*straight(step)] for step in range(4)]
    for step in (3, 0, 1):
        for (_, unit), (_, same) in zip(jumping(step), expected[step], strict=True):
            assert torch.equal(unit, same)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [10, PIECE, 500])
def test_every_image_is_read_once_and_the_last_partial_batch_too(folder: str, batch: int) -> None:
    index = np.stack([np.arange(NUM_TRAIN), np.arange(NUM_TRAIN)[::-1]])
    resident, *streamed = ([*s.read("train", index, batch)] for s in sources(folder))
    assert [unit.shape[1] for unit in resident] == [min(batch, NUM_TRAIN - s) for s in range(0, NUM_TRAIN, batch)]
    for other in streamed:
        assert all(torch.equal(a, b) for a, b in zip(resident, other, strict=True))


def test_statistics_are_exact_and_read_once(folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    resident, *_ = sources(folder)
    options = DataOptions(stream=True, cache_dir=tmp_path)
    images_module._cache.clear()
    first = load_images(DataSpec(name=folder, img_size=16), options, CPU)
    images_module._cache.clear()
    monkeypatch.setattr(streamed.Loader, "load", lambda *_: pytest.fail("read again"))
    again = load_images(DataSpec(name=folder, img_size=16), options, CPU)
    for found in (first, again):
        assert torch.equal(found.mean, resident.mean)
        assert torch.equal(found.std, resident.std)


def record(one: TrialSpec, options: DataOptions, root: Path) -> Any:
    """The `result` of a trial that is run and committed."""
    fingerprint = facts(one.data.name, options).fingerprint
    trial = Trial(trial_id(one, 0, fingerprint, None), "arm", {}, {}, 0, "reporting", one, fingerprint)
    execute([trial], Options(root=root, data=options), lambda event: None)
    found = Store(root).read(trial.trial_id)
    assert found is not None
    assert found.status == "ok"
    return found.result


@pytest.mark.slow
@pytest.mark.parametrize(
    "train", [{"grad_accum": 2}, {"augment": "medium"}, {"objective": ObjectiveSpec(name="masked_patch")}]
)
def test_records_are_equal(folder: str, train: dict[str, Any], tmp_path: Path) -> None:
    one = spec(folder, **train)
    ways = (DataOptions(), DataOptions(stream=True), DataOptions(stream=True, num_workers=2))
    resident, *streamed = (record(one, way, tmp_path / str(n)) for n, way in enumerate(ways))
    assert len(resident.curve) == 6
    assert streamed == [resident, resident]


def test_large_images_are_cropped_from_their_files(folder: str) -> None:
    """Above 64 px crops have many sizes, so images stream; the number of processes still changes nothing."""
    one = spec(folder, img_size=RESIZED_ABOVE + 8)
    augment = Augment.of(one)
    assert augment.resized
    assert augment.lanes == 5
    made = []
    for num_workers in (0, 2):
        source = open_source(one, DataOptions(num_workers=num_workers), CPU)
        assert isinstance(source, StreamedImages)
        feed = source.feed(orders(1, augment), augment, Cut())
        made.append([(batches, unit) for step in range(3) for batches, unit in feed(step)])
    for (_, unit), (_, same) in zip(*made, strict=True):
        assert torch.equal(unit, same)
    (batches,), unit = made[0][0]
    draws, file = all_draws([batches])[5], source.loader.originals.train.read(int(batches.index[5]))
    expected = cut(file, resized_box(*file.shape[:2], draws), 72)
    expected = expected[:, ::-1] if draws[2] < 0.5 else expected
    assert np.array_equal((unit[0, 5].permute(1, 2, 0) * 255).round().numpy(), expected)


@pytest.mark.parametrize(("img_size", "level", "resized"), [(64, "light", False), (72, "none", False)])
def test_small_or_plain_images_stay_resident(folder: str, img_size: int, level: str, resized: bool) -> None:
    one = spec(folder, img_size=img_size, augment=level)
    assert Augment.of(one).resized is resized
    assert isinstance(open_source(one, DataOptions(), CPU), Images)


def test_what_does_not_fit_is_streamed(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images_module._cache.clear()
    monkeypatch.setattr(images_module, "fits_in_memory", lambda *_: False)
    assert isinstance(load_images(DataSpec(name=folder, img_size=16), DataOptions(), CPU), StreamedImages)
    images_module._cache.clear()


@given(
    height=st.integers(1, 600),
    width=st.integers(1, 600),
    draws=st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=5, max_size=5),
)
def test_boxes_lie_inside_the_image(height: int, width: int, draws: list[float]) -> None:
    left, top, right, bottom = resized_box(height, width, np.array(draws, dtype=np.float32))
    assert left >= 0
    assert top >= 0
    assert right <= width * (1 + 1e-12)
    assert bottom <= height * (1 + 1e-12)
    assert 0 < (right - left) * (bottom - top) <= height * width * (1 + 1e-9)


def test_boxes_have_the_areas_and_aspects_that_are_stated() -> None:
    draws = np.random.default_rng(0).random((20_000, 5))
    left, top, right, bottom = np.array([resized_box(1000, 1000, d) for d in draws]).T
    share, aspect = (right - left) * (bottom - top) / 1e6, (right - left) / (bottom - top)
    inside = (right - left < 1000) & (bottom - top < 1000)  # No side was shortened.
    np.testing.assert_allclose(share[inside], MIN_AREA + (1 - MIN_AREA) * draws[inside, 3])
    assert share.mean() == pytest.approx((1 + MIN_AREA) / 2, abs=0.02)
    assert 1 / MAX_ASPECT <= aspect.min() < 0.76
    assert 1.32 < aspect.max() <= MAX_ASPECT
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.01)


def test_a_whole_cut_is_the_image_resized() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BILINEAR))
    assert np.array_equal(cut(pixels, (0, 0, 20, 30), 8), expected)
    assert np.array_equal(cut(pixels, (4, 3, 12, 11), 8), pixels[3:11, 4:12])


def test_streaming_leaves_the_generator_of_dropout_alone(folder: str) -> None:
    augment = Augment("light", True, 0.0)
    *_, source = sources(folder)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    [*source.feed(orders(1, augment), augment, Cut())(0)]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_image_is_one_line(tmp_path: Path, num_workers: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(buffer, "JPEG")
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(5):
            (tmp_path / name / f"{i}.jpg").write_bytes(buffer.getvalue() + bytes([i]) * ord(name))
    (tmp_path / "a" / "3.jpg").write_bytes(buffer.getvalue()[:700])
    options = DataOptions(stream=True, num_workers=num_workers)
    with pytest.raises(InputError, match=r"a/3\.jpg: the image is damaged") as caught:
        load_images(DataSpec(name=f"folder:{tmp_path}", img_size=16), options, CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # From its iterator's __del__.
def test_a_killed_loader_process_is_no_fault_of_the_trial(folder: str, tmp_path: Path) -> None:
    """It counts as lack of memory: nothing is committed, and the next run tries again."""
    one, options = spec(folder, steps=100), DataOptions(stream=True, num_workers=2)
    fingerprint = facts(folder, options).fingerprint
    trial = Trial(trial_id(one, 0, fingerprint, None), "arm", {}, {}, 0, "reporting", one, fingerprint)

    def kill_one(event: Any) -> None:
        if isinstance(event, Progress):
            multiprocessing.active_children()[0].kill()

    with pytest.raises(MemoryError, match="an image-loading process was lost"):
        execute([trial], Options(root=tmp_path, data=options), kill_one)
    assert Store(tmp_path).read(trial.trial_id) is None
    assert not streamed.lost_loader(RuntimeError("some other fault"))


def test_rounding_takes_no_draw_to_one() -> None:
    batch = Batch(np.zeros(1, int), np.zeros(1, int), np.array([[1 - 2**-53, 0.5]]))
    found = all_draws([batch])
    assert found.dtype == np.float32
    assert found[0].tolist() == [1 - 2**-24, 0.5]


def test_loader_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitbench.cli.commands.device.num_cores", lambda: 8)
    assert choose_num_workers(None, "cpu", 1) == 0
    assert choose_num_workers(None, "cuda", 1) == 7
    assert choose_num_workers(None, "cuda", 2) == 0
    assert choose_num_workers(3, "cpu", 1) == 3
    with pytest.raises(InputError, match="--workers 3: works with one trial at a time, not 2"):
        choose_num_workers(3, "cpu", 2)


def test_options_of_reading_are_no_part_of_the_identity(folder: str) -> None:
    plain, other = DataOptions(), replace(DataOptions(), stream=True, num_workers=4)
    ids = {trial_id(spec(folder), 0, facts(folder, way).fingerprint, None) for way in (plain, other)}
    assert len(ids) == 1
