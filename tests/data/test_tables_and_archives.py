"""Arrays, tables of paths, archives and shards, as other tools write them: the right images under the right labels."""

from __future__ import annotations

import csv
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_sets import picture, png, write_folder

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, Split, facts, open_images
from vitbench.data.readers import archive_files


@pytest.fixture
def options(tmp_path: Path) -> DataOptions:
    return DataOptions(data_dir=tmp_path / "sets", cache_dir=tmp_path / "cache")


def contents(split: Split) -> list[tuple[int, bytes]]:
    """Labels and pixels, sorted."""
    return sorted((int(label), split.read(i).tobytes()) for i, label in enumerate(split.labels))


def expected(labels: dict[int, int], **size: int) -> list[tuple[int, bytes]]:
    """`{picture key: label}` as `contents` gives it."""
    return sorted((label, picture(key, **size).tobytes()) for key, label in labels.items())


def refused(name: str, options: DataOptions) -> str:
    with pytest.raises(InputError) as caught:
        open_images(name, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# npz


def medmnist(path: Path, side: int = 28, in_chans: int = 1, **changes: Any) -> Path:
    """An .npz as MedMNIST's: grey without channel axis, labels uint8 `[n, 1]`; picture `k` has class `k % 2`."""
    arrays: dict[str, Any] = {}
    for split, keys in {"train": range(6), "val": range(6, 8), "test": range(8, 12)}.items():
        images = np.stack([picture(key, side, side, in_chans) for key in keys])
        arrays[f"{split}_images"] = images[..., 0] if in_chans == 1 else images
        arrays[f"{split}_labels"] = np.array([[key % 2] for key in keys], dtype=np.uint8)
    arrays = {key: value for key, value in (arrays | changes).items() if value is not None}
    np.savez_compressed(path, **arrays)
    return path


@pytest.mark.parametrize(("side", "in_chans"), [(28, 1), (28, 3), (64, 1), (224, 3)])
def test_npz_in_medmnists_layout(side: int, in_chans: int, options: DataOptions, tmp_path: Path) -> None:
    data = open_images(f"npz:{medmnist(tmp_path / 'm.npz', side, in_chans)}", options)
    size = {"height": side, "width": side, "in_chans": in_chans}
    assert contents(data.test) == expected({key: key % 2 for key in range(8, 12)}, **size)
    assert [
        row for row in expected({key: key % 2 for key in range(6)}, **size) if row not in contents(data.train)
    ] == []
    assert (data.facts.img_size, data.facts.in_chans, data.facts.num_classes) == (side, in_chans, 2)
    assert data.facts.val_counts == (1, 1)
    assert data.train.val is not None
    assert contents(data.train.take(np.flatnonzero(data.train.val))) == expected({6: 0, 7: 1}, **size)


def test_npz_in_kerass_layout(options: DataOptions, tmp_path: Path) -> None:
    x = np.stack([picture(key, 4, 4, 1)[..., 0] for key in range(6)])
    y = np.arange(6, dtype=np.int32) % 3
    np.savez(tmp_path / "mnist.npz", x_train=x[:3], y_train=y[:3], x_test=x[3:], y_test=y[3:])
    data = open_images(f"npz:{tmp_path / 'mnist.npz'}", options)
    assert contents(data.train) == expected({0: 0, 1: 1, 2: 2}, height=4, width=4, in_chans=1)
    assert contents(data.test) == expected({3: 0, 4: 1, 5: 2}, height=4, width=4, in_chans=1)


def test_npz_columns_first_arrays_are_read_in_the_right_order(options: DataOptions, tmp_path: Path) -> None:
    others = {f"{split}_{kind}": None for split in ("val", "test") for kind in ("images", "labels")}
    images = np.asfortranarray(np.stack([picture(key, 4, 6, 1)[..., 0] for key in range(6)]))
    path = medmnist(tmp_path / "m.npz", train_images=images, **others)
    data = open_images(f"npz:{path}", options)
    both = sorted(contents(data.train) + contents(data.test))
    assert both == expected({key: key % 2 for key in range(6)}, height=4, width=6, in_chans=1)


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "multi-label": ({"train_labels": np.zeros((6, 14), np.uint8)}, "train_labels: a multi-label set with 14 labels"),
    "volumes": ({"train_images": np.zeros((6, 28, 28, 28), np.uint8)}, "volumes and channels first are not read"),
    "float labels": ({"train_labels": np.zeros(6)}, "the labels are float64; whole numbers or text are needed"),
    "lengths": ({"train_labels": np.zeros((5, 1), np.uint8)}, "6 images do not go with 5 labels"),
    "no labels": ({"train_labels": None}, "has train_images and no train_labels"),
    "no train": ({"train_images": None, "train_labels": None}, "no train_images and train_labels"),
    "sizes": ({"val_images": np.zeros((2, 8, 8), np.uint8)}, "images of different sizes: train 28x28x1, val 8x8x1"),
    "types": ({"val_images": np.zeros((2, 28, 28))}, "numbers of different kinds: 8 bits in train, test, more in val"),
    "wrapped": ({"train_labels": np.array([0, 1, 0, 1, 0, 2**64 - 1], np.uint64)}, "(row 5 holds 18446744073709551615"),
    "objects": ({"train_labels": np.array([0, "a", 0, 1, 0, 1], object)}, "an array of Python objects"),
    "negative": ({"train_labels": np.array([0, 1, 0, 1, 0, -1], np.int8)}, "1 of 6 labels are not in 0..1"),
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_npz_that_is_refused(kind: str, options: DataOptions, tmp_path: Path) -> None:
    changes, message = BAD_ARRAYS[kind]
    line = refused(f"npz:{medmnist(tmp_path / 'chestmnist.npz', **changes)}", options)
    assert "chestmnist.npz" in line
    assert message in line


def test_npz_whose_header_promises_more_than_the_file_holds(options: DataOptions, tmp_path: Path) -> None:
    path = medmnist(tmp_path / "m.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**13,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", header.getvalue() + b"abc")
    assert "where the header says shape (10000000000000,)" in refused(f"npz:{path}", options)
    for content in (b"", b"PK\3\4", b"\x93NUMPY\1\0v\0", b"<html>"):
        path.write_bytes(content)
        assert "not an .npz file that can be read" in refused(f"npz:{path}", options)


# csv


def write_table(folder: Path, rows: pd.DataFrame, name: str = "labels.csv", **how: Any) -> Path:
    """The table by pandas, with picture `k` beside it as `images/k.png`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for key in range(8):
        (folder / "images" / f"{key}.png").write_bytes(png(picture(key)))
    rows.to_csv(folder / name, **how)
    return folder / name


def paths(keys: range) -> list[str]:
    return [f"images/{key}.png" for key in keys]


def test_csv_by_pandas_with_a_split_column(options: DataOptions, tmp_path: Path) -> None:
    splits = ["train", "train", "Train", "train", "test", "test", "TEST", "test"]
    names = ["dog", "cat"] * 4
    table = write_table(tmp_path, pd.DataFrame({"path": paths(range(8)), "label": names, "split": splits}))
    data = open_images(f"csv:{table}", options)
    assert contents(data.train) == expected({0: 1, 1: 0, 2: 1, 3: 0})
    assert contents(data.test) == expected({4: 1, 5: 0, 6: 1, 7: 0})
    assert data.facts.class_names == ("cat", "dog")


def test_csv_of_other_columns_and_separators(options: DataOptions, tmp_path: Path) -> None:
    frame = pd.DataFrame({"species, latin": ["x"] * 8, "id": paths(range(8)), "kind": [10, 9] * 4})
    table = write_table(tmp_path, frame, sep=";", index=False, encoding="utf-8-sig", quoting=csv.QUOTE_ALL)
    data = open_images(f"csv:{table}?image=id&label=kind", options)
    assert data.facts.class_names == ("9", "10")  # by number, so that a label is not a position in a list of text
    assert sorted(contents(data.train) + contents(data.test)) == expected({key: 1 - key % 2 for key in range(8)})
    assert "no image column (path or file) among species, latin, id, kind; name it with ?image=" in refused(
        f"csv:{table}", options
    )


def test_csv_files_of_a_folder_by_their_names(options: DataOptions, tmp_path: Path) -> None:
    write_table(tmp_path, pd.DataFrame({"path": paths(range(4)), "label": list("aabb")}), "trainset.csv", index=False)
    write_table(tmp_path, pd.DataFrame({"path": paths(range(4, 8)), "label": list("bbba")}), "test.csv", index=False)
    data = open_images(f"csv:{tmp_path}", options)
    assert contents(data.train) == expected({0: 0, 1: 0, 2: 1, 3: 1})
    assert contents(data.test) == expected({4: 1, 5: 1, 6: 1, 7: 0})


GOOD = pd.DataFrame({"path": paths(range(8)), "label": list("abababab")})
BAD_TABLES: dict[str, tuple[pd.DataFrame, str]] = {
    "absent": (GOOD.assign(path=[*paths(range(6)), "x.png", "y.png"]), "2 of 8 images do not exist: "),
    "no label": (GOOD.assign(label=[*"ababab", None, "a"]), "1 of 8 labels are missing, the first in row 6"),
    "negative": (GOOD.assign(label=[0, 1, 0, 1, 0, 1, 0, -1]), "label -1 is negative"),
    "split": (GOOD.assign(split=["train"] * 7 + ["later"]), "column split, row 7 holds 'later', which names no split"),
    "fold": (GOOD.assign(split=list("01010101")), "column split, row 0 holds '0', which names no split"),
    "no train": (GOOD.assign(split=["test"] * 8), "column split names no training rows, only test"),
    "new class": (
        GOOD.assign(label=list("abababac"), split=["train"] * 6 + ["test"] * 2),
        "class 'c' of the test split is no class of the training split; training: [a, b]; test: [a, c]",
    ),
    "empty": (GOOD[:0], "no rows below the first line"),
    "columns": (GOOD.rename(columns={"label": "y"}), "no label column (label or labels) among path, y"),
}


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_csv_that_is_refused(kind: str, options: DataOptions, tmp_path: Path) -> None:
    frame, message = BAD_TABLES[kind]
    table = write_table(tmp_path, frame, index=False)
    line = refused(f"csv:{table}", options)
    assert message in line
    assert str(table) in line


def test_csv_lines_and_bytes_that_are_no_table(options: DataOptions, tmp_path: Path) -> None:
    table = write_table(tmp_path, GOOD, index=False)
    table.write_text("path,label\nimages/0.png,a\nimages/1.png\n")
    assert "line 3 has 1 fields, the first line 2" in refused(f"csv:{table}", options)
    for content in (b"\xff\xfe\0\0", b'path,label\n"images/0.png,a\n', b""):
        table.write_bytes(content)
        assert str(table) in refused(f"csv:{table}", options)
    assert "option 'imgae' is unknown" in refused(f"csv:{table}?imgae=x", options)
    assert "there is no such file" in refused(f"csv:{tmp_path / 'no.csv'}", options)


# zip and tar


def write_zip(source: Path, path: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(source.rglob("*")):
            archive.write(file, prefix + file.relative_to(source).as_posix())
    return path


def write_tar(source: Path, path: Path, prefix: str = "", mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add(source, prefix or ".")
    return path


ARCHIVES: dict[str, Callable[[Path, Path], Path]] = {
    "zip": lambda source, out: write_zip(source, out / "a.zip"),
    "zip in a folder": lambda source, out: write_zip(source, out / "a.zip", "pets-master/"),
    "tar": lambda source, out: write_tar(source, out / "a.tar"),
    "tar.gz": lambda source, out: write_tar(source, out / "a.tar.gz", "pets", "w:gz"),
    "tar.xz": lambda source, out: write_tar(source, out / "a.tar.xz", mode="w:xz"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_are_the_folder_that_they_hold(kind: str, options: DataOptions, tmp_path: Path) -> None:
    root = tmp_path / "pets"
    write_folder(root / "train", {"cat": 4, "dog": 4})
    write_folder(root / "test", {"cat": 2, "dog": 2}, start=20)
    folder = facts(f"folder:{root}", options)
    (root / "train" / "cat" / ".ipynb_checkpoints").mkdir()
    (root / "train" / "cat" / ".ipynb_checkpoints" / "0.png").write_bytes(png(picture(50)))
    (root / "train" / "cat" / "notes.txt").write_text("a note")
    path = ARCHIVES[kind](root, tmp_path)
    data = open_images(f"{path.name.split('.')[1]}:{path}", options)
    assert data.facts.fingerprint == folder.fingerprint
    assert (data.facts.class_names, data.facts.num_test) == (folder.class_names, 4)
    assert contents(data.train) == expected({key: int(key >= 4) for key in range(8)})
    assert f"{path}, " in data.train.name(0)


def test_an_archive_without_splits_has_a_drawn_test_split(options: DataOptions, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", {"cat": 10, "dog": 10})
    data = open_images(f"zip:{write_zip(root, tmp_path / 'a.zip')}", options)
    assert (data.facts.num_train, data.facts.num_test) == (16, 4)
    assert data.facts.fingerprint == facts(f"folder:{root}", options).fingerprint


def zip_of(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for key, name in enumerate(names):
            archive.writestr(name, png(picture(key)))
    return path


BAD_LAYOUTS = {
    "escape": (("a/1.png", "b/2.png", "../../x.png"), "the entry '../../x.png' leads out of the archive"),
    "absolute": (("a/1.png", "/etc/x.png"), "the entry '/etc/x.png' leads out of the archive"),
    "backslash": (("a/1.png", "..\\x.png"), "leads out of the archive"),
    "loose": (("1.png", "2.png", "a/3.png"), "2 of 3 images lie in no class folder"),
    "no images": (("a/1.txt",), "no images; class folders that hold images are expected"),
    "split inside": (("cat/train/1.png", "cat/test/2.png", "dog/train/3.png"), "the folder cat/train is named after"),
    "half a split": (("seg_train/a/1.png", "other/a/2.png"), "seg_train is named after a split and other is not"),
    "no train": (("test/a/1.png", "test/b/1.png"), "no folder is named after train, only test"),
    "two words": (("train_test/a/1.png", "b/a/2.png"), "words of two splits"),
    "level": (("animals/cat/1.png", "animals/dog/1.png", "plants/fern/1.png"), "class folder animals holds folders"),
}


@pytest.mark.parametrize("kind", BAD_LAYOUTS)
def test_archive_layouts_that_are_refused(kind: str, options: DataOptions, tmp_path: Path) -> None:
    names, message = BAD_LAYOUTS[kind]
    line = refused(f"zip:{zip_of(tmp_path / 'a.zip', *names)}", options)
    assert line.startswith(f"{tmp_path / 'a.zip'}: ")
    assert message in line


def test_an_archive_with_a_repeated_split_folder(options: DataOptions, tmp_path: Path) -> None:
    names = [f"seg_{s}/seg_{s}/{c}/{i}.png" for s in ("train", "test") for c in ("street", "sea") for i in range(2)]
    data = open_images(f"zip:{zip_of(tmp_path / 'a.zip', *names)}", options)
    assert (data.facts.num_train, data.facts.num_test, data.facts.class_names) == (4, 4, ("sea", "street"))


def test_archives_are_bounded_before_they_are_unpacked(
    options: DataOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    (root / "cat" / "bomb.png").write_bytes(b"\0" * 50_000)
    monkeypatch.setattr(archive_files, "MAX_FILE_BYTES", 10_000)
    for name in ("zip:" + str(write_zip(root, tmp_path / "a.zip")), f"tar:{write_tar(root, tmp_path / 'a.tar')}"):
        assert "cat/bomb.png is 50,000 bytes; at most 10,000 are read" in refused(name, options)
    (root / "cat" / "bomb.png").unlink()
    monkeypatch.setattr(archive_files, "MAX_PACKED_BYTES", 1000)
    packed = write_tar(root, tmp_path / "a.tgz", mode="w:gz")
    assert "more than 1,000 bytes once unpacked; a plain .tar or a .zip is read in place" in refused(
        f"tar:{packed}", options
    )


def test_damaged_archives_are_one_line(options: DataOptions, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    path = write_zip(root, tmp_path / "a.zip")
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[200] ^= 0xFF
    for content in (b"", whole[: len(whole) // 2], bytes(damaged), b"<html>"):
        path.write_bytes(content)
        assert str(path) in refused(f"zip:{path}", options)
        assert str(path) in refused(f"tar:{path}", options)
    assert "a folder; give the archive, or use folder:" in refused(f"zip:{root}", options)


def test_an_encrypted_archive_is_named(options: DataOptions, tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", "a/1.png", "b/2.png")
    content = bytearray(path.read_bytes())
    content[6] |= 1
    central = content.index(b"PK\1\2")
    content[central + 8] |= 1
    path.write_bytes(bytes(content))
    assert "a/1.png is encrypted" in refused(f"zip:{path}", options)


def test_links_in_a_tar_archive_are_not_followed(options: DataOptions, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", {"cat": 4, "dog": 4})
    (root / "cat" / "secret.png").symlink_to("/etc/passwd")
    data = open_images(f"tar:{write_tar(root, tmp_path / 'a.tar')}", options)
    assert data.facts.num_train + data.facts.num_test == 8


# webdataset


def write_shard(path: Path, files: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as shard:  # type: ignore[call-overload]
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))
    return path


def sample(name: str, key: int, label: str) -> list[tuple[str, bytes]]:
    return [(f"{name}.png", png(picture(key))), (f"{name}.cls", label.encode())]


def test_webdataset_shards_by_name(options: DataOptions, tmp_path: Path) -> None:
    write_shard(tmp_path / "pets-train-000000.tar", sample("0", 0, "0") + sample("1", 1, "1"))
    write_shard(tmp_path / "pets-train-000001.tar", sample("0", 2, "1\n") + sample("1", 3, "0"))
    write_shard(tmp_path / "pets-test-000000.tar.gz", sample("0", 4, "1") + sample("1", 5, "0"), "w:gz")
    data = open_images(f"webdataset:{tmp_path}", options)
    assert contents(data.train) == expected({0: 0, 1: 1, 2: 1, 3: 0})
    assert contents(data.test) == expected({4: 1, 5: 0})
    pattern = open_images(f"webdataset:{tmp_path}/pets-train-{{000000..000001}}.tar", options)
    assert pattern.facts.num_train + pattern.facts.num_test == 4


def test_a_samples_name_ends_at_the_last_dot_and_its_files_need_not_be_neighbours(
    options: DataOptions, tmp_path: Path
) -> None:
    files = sample("a/scan.v1", 0, "cat") + sample("a/scan.v2", 1, "dog") + sample("b/scan.v1", 2, "dog")
    files += sample("b/scan.v2", 3, "cat") + sample("c", 4, "cat") + sample("d", 5, "dog")
    apart = [file for file in files if file[0].endswith("png")] + [file for file in files if file[0].endswith("cls")]
    for order in (files, apart, apart[::-1]):
        data = open_images(f"webdataset:{write_shard(tmp_path / 'x.tar', order)}", options)
        assert sorted(contents(data.train) + contents(data.test)) == expected({0: 0, 1: 1, 2: 1, 3: 0, 4: 0, 5: 1})
        assert data.facts.class_names == ("cat", "dog")


BAD_SHARDS = {
    "no label": ([("a.png", b"x"), *sample("b", 1, "0")], "1 images without a .cls file, the first is a "),
    "no image": ([("a.cls", b"1"), *sample("b", 1, "0")], "1 .cls files without an image, the first is a "),
    "two": ([("b.jpg", b"x"), *sample("b", 1, "0")], "1 samples with several images, the first is b "),
    "first dot": ([("a.input.png", b"x"), ("a.cls", b"0")], "1 images without a .cls file, the first is a.input "),
    "other": ([("a.npy", b"x"), ("a.cls", b"0")], "no images (suffixes of the files: .cls, .npy)"),
    "bytes": ([("a.png", b"x"), ("a.cls", b"\xff")], "a.cls: not text"),
    "kinds": ([*sample("a", 0, "-1"), *sample("b", 1, "0"), *sample("c", 2, "1")], "1 of 3 labels are not in 0..1"),
    "empty": ([*sample("a", 0, ""), *sample("b", 1, "cat")], "1 of 2 labels are missing"),
}


@pytest.mark.parametrize("kind", BAD_SHARDS)
def test_shards_that_are_refused(kind: str, options: DataOptions, tmp_path: Path) -> None:
    files, message = BAD_SHARDS[kind]
    assert message in refused(f"webdataset:{write_shard(tmp_path / 'x.tar', files)}", options)
