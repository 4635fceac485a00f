"""Training on prepared images gives the records of training on the files, bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.test_prepared import write_kinds
from vitbench.data import DataOptions, Split, facts, open_images
from vitbench.data.preparation import Preparation
from vitbench.engines.execute import execute
from vitbench.engines.options import Options
from vitbench.plan.resolve import resolve
from vitbench.plan.trial_id import trial_id
from vitbench.plan.trials import Trial
from vitbench.spec.trial import DataSpec, ModelSpec, TrainSpec, TrialSpec
from vitbench.store.trials import Store
from vitbench.train import resident
from vitbench.train.augment import Augment
from vitbench.train.image_source import ImageSource
from vitbench.train.resident import Images, open_source
from vitbench.train.sampling import Cut, Order
from vitbench.train.streamed import ImageRequest, StreamedImages

CPU = torch.device("cpu")
VIT: dict[str, Any] = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_ratio": 2.0}


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_kinds(tmp_path_factory.mktemp("kinds") / "set", {"train": 24, "test": 7})


@pytest.fixture
def ways(name: str, tmp_path: Path) -> tuple[DataOptions, DataOptions]:
    """Without and with images prepared for 16 and 72 px."""
    plain, prepared = DataOptions(cache_dir=tmp_path / "plain"), DataOptions(cache_dir=tmp_path / "prepared")
    for size in (16, 72):
        assert len(list(Preparation.of(open_images(name, prepared), size, prepared, 1).run())) == 2
    return plain, prepared


def spec(name: str, img_size: int = 16, augment: str = "light") -> TrialSpec:
    written = TrialSpec(
        model=ModelSpec(**VIT),
        data=DataSpec(name=name, img_size=img_size, val_fraction=0.2),
        train=TrainSpec(steps=4, batch_size=20, lr=3e-3, augment=augment),
    )
    return resolve(written, facts(name, DataOptions()))


def opened(one: TrialSpec, options: DataOptions) -> ImageSource:
    resident._cache.clear()
    return open_source(one, options, CPU)


@pytest.mark.parametrize(("img_size", "augment"), [(16, "none"), (16, "medium"), (72, "none"), (72, "light")])
def test_batches_images_and_statistics_are_bit_equal(
    name: str, ways: tuple[DataOptions, DataOptions], img_size: int, augment: str
) -> None:
    one = spec(name, img_size, augment)
    plain, prepared = (opened(one, way) for way in ways)
    assert isinstance(plain, Images) is (augment == "none" or img_size == 16)
    assert isinstance(prepared, StreamedImages)
    assert prepared.loader.centred.train.shards is not None
    assert (prepared.loader.originals.train.shards is None) is (img_size == 72 and augment == "light")
    assert prepared.fingerprint == plain.fingerprint
    assert torch.equal(prepared.mean, plain.mean)
    assert torch.equal(prepared.std, plain.std)
    for index in (np.arange(14)[None], np.array([[3, 3, 9], [13, 0, 1]])):
        for images, same in zip(prepared.read("test", index, 4), plain.read("test", index, 4), strict=True):
            assert images.is_contiguous()
            assert torch.equal(images, same)
    how = Augment.of(one)
    orders = [Order(0, np.arange(48), 20, how.streams)]
    feeds = [source.feed(orders, how, Cut(2)) for source in (plain, prepared)]
    for step in range(4):
        for (_, unit), (_, same) in zip(*(feed(step) for feed in feeds), strict=True):
            assert unit.is_contiguous()
            assert torch.equal(unit, same)


def test_streamed_pixels_lie_as_networks_take_them(name: str, ways: tuple[DataOptions, DataOptions]) -> None:
    """Another order in memory would choose other kernels, whose sums differ in the last bit."""
    for way in ways:
        source = opened(spec(name, 72), way)
        assert isinstance(source, StreamedImages)
        for part in ("train", "test"):
            draws = np.full((3, 5), 0.5, np.float32) if part == "train" else None
            (pixels,) = source.loader.load([ImageRequest(part, np.arange(3), draws)], Augment.of(spec(name, 72)))
            assert pixels.is_contiguous()


def test_the_record_of_a_trial_is_equal_and_no_file_is_decoded(
    name: str, ways: tuple[DataOptions, DataOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, records, ids = spec(name), [], set()
    for number, way in enumerate(ways):
        resident._cache.clear()
        fingerprint = facts(one.data.name, way).fingerprint
        trial = Trial(trial_id(one, 0, fingerprint, None), "arm", {}, {}, 0, "reporting", one, fingerprint)
        if number:
            monkeypatch.setattr("vitbench.data.types.decode", lambda *_: pytest.fail("decoded"))
        execute([trial], Options(root=tmp_path / str(number), data=way), lambda event: None)
        ids.add(trial.trial_id)
        record = Store(tmp_path / str(number)).read(trial.trial_id)
        assert record is not None
        records.append(record.result)
    assert len(ids) == 1
    assert records[0] == records[1]
    resident._cache.clear()


def test_a_device_gets_the_prepared_pixels_without_decoding(
    name: str, ways: tuple[DataOptions, DataOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that are resident on an accelerator are copied there from the shards; torch's meta device stands in."""
    monkeypatch.setattr("vitbench.data.types.decode", lambda *_: pytest.fail("decoded"))
    copied: list[Split] = []
    whole = resident.resident
    monkeypatch.setattr(resident, "resident", lambda split, size: copied.append(split) or whole(split, size))
    resident._cache.clear()
    assert isinstance(open_source(spec(name), ways[1], torch.device("meta")), Images)
    assert [split.shards is not None for split in copied] == [True, True]
    resident._cache.clear()
