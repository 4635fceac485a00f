"""Every source gives the images that were put in, with their labels and facts."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_sets import picture, png, write_folder, write_mnist, write_parquet
from PIL import Image

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, ImageData, Split, channel_stats, facts, fits_in_memory, open_images, resident
from vitbench.data.readers.idx import DEBIAN_FASHION


@pytest.fixture
def options(tmp_path: Path) -> DataOptions:
    return DataOptions(data_dir=tmp_path / "sets", cache_dir=tmp_path / "cache")


def contents(split: Split) -> list[tuple[int, bytes]]:
    """Labels and pixels of a split, sorted, so that order does not matter."""
    return sorted((int(label), split.read(i).tobytes()) for i, label in enumerate(split.labels))


def expected(keys: dict[int, int], **size: int) -> list[tuple[int, bytes]]:
    """`{picture key: label}` as `contents` gives it."""
    return sorted((label, picture(key, **size).tobytes()) for key, label in keys.items())


def test_digits_are_scikit_learns(options: DataOptions) -> None:
    from sklearn.datasets import load_digits

    data, reference = open_images("digits", options), load_digits()
    pixels = np.round(reference.images * 255 / 16).astype(np.uint8)
    there = sorted((int(label), image.tobytes()) for label, image in zip(reference.target, pixels, strict=True))
    assert sorted(contents(data.train) + contents(data.test)) == there
    assert (data.facts.img_size, data.facts.in_chans, data.facts.num_classes, data.facts.flip) == (8, 1, 10, False)
    assert data.facts.num_train + data.facts.num_test == 1797
    assert np.abs(np.bincount(data.test.labels) - 0.2 * np.bincount(reference.target)).max() <= 0.5


@pytest.mark.skipif(not DEBIAN_FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_debian(options: DataOptions) -> None:
    data = open_images("fashion_mnist", options)
    mean, std = channel_stats(resident(data.train, 28))
    assert (data.facts.num_train, data.facts.num_test, data.facts.img_size) == (60000, 10000, 28)
    assert np.bincount(data.train.labels).tolist() == [6000] * 10
    assert [round(float(mean[0]), 4), round(float(std[0]), 4)] == [0.286, 0.353]  # as published for this set
    assert data.facts.pixels_publishable


@pytest.mark.parametrize("compress", [False, True])
def test_mnist_in_torchvisions_layout(options: DataOptions, compress: bool) -> None:
    images = np.stack([picture(key, 4, 4, 1)[:, :, 0] for key in range(6)])
    write_mnist(options.folder / "MNIST" / "raw", images, np.arange(6, dtype=np.uint8) % 3, compress)
    data = open_images("mnist", options)
    assert contents(data.train) == expected({key: key % 3 for key in range(6)}, height=4, width=4, in_chans=1)
    assert contents(data.test)[1] == (1, (255 - images[1]).tobytes())
    assert data.facts.num_classes == 10


def test_cifar10_in_torchvisions_layout(options: DataOptions) -> None:
    folder = options.folder / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for key, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        planes = picture(key, 32, 32).transpose(2, 0, 1).reshape(1, 3072)
        (folder / name).write_bytes(pickle.dumps({"data": planes, "labels": [key % 2]}, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}, protocol=2))
    data = open_images("torch/cifar10", options)
    assert contents(data.train) == expected({key: key % 2 for key in range(5)}, height=32, width=32)
    assert contents(data.test) == expected({5: 1}, height=32, width=32)
    assert (data.facts.name, data.facts.class_names, data.facts.flip) == ("cifar10", ("cat", "dog"), True)


def test_svhn_calls_digit_zero_class_zero(options: DataOptions) -> None:
    from scipy.io import savemat

    options.folder.mkdir()
    for name, labels in {"train": [10, 1, 9], "test": [2]}.items():
        images = np.stack([picture(key, 32, 32) for key in range(len(labels))], axis=-1)
        savemat(options.folder / f"{name}_32x32.mat", {"X": images, "y": np.array(labels)[:, None]})
    data = open_images("svhn", options)
    assert contents(data.train) == expected({0: 0, 1: 1, 2: 9}, height=32, width=32)


def test_stl10_is_stored_by_columns(options: DataOptions) -> None:
    folder = options.folder / "stl10_binary"
    folder.mkdir(parents=True)
    for part, keys in {"train": [0, 1], "test": [2]}.items():
        planes = np.stack([picture(key, 96, 96).transpose(2, 1, 0) for key in keys])
        planes.tofile(folder / f"{part}_X.bin")
        (np.array(keys, dtype=np.uint8) + 1).tofile(folder / f"{part}_y.bin")
    (folder / "class_names.txt").write_text("airplane\nbird\ncar\n")
    data = open_images("stl10", options)
    assert contents(data.train) == expected({0: 0, 1: 1}, height=96, width=96)
    assert data.facts.class_names == ("airplane", "bird", "car")


def test_imagenette_and_imagenet_folders(options: DataOptions) -> None:
    for root, synsets in {
        "imagenette2-160": ("n01440764", "n02102040"),
        "imagenet": ("n01440764", "n01443537"),
    }.items():
        write_folder(options.folder / root / "train", dict.fromkeys(synsets, 2))
        write_folder(options.folder / root / "val", dict.fromkeys(synsets, 1), start=10)
    assert facts("imagenet", options).class_names == ("n01440764", "n01443537")
    with pytest.raises(InputError, match="imagenette needs 10 classes"):
        facts("imagenette", options)


def test_folder_with_splits(options: DataOptions, tmp_path: Path) -> None:
    write_folder(tmp_path / "pets" / "Training", {"cat": 3, "dog": 2}, in_chans=1)
    write_folder(tmp_path / "pets" / "val", {"cat": 1, "dog": 1}, start=5, in_chans=1)
    data = open_images(f"folder:{tmp_path / 'pets'}", options)
    assert contents(data.train) == expected({0: 0, 1: 0, 2: 0, 3: 1, 4: 1}, in_chans=1)
    assert contents(data.test) == expected({5: 0, 6: 1}, in_chans=1)
    assert (data.facts.in_chans, data.facts.img_size, data.facts.class_counts) == (1, 8, (3, 2))
    assert data.facts.class_names == ("cat", "dog")


def test_folder_without_splits_gives_a_stratified_fifth(options: DataOptions, tmp_path: Path) -> None:
    write_folder(tmp_path / "pets", {"cat": 20, "dog": 10})
    data = open_images(f"folder:{tmp_path / 'pets'}", options)
    assert np.bincount(data.test.labels).tolist() == [4, 2]
    assert sorted(contents(data.train) + contents(data.test)) == expected({key: int(key >= 20) for key in range(30)})


def test_parquet_by_file_name(options: DataOptions, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for part, keys in {"train-00000-of-00002": [0, 1], "train-00001-of-00002": [2], "test-00000-of-00001": [3]}.items():
        images = [png(picture(key)) for key in keys]
        write_parquet(root / "data" / f"{part}.parquet", images, [key % 2 for key in keys], ["cat", "dog"])
    data = open_images(f"parquet:{root}", options)
    assert contents(data.train) == expected({0: 0, 1: 1, 2: 0})
    assert contents(data.test) == expected({3: 1})
    assert data.facts.class_names == ("cat", "dog")
    assert {data.train.name(i).split("/")[-1] for i in range(3)} == {
        "train-00000-of-00002.parquet, row 0",
        "train-00000-of-00002.parquet, row 1",
        "train-00001-of-00002.parquet, row 0",
    }


class StandInSplit:
    """As much of `datasets.Dataset` as is used."""

    def __init__(self, keys: range) -> None:
        self.cells = [{"image": {"bytes": png(picture(key)), "path": None}, "label": key % 2} for key in keys]
        self.column_names, self.cache_files = ["image", "label"], []
        self.features = {"label": SimpleNamespace(names=["cat", "dog"])}

    def cast_column(self, column: str, feature: object) -> StandInSplit:
        return self

    def __getitem__(self, key: Any) -> Any:
        return [cell[key] for cell in self.cells] if isinstance(key, str) else self.cells[key]


def test_hub_through_a_stand_in(options: DataOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    package: Any = ModuleType("datasets")
    package.config, package.Image = SimpleNamespace(HF_HUB_OFFLINE=False), lambda decode: decode
    package.load_dataset = lambda name: {"train": StandInSplit(range(4)), "validation": StandInSplit(range(4, 6))}
    monkeypatch.setitem(sys.modules, "datasets", package)
    data = open_images("hf:org/pets", options)
    assert contents(data.train) == expected({0: 0, 1: 1, 2: 0, 3: 1})
    assert contents(data.test) == expected({4: 0, 5: 1})
    assert package.config.HF_HUB_OFFLINE  # nothing is fetched unless asked for


def test_fake_is_balanced_and_its_boxes_hold_the_pattern(options: DataOptions) -> None:
    for name, shape in {"fake": (8, 8, 1), "fake_colour": (16, 16, 3)}.items():
        data: ImageData = open_images(name, options)
        assert data.train.images is not None
        assert data.train.boxes is not None
        assert data.train.images.shape == (512, *shape)
        assert np.bincount(data.test.labels).tolist() == [64] * 4
        lit = data.train.images.max(axis=3) >= 128
        for image, (left, top, right, bottom) in zip(lit, data.train.boxes, strict=True):
            assert image[top:bottom, left:right].mean() >= 0.5
            assert image.sum() == image[top:bottom, left:right].sum()


def test_fake_is_not_solved_by_its_brightness(options: DataOptions) -> None:
    """Chance for the plainest feature of two equally bright classes: rows and columns differ in shape alone."""
    data = open_images("fake", options)
    assert data.train.images is not None
    means = [data.train.images[data.train.labels == c].mean() for c in (0, 1)]
    assert abs(means[0] - means[1]) < 2


def test_resident_is_the_short_side_resized_and_the_centre_cropped(options: DataOptions, tmp_path: Path) -> None:
    """Against Pillow's resize of the whole image, then a crop; sizes for which both are exact."""
    root = write_folder(tmp_path / "set" / "train", {"wide": 1}, height=8, width=24)
    write_folder(root, {"tall": 1}, start=1, height=24, width=8)
    write_folder(root.parent / "test", {"wide": 1, "tall": 1}, start=2)
    data = open_images(f"folder:{root.parent}", options)
    assert data.facts.img_size is None
    whole = [Image.fromarray(picture(0, 8, 24)), Image.fromarray(picture(1, 24, 8))]
    wide, tall = (np.asarray(w.resize((w.width // 2, w.height // 2), Image.Resampling.BILINEAR)) for w in whole)
    expected = {1: wide[:, 4:8], 0: tall[4:8]}
    for label, image in zip(data.train.labels, resident(data.train, 4), strict=True):
        assert np.array_equal(image, expected[int(label)])


def test_channel_stats_are_numpys() -> None:
    images = np.stack([picture(key) for key in range(5)])
    mean, std = channel_stats(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-12)
    assert channel_stats(np.full((2, 4, 4, 1), 9, dtype=np.uint8))[1].tolist() == [1.0]


def test_fits_in_memory_counts_bytes(options: DataOptions) -> None:
    known = facts("fake", options)
    needed = (512 + 256) * 8 * 8
    assert fits_in_memory(known, 8, memory_bytes=4 * needed)
    assert not fits_in_memory(known, 8, memory_bytes=4 * needed - 1)
    assert fits_in_memory(known, 8)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "svhn", "stl10", "imagenette", "imagenet"])
def test_absent_set_says_where_it_was_looked_for(name: str, options: DataOptions) -> None:
    with pytest.raises(InputError) as caught:
        open_images(name, options)
    assert str(caught.value).startswith(f"data set {name} not found in {options.folder}")
    assert "--data-dir DIR searches in DIR" in str(caught.value)


def test_download_only_when_asked(options: DataOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def mnist(folder: Path, download: bool) -> None:
        images = np.stack([picture(key, 4, 4, 1)[:, :, 0] for key in range(4)])
        write_mnist(folder / "MNIST" / "raw", images, np.arange(4, dtype=np.uint8), compress=False)

    package: Any = ModuleType("torchvision")
    package.datasets = SimpleNamespace(MNIST=mnist)
    monkeypatch.setitem(sys.modules, "torchvision", package)
    with pytest.raises(InputError, match=r"mnist not found in .*MNIST/raw; --download downloads it"):
        facts("mnist", options)
    assert not options.folder.exists()
    asked = DataOptions(options.data_dir, download=True, cache_dir=options.cache_dir)
    assert facts("mnist", asked).num_train == 4


def test_failed_download_is_one_line(options: DataOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(folder: Path, download: bool) -> None:
        raise OSError("no route to host")

    package: Any = ModuleType("torchvision")
    package.datasets = SimpleNamespace(CIFAR10=unreachable)
    monkeypatch.setitem(sys.modules, "torchvision", package)
    with pytest.raises(InputError, match=r"downloading cifar10 .* failed: no route to host"):
        facts("cifar10", DataOptions(options.data_dir, download=True))
