"""Bad data is one clear line, never a silent number."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from made_sets import idx_bytes, picture, png, write_folder, write_mnist, write_parquet
from PIL import Image

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, check, facts, open_images, resident


@pytest.fixture
def options(tmp_path: Path) -> DataOptions:
    return DataOptions(data_dir=tmp_path / "sets", cache_dir=tmp_path / "cache")


def refused(name: str, options: DataOptions) -> str:
    """The one line with which a data set is refused, while its facts are read or its images are decoded."""
    with pytest.raises(InputError) as caught:
        resident(open_images(name, options).train, 8)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def bomb() -> bytes:
    """A tiny file that claims 20000 x 20000 pixels."""
    return b"P5 20000 20000 255\n" + b"\0" * 10


BAD_FILES = {
    "empty": (b"", "is empty"),
    "html": (b"<!DOCTYPE html><html>", "not an image"),
    "truncated": (png(picture(0, 64, 64))[:2000], "damaged"),
    "bomb": (bomb(), "more than 50,000,000 pixels"),
    "large": (b"P5 9000 9000 255\n" + b"\0" * 10, "9000 x 9000 is more than"),
    "deep": (b"", "would be clipped"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_image_is_named(kind: str, options: DataOptions, tmp_path: Path) -> None:
    content, message = BAD_FILES[kind]
    root = write_folder(tmp_path / "set" / "train", {"a": 4, "b": 4}).parent
    bad = root / "train" / "b" / f"bad.{'pgm' if kind in ('bomb', 'large') else 'png'}"
    bad.write_bytes(content)
    if kind == "deep":
        Image.fromarray(np.full((8, 8), 40000, dtype=np.uint16)).save(bad)
    write_folder(root / "test", {"a": 2, "b": 2}, start=90)
    line = refused(f"folder:{root}", options)
    assert line.startswith(str(bad))
    assert message in line
    assert len(check(f"folder:{root}", options).problems) == 1


def test_check_finds_every_bad_image(options: DataOptions, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 4, "b": 4})
    assert check(f"folder:{root}", options).problems == ()
    (root / "a" / "001.png").write_bytes(b"")
    (root / "b" / "002.png").write_bytes(b"\x89PNG")
    assert [line.partition(":")[0] for line in check(f"folder:{root}", options).problems] == [
        str(root / "a" / "001.png"),
        str(root / "b" / "002.png"),
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root.mkdir(), "no images; class folders that hold images are expected"),
        (lambda root: write_folder(root, {".": 3}), "in no class folder, so without labels"),
        (lambda root: write_folder(root, {"a": 3, "b": 0}), "class folder b has no images"),
        (lambda root: write_folder(root, {"a": 3}), "all training images are of one class"),
        (lambda root: write_folder(root / "test", {"a": 3, "b": 3}), "no folder is named after train, only test"),
        (lambda root: None, "there is no such folder"),
    ],
)
def test_bad_folder(make: object, message: str, options: DataOptions, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path / "set")
    assert message in refused(f"folder:{tmp_path / 'set'}", options)


def test_test_class_without_training_images(options: DataOptions, tmp_path: Path) -> None:
    write_folder(tmp_path / "set" / "train", {"a": 2, "b": 2})
    write_folder(tmp_path / "set" / "test", {"a": 1, "c": 1})
    assert "class c of the test split has no training images; training classes: a, b; test classes: a, c" in refused(
        f"folder:{tmp_path / 'set'}", options
    )


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 1, 2, 0], ["a", "b"], "1 of 4 labels are not in 0..1 (they reach from 0 to 2), the first is 2, of "),
        ([0, 1, -100, -1], ["a", "b"], "2 of 4 labels are not in 0..1 (they reach from -100 to 1), the first is -"),
        ([0, 1, -100, 1], None, "1 of 4 labels are not in 0..1"),
        ([-1, -1, -1, -1], ["a", "b"], "no labels (all are -1)"),
        ([1, 1, 1, 1], ["a", "b"], "one class"),
        ([1, 2, 1, 2], None, "labels must count from 0 without a gap; 0 is missing"),
        ([], None, "no images"),
    ],
)
def test_bad_labels(
    labels: list[int], names: list[str] | None, message: str, options: DataOptions, tmp_path: Path
) -> None:
    path = tmp_path / "train.parquet"
    write_parquet(path, [png(picture(i)) for i in range(len(labels))], labels, names)
    assert message in refused(f"parquet:{path}", options)


def test_bad_label_names_file_and_row(options: DataOptions, tmp_path: Path) -> None:
    for part, labels in {"train": [0, 1, 1], "test": [0, 1, -1]}.items():
        images = [png(picture(i)) for i in range(3)]
        write_parquet(tmp_path / "set" / f"{part}.parquet", images, labels, ["a", "b"])
    assert refused(f"parquet:{tmp_path / 'set'}", options).endswith("test.parquet, row 2")


def test_parquet_without_the_columns(options: DataOptions, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "set.parquet"
    for table, message in [
        (pa.table({"text": ["x"], "label": [0]}), "no image column (image or img) among text, label; name it with"),
        (pa.table({"image": [{"bytes": b"x"}]}), "no label column (label or labels) among image; name it with ?label="),
        (pa.table({"image": [7], "label": [0]}), "column image is int64; a struct with `bytes`, raw bytes, paths,"),
        (pa.table({"image": [{"bytes": b"x"}], "label": [0.5]}), "column label is double; whole numbers, text, or"),
        (pa.table({"image": [{"bytes": b"x"}], "label": [[0, 1]]}), "a multi-label set"),
        (
            pa.table({"image": [{"bytes": b"x"}] * 2, "label": [0, None]}),
            "1 of 2 labels are missing, the first in row 1",
        ),
        (pa.table({"image": [{"bytes": None}, {"bytes": b""}], "label": [0, 1]}), "row 0: the image has no bytes"),
    ]:
        pq.write_table(table, path)
        assert message in refused(f"parquet:{path}", options)
    path.write_bytes(b"PAR1 but no more")
    assert "not a parquet file that can be read" in refused(f"parquet:{path}", options)
    assert "no parquet files there" in refused(f"parquet:{tmp_path / 'nowhere'}", options)


def test_parquet_file_of_unknown_split(options: DataOptions, tmp_path: Path) -> None:
    for name in ("train", "extra"):
        write_parquet(tmp_path / "set" / f"{name}.parquet", [png(picture(0))] * 2, [0, 1])
    assert "extra.parquet has no split word" in refused(f"parquet:{tmp_path / 'set'}", options)


@pytest.mark.parametrize("name", ["cifar", "../../x", "", "folder", "digits:x", "torch/nothing"])
def test_unknown_name(name: str, options: DataOptions) -> None:
    assert f"no data set {name!r}" in refused(name, options)


def test_unknown_name_suggests_the_nearest(options: DataOptions) -> None:
    assert "Did you mean 'fashion_mnist'" in refused("fasion_mnist", options)


def test_hub_without_its_package(options: DataOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refused("hf:org/name", options) == "hf:org/name needs datasets: pip install 'vitbench[hf]'"


def test_damaged_idx_file(options: DataOptions) -> None:
    folder = options.folder / "MNIST" / "raw"
    images = np.stack([picture(key, 4, 4, 1)[:, :, 0] for key in range(4)])
    write_mnist(folder, images, np.arange(4, dtype=np.uint8), compress=False)
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(idx_bytes(images)[:-1])
    assert f"{path}: 63 bytes of data, but its header states 64" in refused("mnist", options)
    path.write_bytes(b"<html>")
    assert "not an IDX file" in refused("mnist", options)
    path.write_bytes(idx_bytes(images[:3]))
    assert "does not fit 4 labels" in refused("mnist", options)


PIXELS = np.stack([picture(key, 32, 32) for key in range(4)])


def write_labelled(kind: str, root: Path, labels: list[int]) -> str:
    """A named set whose four training images have these labels (as its files count them); its `data.name`."""
    from scipy.io import savemat

    good = [0, 1, 0, 1]
    if kind == "mnist":
        grey, target = PIXELS[:, :, :, 0], np.array(labels, dtype=np.int64).astype(np.uint8)
        write_mnist(root / "MNIST" / "raw", grey, target, compress=True)
    elif kind == "svhn":
        root.mkdir()
        for part, found in (("train", labels), ("test", good)):
            X = PIXELS.transpose(1, 2, 3, 0)
            savemat(root / f"{part}_32x32.mat", {"X": X, "y": np.array(found, dtype=np.int16)[:, None]})
    elif kind == "stl10":
        (root / "stl10_binary").mkdir(parents=True)
        for part, found in (("train", labels), ("test", [label + 1 for label in good])):
            np.zeros((4, 3, 96, 96), np.uint8).tofile(root / "stl10_binary" / f"{part}_X.bin")
            np.array(found, dtype=np.int64).astype(np.uint8).tofile(root / "stl10_binary" / f"{part}_y.bin")
        (root / "stl10_binary" / "class_names.txt").write_text(" ".join("abcdefghij"))
    else:
        (root / "cifar-100-python").mkdir(parents=True)
        flat = PIXELS.transpose(0, 3, 1, 2).reshape(4, 3072)
        content = {"train": labels, "test": good}
        for part, found in content.items():
            (root / "cifar-100-python" / part).write_bytes(pickle.dumps({"data": flat, "fine_labels": found}))
        (root / "cifar-100-python" / "meta").write_bytes(pickle.dumps({"fine_label_names": list("abcdefghij")}))
    return kind


@pytest.mark.parametrize(
    ("kind", "bad"),
    [("mnist", 10), ("mnist", 255), ("svhn", 11), ("svhn", -1), ("svhn", -100), ("stl10", 11), ("stl10", 0)]
    + [("cifar100", bad) for bad in (10, -1, -100)],
)
def test_bad_labels_of_named_sets(kind: str, bad: int, options: DataOptions) -> None:
    """-100 is what torch's loss leaves out in silence."""
    name = write_labelled(kind, options.folder, [1, 2, 1, bad])
    line = refused(name, options)
    assert "1 of 4 labels are not in 0..9" in line


@pytest.mark.parametrize("bad", [1.5, "1", True, None])
def test_cifar_labels_that_are_no_whole_numbers(bad: object, options: DataOptions) -> None:
    name = write_labelled("cifar100", options.folder, [1, 0, 1, bad])  # type: ignore[list-item]
    assert "a list of 4 whole numbers" in refused(name, options)


def test_cifar_pixels_that_are_no_bytes(options: DataOptions) -> None:
    """300 as a byte would be 44."""
    name = write_labelled("cifar100", options.folder, [1, 0, 1, 0])
    wide = {"data": np.full((4, 3072), 300), "fine_labels": [0, 1, 0, 1]}
    (options.folder / "cifar-100-python" / "train").write_bytes(pickle.dumps(wide))
    assert "bytes of shape [n, 3072]" in refused(name, options)


def test_a_damaged_gzip_file(options: DataOptions) -> None:
    """A flipped bit in the packed bytes is zlib's error, which is no OSError."""
    name = write_labelled("mnist", options.folder, [1, 0, 1, 0])
    path = options.folder / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    assert f"{path}: cannot be read" in refused(name, options)


class Trap:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch trapped",)


def test_cifar_file_that_asks_to_run_code(
    options: DataOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = options.folder / "cifar-100-python"
    folder.mkdir(parents=True)
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(pickle.dumps({"data": Trap()}))
    assert "not a batch file of CIFAR (it needs posix.system)" in refused("cifar100", options)
    assert not (tmp_path / "trapped").exists()


def test_overlap_counts_test_images_that_are_trained_on(options: DataOptions, tmp_path: Path) -> None:
    write_folder(tmp_path / "set" / "train", {"a": 3, "b": 3})
    write_folder(tmp_path / "set" / "test", {"a": 2, "b": 1}, start=2)  # keys 2, 3, 4, of the training images 0 to 5
    write_folder(tmp_path / "set" / "test" / "b" / "new", {"deeper": 1}, start=50)
    assert facts(f"folder:{tmp_path / 'set'}", options).num_test_in_train == 3
    assert facts("fake", options).num_test_in_train == 0


def test_facts_of_grey_and_colour_together_are_colour(options: DataOptions, tmp_path: Path) -> None:
    write_folder(tmp_path / "set", {"a": 4}, in_chans=1)
    write_folder(tmp_path / "set", {"b": 4}, start=9, in_chans=3)
    assert facts(f"folder:{tmp_path / 'set'}", options).in_chans == 3
