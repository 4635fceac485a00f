"""The right images, the right pixels and the right names, as other people's files and tools write them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from made_sets import picture, png, write_folder
from PIL import Image

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, ImageData, check, describe, facts, open_images, partition, partition_sizes
from vitbench.data.decode import TURNS, decode, read_header
from vitbench.spec.trial import DataSpec


@pytest.fixture
def options(tmp_path: Path) -> DataOptions:
    return DataOptions(cache_dir=tmp_path / "cache")


def opened(root: Path, options: DataOptions) -> ImageData:
    return open_images(f"folder:{root}", options)


def refused(root: Path, options: DataOptions) -> str:
    with pytest.raises(InputError) as caught:
        opened(root, options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, kind, **options)
    return buffer.getvalue()


# Splits that the user made


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("seg_train", "seg_test"),
        ("trainset", "testset"),
        ("Training", "Testing"),
        ("train2017", "val2017"),
        ("my train images", "my dev images"),
        ("TrainData", "evalData"),
    ],
)
def test_split_words_inside_folder_names(train: str, test: str, options: DataOptions, tmp_path: Path) -> None:
    write_folder(tmp_path / "set" / train, {"a": 5, "b": 4})
    write_folder(tmp_path / "set" / test, {"a": 2, "b": 1}, start=100)
    data = opened(tmp_path / "set", options)
    assert (data.facts.num_train, data.facts.num_test, data.facts.class_names) == (9, 3, ("a", "b"))
    assert f"splits by name: training from {train}/; test from {test}/" in describe(data.facts)


def test_a_split_folder_inside_its_own_name(options: DataOptions, tmp_path: Path) -> None:
    """As a well-known set of landscapes is packed: seg_train/seg_train/street."""
    write_folder(tmp_path / "set" / "seg_train" / "seg_train", {"a": 5, "b": 4})
    write_folder(tmp_path / "set" / "seg_test" / "seg_test", {"a": 2, "b": 1}, start=100)
    assert opened(tmp_path / "set", options).facts.class_names == ("a", "b")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["train_test_split/a", "train_test_split/b", "c"], "the name has words of two splits (test and train)"),
        (["train/a", "train/b", "extra/a"], "train is named after a split and extra is not"),
        (["train", "car"], "train is named after a split and car is not"),
        (["dataset/train/a", "dataset/test/a"], "holds one folder, dataset, which holds test, train; use folder:"),
        (["animals/cat", "animals/dog"], "holds one folder, animals, which holds cat, dog; use folder:"),
        (["a/deep/x", "b/deep/x"], "the class folder a holds folders and no images"),
        (["a/train", "b/test"], "the folder a/train is named after a split, not after a class"),
    ],
)
def test_folders_that_do_not_say_what_they_are(
    folders: list[str], message: str, options: DataOptions, tmp_path: Path
) -> None:
    write_folder(tmp_path / "set", dict.fromkeys(folders, 3))
    assert message in refused(tmp_path / "set", options)


def test_a_validation_folder_is_the_validation_split_of_every_seed(options: DataOptions, tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_folder(root / "train", {"a": 6, "b": 6})
    write_folder(root / "valid", {"a": 2, "b": 3}, start=50)
    write_folder(root / "test", {"a": 4, "b": 4}, start=70)
    data = opened(root, options)
    assert (len(data.train), data.facts.num_test, data.facts.val_counts) == (17, 8, (2, 3))
    assert describe(data.facts)[0].endswith("12 training, 5 validation and 8 test images in 2 classes (a, b)")
    for seed in (0, 1):
        part = partition(data.train, seed, DataSpec())
        assert {Path(data.train.name(int(i))).parts[-3] for i in part.val} == {"valid"}
        assert {Path(data.train.name(int(i))).parts[-3] for i in part.train} == {"train"}
        assert (len(part.train), len(part.val)) == partition_sizes(data.facts.counts, DataSpec()) == (12, 5)
    without = opened(write_folder(tmp_path / "other" / "train", {"a": 6, "b": 6}).parent, options)
    assert without.facts.val_counts == ()


# Pixels


def turned_for(orientation: int, upright: np.ndarray) -> Image.Image:
    """The image as a camera stores it, so that the orientation makes it upright."""
    inverse = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    image = Image.fromarray(upright)
    return image.transpose(inverse.get(orientation, TURNS[orientation])) if orientation in TURNS else image


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG", "MPO"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = np.repeat(np.repeat(picture(1, 2, 3), 16, axis=0), 16, axis=1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    settings = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind in ("JPEG", "MPO") else {}
    turned_for(orientation, upright).save(buffer, kind, exif=exif, **settings)
    header, pixels = read_header(buffer.getvalue(), "a"), decode(buffer.getvalue(), "a", 3)
    assert (header.height, header.width) == pixels.shape[:2] == (32, 48)
    assert np.abs(pixels.astype(int) - upright).mean() < 8 * (kind in ("JPEG", "MPO")) + 0.1
    assert header.turned == (orientation != 1 and kind != "TIFF")


def test_a_damaged_orientation_is_no_orientation() -> None:
    for value in (0, 9, 700):
        exif = Image.Exif()
        exif[0x0112] = value
        content = encoded(picture(1), "PNG", exif=exif)
        assert np.array_equal(decode(content, "a", 3), picture(1))
        assert not read_header(content, "a").turned


def test_turned_images_are_another_set_and_are_counted(options: DataOptions, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 6, "b": 6})
    before = opened(root, options).facts
    assert not any("EXIF" in line for line in describe(before))
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "a" / "000.png").write_bytes(encoded(picture(0), "PNG", exif=exif))
    after = opened(root, options).facts
    assert after.num_turned == 1
    assert "1 image turned upright as the EXIF orientation says" in describe(after)
    assert facts(f"folder:{root}", options) == after


def ghost(mode: str) -> bytes:
    """An image whose shape, a white-free square on the left, is in its transparency alone."""
    alpha = np.zeros((8, 8), dtype=np.uint8)
    alpha[:, :4] = 255
    buffer = io.BytesIO()
    if mode in ("RGBA", "LA"):
        colour = Image.new(mode[:-1], (8, 8), 0)
        colour.putalpha(Image.fromarray(alpha))
        colour.save(buffer, "PNG")
    elif mode == "P":
        palette = Image.fromarray((alpha == 0).astype(np.uint8), "P")
        palette.putpalette([0, 0, 0, 0, 0, 0])
        palette.save(buffer, "PNG", transparency=1)
    elif mode == "GIF":
        palette = Image.fromarray((alpha == 0).astype(np.uint8), "P")
        palette.putpalette([0, 0, 0, 9, 9, 9])
        palette.save(buffer, "GIF", transparency=1)
    else:
        key = np.where(alpha[..., None] > 0, 0, 7).astype(np.uint8).repeat(3, axis=2)
        Image.fromarray(key).save(buffer, "PNG", transparency=(7, 7, 7))
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "GIF", "RGB"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    content = ghost(mode)
    assert read_header(content, "a").transparent
    for in_chans in (1, 3):
        pixels = decode(content, "a", in_chans)
        assert (pixels[:, :4] == 0).all()
        assert (pixels[:, 4:] == 255).all()


def test_opaque_alpha_changes_nothing(options: DataOptions) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.dstack([picture(3), np.full((8, 8), 255, np.uint8)])).save(buffer, "PNG")
    assert not read_header(buffer.getvalue(), "a").transparent
    assert np.array_equal(decode(buffer.getvalue(), "a", 3), picture(3))


def test_transparent_images_are_counted(options: DataOptions, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 6, "b": 6})
    (root / "a" / "ghost.png").write_bytes(ghost("RGBA"))
    assert "1 transparent image laid on white" in describe(opened(root, options).facts)


def test_constant_images_are_said(options: DataOptions, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 6, "b": 6})
    for i in range(2):
        (root / "b" / f"black{i}.png").write_bytes(png(np.full((8, 8, 3), i, dtype=np.uint8)))
    (line,) = check(f"folder:{root}", options).warnings
    assert line == "train: 2 of 14 images are of one colour, without variance"


# Which files count


def test_every_image_suffix_counts_and_the_rest_is_reported(options: DataOptions, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 6, "b": 6})
    for i in range(4):
        (root / "a" / f"more{i}.jfif").write_bytes(encoded(picture(50 + i), "JPEG"))
    for name in ("a/.thumbnails", "a/.ipynb_checkpoints", "b/@eaDir", "__MACOSX"):
        (root / name).mkdir()
        (root / name / "hidden.png").write_bytes(png(picture(99)))
    (root / "b" / "notes.txt").write_text("x")
    data = opened(root, options)
    assert data.facts.num_train + data.facts.num_test == 16
    (line,) = [line for line in describe(data.facts) if "left out" in line]
    assert "1 files that are not read by suffix (1 .txt)" in line
    assert "4 hidden or system entries" in line


def test_a_class_folder_with_no_readable_image_is_refused(options: DataOptions, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 6, "b": 6})
    (root / "c").mkdir()
    (root / "c" / "photo.heic").write_bytes(b"x")
    assert "class folder c has no images that can be read" in refused(root, options)


def test_a_link_that_leads_up_is_refused(options: DataOptions, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 6, "b": 6})
    os.symlink("..", root / "a" / "up")
    assert "set/a/up: a link that leads up" in refused(root, options)


# Names


def test_class_folders_that_are_numbers_are_in_number_order(options: DataOptions, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {str(i): 4 for i in range(11)})
    data = opened(root, options)
    assert data.facts.class_names == tuple(map(str, range(11)))
    assert all(int(Path(data.train.name(i)).parent.name) == data.train.labels[i] for i in range(len(data.train)))


# Equal images


def pool(root: Path, copies: int, kind: str) -> Path:
    """Two classes of eight pictures, each there `copies` times: the same file, or the same pixels in other files."""
    for label in (0, 1):
        (root / "ab"[label]).mkdir(parents=True)
        for key in range(8):
            for copy in range(copies):
                pixels = picture(100 * label + key)
                settings = {"file": {}, "compression": {"compress_level": 9 * (copy % 2)}, "format": {}}[kind]
                suffix = ("png", "bmp")[copy % 2] if kind == "format" else "png"
                content = encoded(pixels, suffix.upper(), **settings)
                (root / "ab"[label] / f"{key}-{copy}.{suffix}").write_bytes(content)
    return root


def contents(data: ImageData, part: str, rows: np.ndarray | None = None) -> set[bytes]:
    split = getattr(data, part)
    return {split.read(int(i)).tobytes() for i in (range(len(split)) if rows is None else rows)}


@pytest.mark.parametrize("kind", ["file", "compression", "format"])
@pytest.mark.parametrize("copies", [2, 4])
def test_equal_images_are_on_one_side(kind: str, copies: int, options: DataOptions, tmp_path: Path) -> None:
    data = opened(pool(tmp_path / "set", copies, kind), options)
    assert data.facts.num_test > 0
    assert data.facts.num_train + data.facts.num_test == 16 * copies
    assert not contents(data, "train") & contents(data, "test")
    assert data.facts.num_test_in_train == 0
    for seed in range(3):
        spec = DataSpec(val_fraction=0.3)
        part = partition(data.train, seed, spec)
        assert len(part.val) > 0
        assert (len(part.train), len(part.val)) == partition_sizes(data.facts.counts, spec)
        assert not contents(data, "train", part.train) & contents(data, "train", part.val)
    again = facts(f"folder:{tmp_path / 'set'}", options)
    assert again == data.facts
    assert any("equal to an earlier image of the set; equal images are on one side" in line for line in again.notes)


def test_jpeg_files_that_differ_in_their_metadata_alone_are_equal(options: DataOptions, tmp_path: Path) -> None:
    root = tmp_path / "set"
    for label in "ab":
        (root / label).mkdir(parents=True)
        for key in range(8):
            for copy in range(2):
                content = encoded(picture(ord(label) * 100 + key), "JPEG", comment=f"copy {copy}".encode())
                (root / label / f"{key}-{copy}.jpg").write_bytes(content)
    data = opened(root, options)
    assert len(data.facts.same_pixels) == 16
    assert not contents(data, "train") & contents(data, "test")


def test_one_image_under_two_labels_is_said_and_not_held_out(options: DataOptions, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 8, "b": 8})
    (root / "b" / "again.png").write_bytes((root / "a" / "000.png").read_bytes())
    data = opened(root, options)
    (line,) = [line for line in data.facts.notes if "two labels" in line]
    assert line.startswith("1 image under two labels, e.g. ")
    assert "a/000.png" in line
    assert "b/again.png" in line
    both = picture(0).tobytes()
    for seed in range(5):
        assert both not in contents(data, "train", partition(data.train, seed, DataSpec(val_fraction=0.5)).val)


def test_without_copies_nothing_changes(options: DataOptions, tmp_path: Path) -> None:
    """The fingerprint of such a set is that of earlier versions."""
    root = write_folder(tmp_path / "set", {"a": 6, "b": 6})
    known = opened(root, options).facts
    assert known.fingerprint.startswith("29bbfd033b64f42f")
    assert known.group_sizes == ()


def test_test_images_with_the_pixels_of_training_images_are_said(options: DataOptions, tmp_path: Path) -> None:
    root = tmp_path / "set"
    write_folder(root / "train", {"a": 6, "b": 6})
    write_folder(root / "test", {"a": 2, "b": 2}, start=50)
    (root / "test" / "a" / "same.bmp").write_bytes(encoded(picture(0), "BMP"))
    assert check(f"folder:{root}", options).warnings == ("1 of 5 test images have the same pixels as a training image",)


def test_many_bad_images_are_one_line(options: DataOptions, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"a": 6, "b": 6})
    for path in root.rglob("*.png"):
        path.write_bytes(b"<html>")
    (line,) = check(f"folder:{root}", options).problems
    assert line.startswith("train: 12 of 12 images cannot be read, the first 3: ")
    assert line.count("not an image") == 3
