"""Training on prepared images gives the records of training on the files, bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data.test_prepared import write_kinds
from vitbench.data import DataOptions, Split, facts, open_images, types
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
    """Without and with images prepared for 16 and 72 px, and in their original sizes."""
    plain, prepared = DataOptions(cache_dir=tmp_path / "plain"), DataOptions(cache_dir=tmp_path / "prepared")
    for size in (16, 72, None):
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


def outputs(one: TrialSpec, source: ImageSource) -> list[Tensor]:
    """Test images in two orders and pieces, four augmented steps in two micro-batches, and the statistics."""
    out = [source.mean, source.std]
    for index in (np.arange(14)[None], np.array([[3, 3, 9], [13, 0, 1]])):
        out += source.read("test", index, 4)
    how = Augment.of(one)
    feed = source.feed([Order(0, np.arange(48), 20, how.streams)], how, Cut(2))
    return out + [unit for step in range(4) for _, unit in feed(step)]


@pytest.mark.parametrize(("img_size", "augment"), [(16, "none"), (16, "medium"), (72, "none"), (72, "light")])
def test_images_and_statistics_are_bit_equal_and_no_file_is_decoded(
    name: str,
    ways: tuple[DataOptions, DataOptions],
    img_size: int,
    augment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = spec(name, img_size, augment)
    plain = opened(one, ways[0])
    assert isinstance(plain, Images) is (augment == "none" or img_size == 16)
    expected = outputs(one, plain)
    monkeypatch.setattr("vitbench.data.types.decode", lambda *_: pytest.fail("decoded"))
    prepared = opened(one, ways[1])
    assert isinstance(prepared, StreamedImages)
    assert prepared.fingerprint == plain.fingerprint
    for images, same in zip(outputs(one, prepared), expected, strict=True):
        assert images.is_contiguous()
        assert torch.equal(images, same)


def test_without_whole_images_only_crops_of_random_sizes_are_decoded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = DataOptions(cache_dir=tmp_path)
    assert len(list(Preparation.of(open_images(name, options), 72, options, 1).run())) == 2
    source, decoded = opened(spec(name, 72), options), list[str]()
    whole = types.decode
    monkeypatch.setattr(types, "decode", lambda *words: decoded.append(words[1]) or whole(*words))
    list(source.read("test", np.arange(14)[None], 4))
    assert not decoded
    how = Augment.of(spec(name, 72))
    list(source.feed([Order(0, np.arange(48), 20, how.streams)], how, Cut())(0))
    assert len(decoded) >= 20


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
