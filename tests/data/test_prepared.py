"""Prepared images: the pixels of decoding on the fly, whole or not used, nothing decoded twice."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.fixtures.made_sets import picture, png, write_folder, write_parquet
from vitbench.base import durable
from vitbench.base.errors import IncompleteError, InputError, NoSpaceError
from vitbench.data import DataOptions, ImageData, centre_crop, open_images, prepared, with_prepared
from vitbench.data.preparation import Preparation
from vitbench.data.prepared import ImgSize, PreparedSet, contents_of, prepared_sets
from vitbench.data.shards import Shards

SIDE = 12


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "MOST_PER_SHARD", 5)


@pytest.fixture
def options(tmp_path: Path) -> DataOptions:
    return DataOptions(cache_dir=tmp_path / "cache")


def photograph(key: int, kind: str) -> bytes:
    """One of the forms in which people keep images, as a file's bytes."""
    height, width = 20 + key % 5, 26 - key % 7
    image = Image.fromarray(picture(key, height, width))
    buffer = io.BytesIO()
    if kind == "jpeg":
        image.save(buffer, "JPEG", quality=90)
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 2 + key % 7
        image.save(buffer, "JPEG", quality=90, exif=exif)
    elif kind == "grey":
        image.convert("L").save(buffer, "PNG")
    elif kind == "palette":
        image.quantize(16).save(buffer, "PNG")
    elif kind == "alpha":
        image.putalpha(Image.fromarray(picture(key, height, width, 1)[..., 0]))
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


KINDS = ("jpeg", "turned", "grey", "palette", "alpha", "png")


def write_kinds(root: Path, parts: dict[str, int], kinds: tuple[str, ...] = KINDS) -> str:
    """A folder of two classes with so many images per class and split, in all forms."""
    key = 0
    for part, count in parts.items():
        for label in ("cat", "dog"):
            (root / part / label).mkdir(parents=True)
            for i in range(count):
                (root / part / label / f"{i}.png").write_bytes(photograph(key, kinds[key % len(kinds)]))
                key += 1
    return f"folder:{root}"


def prepare(data: ImageData, options: DataOptions, jobs: int = 1, size: ImgSize | None = SIDE) -> list[str]:
    """Prepare the images; what happened to each shard."""
    return [done.how for done in Preparation.of(data, size, options, jobs).run()]


def assert_same_pixels(data: ImageData, mapped: ImageData, size: ImgSize | None = SIDE) -> None:
    for split, other in ((data.train, mapped.train), (data.test, mapped.test)):
        assert isinstance(other.shards, Shards)
        assert other.labels.tolist() == split.labels.tolist()
        for i in range(len(split)):
            image = split.read(i)
            np.testing.assert_array_equal(other.read(i), image if size is None else centre_crop(image, size))


def the_set(options: DataOptions) -> PreparedSet:
    (found,) = prepared_sets(options)
    return found


@pytest.mark.parametrize("size", [SIDE, None])
@pytest.mark.parametrize(
    ("parts", "name_suffix"),
    [
        ({"train": 8, "val": 2, "test": 3}, ""),
        ({"train": 7, "test": 3}, ""),
        ({".": 9}, ""),
        ({".": 9}, "?split=blocks"),
    ],
)
def test_pixels_are_those_of_decoding(
    tmp_path: Path, options: DataOptions, parts: dict[str, int], name_suffix: str, size: ImgSize | None
) -> None:
    data = open_images(write_kinds(tmp_path / "set", parts) + name_suffix, options)
    assert data.facts.num_turned
    assert data.facts.num_transparent
    assert with_prepared(data, size, options) is data
    assert set(prepare(data, options, jobs=2, size=size)) == {"decoded"}
    mapped = with_prepared(data, size, options)
    assert mapped.facts == data.facts
    assert_same_pixels(data, mapped, size)
    for field in ("groups", "val", "rank"):
        assert (getattr(mapped.train, field) is None) == (getattr(data.train, field) is None)


def test_sizes_that_are_not_square_grey_sets_and_tables(tmp_path: Path, options: DataOptions) -> None:
    images = [photograph(key, "jpeg") for key in range(12)]
    write_parquet(tmp_path / "set" / "train.parquet", images, [0, 1] * 6)
    data = open_images(f"parquet:{tmp_path / 'set'}", options)
    prepare(data, options, size=(8, 20))
    assert_same_pixels(data, with_prepared(data, (8, 20), options), (8, 20))
    grey = data.with_channels(1)
    assert with_prepared(grey, (8, 20), options) is grey
    prepare(grey, options, size=(8, 20))
    mapped = with_prepared(grey, (8, 20), options)
    assert mapped.train.in_chans == 1
    assert_same_pixels(grey, mapped, (8, 20))
    assert len(list(prepared_sets(options))) == 2


def test_whole_images_serve_every_size_and_are_mended(tmp_path: Path, options: DataOptions) -> None:
    data = open_images(write_kinds(tmp_path / "set", {"train": 6, "test": 5}), options)
    prepare(data, options, size=None)
    assert prepare(data, options, size=None).count("kept") == 5
    mapped = with_prepared(data, SIDE, options)
    assert mapped.train.shards is not None
    assert mapped.train.shards.is_whole
    for i in range(len(data.train)):
        np.testing.assert_array_equal(centre_crop(mapped.train.read(i), 9), centre_crop(data.train.read(i), 9))
    prepare(data, options, size=SIDE)
    sized = with_prepared(data, SIDE, options)
    assert sized.train.shards is not None
    assert not sized.train.shards.is_whole
    flip_byte(next(item for item in prepared_sets(options) if item.contents.is_whole).files()["test-00000"])
    assert with_prepared(data, None, options) is data
    assert with_prepared(data, SIDE, options) is not data
    assert prepare(data, options, size=None).count("decoded") == 1
    assert_same_pixels(data, with_prepared(data, None, options), None)


def test_arrays_are_prepared_for_another_size_only(options: DataOptions) -> None:
    data = open_images("fake", options)
    size = int(data.train.read(0).shape[0])
    with pytest.raises(InputError, match="nothing to prepare"):
        prepare(data, options, size=size)
    with pytest.raises(InputError, match="nothing to prepare"):
        prepare(data, options, size=None)
    prepare(data, options, size=size + 4, jobs=2)
    assert_same_pixels(data, with_prepared(data, size + 4, options), size + 4)


def test_another_size_or_changed_images_are_decoded(tmp_path: Path, options: DataOptions) -> None:
    name = write_kinds(tmp_path / "set", {"train": 3, "test": 2})
    data = open_images(name, options)
    prepare(data, options)
    assert with_prepared(data, SIDE + 1, options) is data
    (tmp_path / "set" / "train" / "cat" / "0.png").write_bytes(photograph(99, "png"))
    changed = open_images(name, options)
    assert with_prepared(changed, SIDE, options) is changed


def test_images_told_apart_by_name_count_their_times(
    tmp_path: Path, options: DataOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fingerprint of names and sizes does not see a changed image of the same size; the file's time does."""
    monkeypatch.setattr("vitbench.data.assembly.HASHED_BYTES", 0)
    name = write_kinds(tmp_path / "set", {"train": 3, "test": 2})
    data = open_images(name, options)
    prepare(data, options)
    assert with_prepared(data, SIDE, options) is not data
    path = tmp_path / "set" / "train" / "cat" / "0.png"
    os.utime(path, ns=(0, 0))
    touched = open_images(name, options)
    assert touched.facts.fingerprint == data.facts.fingerprint
    assert with_prepared(touched, SIDE, options) is touched
    assert set(prepare(touched, options)) == {"decoded"}


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason", "num_decoded"),
    [
        (flip_byte, "checksum", 1),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated", 1),
        (lambda path: path.unlink(), "incomplete", 1),
        (lambda path: (path.parent / "set.json").write_text("{"), "set.json is damaged", 4),
        (lambda path: rewrite(path.parent, format=0), "format 0", 4),
        (lambda path: rewrite(path.parent, decoder="Pillow 1.0"), "decoded by Pillow 1.0", 4),
        (lambda path: rewrite(path.parent, num_train=3), "other images", 4),
        (lambda path: rewrite(path.parent, height="3"), "set.json is damaged", 4),
    ],
)
def test_a_damaged_set_is_not_used_and_mended(
    tmp_path: Path, options: DataOptions, damage: Callable[[Path], object], reason: str, num_decoded: int
) -> None:
    data = open_images(write_kinds(tmp_path / "set", {"train": 5, "test": 5}), options)
    prepare(data, options)
    whole = PreparedSet.of(contents_of(data.facts, data.stamp, SIDE), options)
    assert whole.why_not() is None
    damage(whole.files()["train-00001"])
    assert reason in str(whole.why_not())
    assert with_prepared(data, SIDE, options) is data
    assert prepare(data, options).count("decoded") == num_decoded
    assert_same_pixels(data, with_prepared(data, SIDE, options))


def rewrite(folder: Path, **fields: object) -> None:
    path = folder / "set.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_flipped_bit_under_the_old_time_is_found_by_preparing_again(tmp_path: Path, options: DataOptions) -> None:
    data = open_images(write_kinds(tmp_path / "set", {"train": 5, "test": 5}), options)
    prepare(data, options)
    path = the_set(options).files()["test-00000"]
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    flip_byte(path)
    os.utime(path, ns=times)
    assert the_set(options).why_not() is None
    assert prepare(data, options).count("decoded") == 1
    assert_same_pixels(data, with_prepared(data, SIDE, options))


def test_a_copied_set_is_compared_once(tmp_path: Path, options: DataOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_images(write_kinds(tmp_path / "set", {"train": 5, "test": 5}), options)
    prepare(data, options)
    other = replace(options, cache_dir=tmp_path / "other")
    shutil.copytree(tmp_path / "cache", tmp_path / "other", copy_function=shutil.copyfile)
    compared: list[Path] = []
    is_whole = prepared.is_whole
    monkeypatch.setattr(prepared, "is_whole", lambda path: compared.append(path) or is_whole(path))
    for _ in range(2):
        assert_same_pixels(data, with_prepared(data, SIDE, other))
    assert len(compared) == 4


def test_an_image_that_cannot_be_decoded_is_named_and_the_rest_is_kept(tmp_path: Path, options: DataOptions) -> None:
    for key, part in enumerate(("train", "test")):
        write_folder(tmp_path / "set" / part, {"cat": 10, "dog": 10}, start=100 * key, height=30, width=30)
    (tmp_path / "set" / "train" / "dog" / "bad.png").write_bytes(png(picture(77, 30, 30))[:-800])
    data = open_images(f"folder:{tmp_path / 'set'}", options)
    with pytest.raises(InputError, match=r"bad\.png: the image is damaged"):
        prepare(data, options, jobs=2)
    assert with_prepared(data, SIDE, options) is data


def test_a_full_disk_and_a_folder_that_cannot_be_written(
    tmp_path: Path, options: DataOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_images(write_kinds(tmp_path / "set", {"train": 5, "test": 5}), options)
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(durable.shutil, "disk_usage", lambda _: usage._replace(free=100))
        with pytest.raises(NoSpaceError, match=r"100 bytes free, prepared images need 8\.4 KiB; free some space"):
            prepare(data, options)
    assert not list(prepared_sets(options))
    with monkeypatch.context() as patch:
        patch.setenv("VITBENCH_TESTING", "1")
        patch.setenv("VITBENCH_FAULT", "shard.mid_write:2:space")
        with pytest.raises(NoSpaceError, match="finished shards are kept"):
            prepare(data, options)
    assert sorted(prepare(data, options)) == ["decoded", "decoded", "decoded", "kept"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write.*VITBENCH_CACHE_DIR names another folder"):
        prepare(data, replace(options, cache_dir=tmp_path / "file"))


def test_two_commands_do_not_work_on_one_set(
    tmp_path: Path, options: DataOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitbench.data.preparation.LOCK_SECONDS", 0.0)
    data = open_images(write_kinds(tmp_path / "set", {"train": 5, "test": 5}), options)
    first = Preparation.of(data, SIDE, options, 1).run()
    next(first)
    with pytest.raises(IncompleteError, match="another `vitbench prepare` is at work"):
        prepare(data, options)
    assert len(list(first)) == 3


PREPARING = """
import sys
from pathlib import Path
from vitbench.base.signals import Stopped, stoppable
from vitbench.data import DataOptions, open_images, prepared
from vitbench.data.preparation import Preparation
prepared.MOST_PER_SHARD = 5
options = DataOptions(cache_dir=Path(sys.argv[2]))
try:
    with stoppable():
        for done in Preparation.of(open_images(sys.argv[1], options), 12, options, 2).run():
            print(done.name, flush=True)
            if len(sys.argv) == 3:
                import time
                time.sleep(60)
except Stopped as stop:
    sys.exit(stop.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_command_goes_on(tmp_path: Path, options: DataOptions, number: signal.Signals) -> None:
    """Shards that were in place when the parent was killed are not decoded again, and no process outlives it."""
    name = write_kinds(tmp_path / "set", {"train": 15, "test": 5})
    words = [sys.executable, "-c", PREPARING, name, str(tmp_path / "cache")]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    first = child.stdout.readline().strip()
    child.send_signal(number)
    assert child.wait(30) == (143 if number == signal.SIGTERM else -9)
    child.stdout.read()  # Ends when no process holds the pipe any more.
    data = open_images(name, options)
    before = {path.name: path.stat().st_mtime_ns for path in the_set(options).files().values()}
    assert first in before
    assert prepare(data, options, jobs=2).count("kept") == len(before)
    after = {path.name: path.stat().st_mtime_ns for path in the_set(options).files().values()}
    assert before.items() <= after.items()
    assert not [path for path in the_set(options).folder.iterdir() if path.name.startswith(".")]
    assert_same_pixels(data, with_prepared(data, SIDE, options))


@pytest.mark.parametrize("point", ["shard.mid_write", "shard.before_rename", "prepare.image"])
def test_a_killed_process_costs_its_shard_only(
    tmp_path: Path, options: DataOptions, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    data = open_images(write_kinds(tmp_path / "set", {"train": 5, "test": 5}), options)
    with monkeypatch.context() as patch:
        patch.setenv("VITBENCH_TESTING", "1")
        patch.setenv("VITBENCH_FAULT", f"{point}:{12 if point == 'prepare.image' else 3}")
        with pytest.raises(IncompleteError, match="test-00000 was lost"):
            prepare(data, options)
    assert sorted(the_set(options).files()) == ["train-00000", "train-00001"]
    assert sorted(prepare(data, options)) == ["decoded", "decoded", "kept", "kept"]
    assert_same_pixels(data, with_prepared(data, SIDE, options))


def test_a_shard_that_vanishes_is_one_line(tmp_path: Path, options: DataOptions) -> None:
    data = open_images(write_kinds(tmp_path / "set", {"train": 5, "test": 5}), options)
    prepare(data, options)
    mapped = with_prepared(data, SIDE, options)
    the_set(options).files()["test-00001"].unlink()
    with pytest.raises(InputError, match="the prepared images cannot be read"):
        mapped.test.read(6)


def test_many_shards_do_not_exhaust_open_files(tmp_path: Path, options: DataOptions) -> None:
    """Python keeps a file open per map; the least recently used ones are closed."""
    from vitbench.data import shards

    paths = []
    for i in range(shards.MAX_MAPPED + 20):
        paths.append(tmp_path / f"{i}.u8")
        paths[-1].write_bytes(bytes([i % 256]) * 3)
    images = Shards(tuple(paths), 1, (1, 1, 3), np.arange(len(paths)))
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    assert [int(images.read(i)[0, 0, 0]) for i in range(len(paths))] == [i % 256 for i in range(len(paths))]
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + shards.MAX_MAPPED
    assert images.take(np.array([5, 3])).read(1)[0, 0, 0] == 3
    shards._mapped.cache_clear()
