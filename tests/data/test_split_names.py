"""Which split a name states, and which files of a folder are read."""

from __future__ import annotations

import os
from pathlib import Path, PurePath

import pytest

from vitbench.base.errors import InputError
from vitbench.data.class_names import sort_class_names
from vitbench.data.file_tree import IMAGE_SUFFIXES, files_below, has_ignored_part
from vitbench.data.split_names import group_by_split, split_of_name, split_of_path

NAMES = {
    "train": "train", "Training": "train", "seg_train": "train", "trainset": "train", "TrainImages": "train",
    "train2017": "train", "train-00000-of-00002.parquet": "train", "my.train.data": "train", "TRAIN": "train",
    "x_train.npy": "train", "ISIC2019TrainingInput": "train", "train_images": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "eval": "val", "val2017": "val",
    "validset": "val", "seg-dev": "val",
    "test": "test", "testing": "test", "seg_test": "test", "testset.parquet": "test", "TestData": "test",
    "cats_test_1": "test",
    "latest": None, "contest": None, "constraint": None, "valley": None, "trainer": None, "device": None,
    "medieval": None, "testament": None, "cat": None, "n01440764": None, "strain": None, "развитие": None,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_states_its_split(name: str) -> None:
    assert split_of_name(name) == NAMES[name]


@pytest.mark.parametrize("name", ["train_test_split", "trainval", "train_val.parquet", "TrainTest", "test-dev2017"])
def test_two_splits_in_one_name_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: the name has words of two splits"):
        split_of_name(name)


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train_test_split/train.parquet", "train"),
        ("train_test_split/test.parquet", "test"),
        ("train/test.parquet", "test"),
        ("test/train/part-0.parquet", "train"),
        ("seg_test/seg_test/cat/1.jpg", "test"),
        ("data/part-0.parquet", None),
    ],
)
def test_the_files_own_name_decides_and_then_the_nearest_folder(path: str, split: str | None) -> None:
    assert split_of_path(PurePath(path)) == split


def test_a_folder_of_two_words_that_has_to_decide_is_refused() -> None:
    with pytest.raises(InputError, match="train_test_split: the name has words of two splits"):
        split_of_path(PurePath("train_test_split/part-0.parquet"))


def test_groups() -> None:
    paths = [PurePath(name) for name in ("a/train-0.pq", "a/test.pq", "a/train-1.pq", "a/dev.pq")]
    assert group_by_split(paths, "set") == {"train": [0, 2], "test": [1], "val": [3]}
    assert group_by_split([PurePath("a.pq"), PurePath("b.pq")], "set") is None
    with pytest.raises(InputError, match=r"^set: extra.pq has no split word .*; 1 such files$"):
        group_by_split([PurePath("train.pq"), PurePath("extra.pq")], "set")
    with pytest.raises(InputError, match=r"^set: no file is named after train, only after test$"):
        group_by_split([PurePath("test.pq")], "set")


def test_every_suffix_that_pillow_decodes_is_read() -> None:
    from PIL import Image

    Image.init()
    identified_only = {".bufr", ".grib", ".h5", ".hdf", ".mpg", ".mpeg", ".emf", ".wmf", ".eps", ".ps"}
    readable = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    assert readable - identified_only <= IMAGE_SUFFIXES
    assert not identified_only & IMAGE_SUFFIXES


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


def test_hidden_and_system_entries_are_left_out_at_every_depth(tmp_path: Path) -> None:
    for name in (
        "a/1.png", "a/2.jfif", "a/deep/3.JPG", "a/.hidden/4.png", "a/deep/.ipynb_checkpoints/5.png", "@eaDir/6.png",
        "__MACOSX/a/._1.png", "a/Thumbs.db", "a/.DS_Store", "a/notes.txt", "a/more.txt", "labels.csv", "README",
    ):  # fmt: skip
        _touch(tmp_path / name)
    tree = files_below(tmp_path, IMAGE_SUFFIXES)
    assert [path.relative_to(tmp_path).as_posix() for path in tree.files] == ["a/1.png", "a/2.jfif", "a/deep/3.JPG"]
    assert tree.left_out.suffixes == {".txt": 2, ".csv": 1, "no suffix": 1}
    assert sum(tree.left_out.ignored.values()) == 6
    assert (tree.left_out.note() or "").startswith("left out: 4 files")
    assert has_ignored_part(PurePath("__MACOSX/a.png"))
    assert not has_ignored_part(PurePath("a/b.png"))


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_that_leads_up_is_refused_by_name(target: str, tmp_path: Path) -> None:
    _touch(tmp_path / "set" / "a" / "1.png")
    os.symlink(target, tmp_path / "set" / "a" / "loop")
    with pytest.raises(InputError, match=r"set/a/loop: a link that leads up, to "):
        files_below(tmp_path / "set", IMAGE_SUFFIXES)


def test_links_to_other_places_are_followed(tmp_path: Path) -> None:
    _touch(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "set").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "set" / "a")
    os.symlink(tmp_path / "elsewhere", tmp_path / "set" / "b")
    assert len(files_below(tmp_path / "set", IMAGE_SUFFIXES).files) == 2
    os.symlink("nowhere", tmp_path / "set" / "gone.png")
    with pytest.raises(InputError, match=r"gone.png: a broken link; remove it"):
        files_below(tmp_path / "set", IMAGE_SUFFIXES)


def test_class_names_that_are_all_numbers_sort_as_numbers() -> None:
    assert sort_class_names(map(str, range(11))) == tuple(map(str, range(11)))
    assert sort_class_names(["b", "10", "2", "b"]) == ("10", "2", "b")
    assert sort_class_names(["002", "010", "1"]) == ("1", "002", "010")
