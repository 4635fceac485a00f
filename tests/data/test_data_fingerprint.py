"""The fingerprint says what the images are, not where they lie; and nothing here needs torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_sets import picture, png, write_folder, write_parquet

from vitbench.data import DataOptions, assembly, catalog, facts, open_images, resident


@pytest.fixture
def options(tmp_path: Path) -> DataOptions:
    return DataOptions(cache_dir=tmp_path / "cache")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pets", {"cat": 6, "dog": 6})


def fingerprint(root: Path, options: DataOptions) -> str:
    return facts(f"folder:{root}", options).fingerprint


def test_moved_folder_and_renamed_files_are_the_same_arrays(root: Path, options: DataOptions) -> None:
    before = open_images(f"folder:{root}", options)
    pixels = resident(before.train, 8)
    moved = Path(shutil.move(root, root.parent / "elsewhere"))
    for path in list(moved.rglob("*.png")):
        path.rename(path.with_name(f"new{9 - int(path.stem):03d}.png"))
    after = open_images(f"folder:{moved}", options)
    assert after.facts.fingerprint == before.facts.fingerprint
    assert np.array_equal(resident(after.train, 8), pixels)
    assert np.array_equal(after.train.labels, before.train.labels)


def test_one_changed_pixel_or_label_is_another_set(root: Path, options: DataOptions) -> None:
    before = fingerprint(root, options)
    pixels = picture(0)
    pixels[0, 0, 0] ^= 1
    (root / "cat" / "000.png").write_bytes(png(pixels))
    assert fingerprint(root, options) != before
    (root / "cat" / "000.png").write_bytes(png(picture(0)))
    assert fingerprint(root, options) == before
    (root / "cat" / "000.png").rename(root / "dog" / "900.png")
    assert fingerprint(root, options) != before


def test_touched_files_are_read_again_and_found_the_same(
    root: Path, options: DataOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(root, options)
    readings: list[str] = []
    read = catalog.assemble
    monkeypatch.setattr(catalog, "assemble", lambda name, *rest: (readings.append(name), read(name, *rest))[1])
    assert fingerprint(root, options) == before
    assert readings == []
    for path in root.rglob("*.png"):
        os.utime(path, (1, 1))
    assert fingerprint(root, options) == before
    assert len(readings) == 1


def test_change_behind_an_equal_size_and_time_is_seen_when_opened(root: Path, options: DataOptions) -> None:
    before = fingerprint(root, options)
    path = root / "cat" / "000.png"
    stat, content = path.stat(), png(picture(999))
    assert len(content) == stat.st_size
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint(root, options) == before  # size and time are all that the cache looks at
    assert open_images(f"folder:{root}", options).facts.fingerprint != before
    assert fingerprint(root, options) != before


def test_damaged_cache_is_done_without(root: Path, options: DataOptions) -> None:
    before = facts(f"folder:{root}", options)
    assert options.cache_dir is not None
    (entry,) = (options.cache_dir / "facts").iterdir()
    for damage in ("", "{", "[]", '{"class_names": []}'):
        entry.write_text(damage)
        assert facts(f"folder:{root}", options) == before
    blocked = options.cache_dir / "a file"
    blocked.write_text("")
    assert facts(f"folder:{root}", DataOptions(cache_dir=blocked)) == before


def test_large_sets_go_by_name_and_size(root: Path, options: DataOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "HASHED_BYTES", 100)
    first = facts(f"folder:{root}", options)
    assert "names and sizes" in first.fingerprint_note
    assert first.img_size is None  # no size is claimed that was not read
    moved = Path(shutil.move(root, root.parent / "elsewhere"))
    assert fingerprint(moved, options) == first.fingerprint
    (moved / "cat" / "000.png").rename(moved / "cat" / "renamed.png")
    assert fingerprint(moved, options) != first.fingerprint


def test_folder_and_parquet_of_the_same_files_are_the_same_set(
    root: Path, options: DataOptions, tmp_path: Path
) -> None:
    paths = sorted(root.rglob("*.png"))
    labels = [int(path.parent.name == "dog") for path in paths]
    write_parquet(tmp_path / "pets.parquet", [path.read_bytes() for path in paths], labels)
    assert facts(f"parquet:{tmp_path / 'pets.parquet'}", options).fingerprint == fingerprint(root, options)


def test_fake_never_changes(options: DataOptions) -> None:
    """A change of these numbers changes trials: raise ALGORITHM_VERSION with it."""
    assert facts("fake", options).fingerprint.startswith("b82a401993ab39e2")
    assert facts("fake_colour", options).fingerprint.startswith("85cfb483bf6f69c1")
    assert facts("digits", options).fingerprint.startswith("d0bd336ddd1120aa")


def test_no_torch_and_no_heavy_library(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from vitbench.data import DataOptions, facts, open_images
options = DataOptions(cache_dir=Path({str(tmp_path)!r}))
facts("digits", options)
open_images("fake", options)
print([name for name in ("torch", "torchvision", "sklearn", "scipy", "pandas", "pyarrow") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
