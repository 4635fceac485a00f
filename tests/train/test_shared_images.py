"""Images that the trial processes of a command share: filled once, the same bits, private if written to."""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import Any

import numpy as np
import pytest
import torch

from vitbench.data import DataOptions
from vitbench.spec.trial import DataSpec
from vitbench.train import resident, shared_images
from vitbench.train.resident import Images, load_images
from vitbench.train.shared_images import SharedImages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")
SPEC = DataSpec(name="fake", img_size=8)


def fields() -> dict[str, Any]:
    return {"train": np.arange(12, dtype=np.uint8).reshape(3, 4), "names": None, "mean": np.ones(1), "num_classes": 4}


def never() -> dict[str, Any]:
    raise AssertionError("the images are read once")


@pytest.fixture
def images() -> SharedImages:
    images = SharedImages()
    images.hold([SPEC, SPEC])
    return images


def test_what_one_fills_the_next_maps(images: SharedImages) -> None:
    first, second = images.fields(SPEC, fields), images.fields(SPEC, never)
    assert first is not None
    assert second is not None
    assert np.array_equal(first["train"], fields()["train"])
    first["train"][:] = 0
    assert np.array_equal(second["train"], fields()["train"]), "a write stays in its process"
    assert (second["names"], second["num_classes"]) == (None, 4)


def test_a_process_that_dies_while_it_fills_leaves_the_file_empty(
    images: SharedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header is written last."""
    plain, num_writes = shared_images._write, 0

    def dies(*words: Any) -> None:
        nonlocal num_writes
        num_writes += 1
        if num_writes == 4:
            raise KeyboardInterrupt
        plain(*words)

    monkeypatch.setattr(shared_images, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        images.fields(SPEC, fields)
    monkeypatch.setattr(shared_images, "_write", plain)
    again = images.fields(SPEC, fields)
    assert again is not None
    assert np.array_equal(again["train"], fields()["train"])


def test_without_memory_every_process_keeps_its_own(images: SharedImages, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(shared_images, "_write", full)
    assert images.fields(SPEC, fields) is not None
    with pytest.raises(AssertionError, match="read once"):
        images.fields(SPEC, never)


def test_sets_that_are_not_needed_are_released(images: SharedImages) -> None:
    (file,) = images._files.values()
    images.hold([DataSpec(name="fake", img_size=16)])
    assert len(images._files) == 1
    with pytest.raises(AssertionError, match="read once"):
        images.fields(SPEC, never)
    assert file not in images._files.values() or os.fstat(file).st_size == 0


def test_what_is_not_resident_is_not_shared(images: SharedImages) -> None:
    assert images.fields(SPEC, lambda: None) is None
    assert images.fields(SPEC, fields) is not None


def _checksum(images: SharedImages, connection: Any) -> None:
    found = images.fields(SPEC, never)
    assert found is not None
    connection.send(found["train"].tolist())


@pytest.mark.slow
def test_memory_files_travel_to_a_child_process(images: SharedImages) -> None:
    images.fields(SPEC, fields)
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    child = context.Process(target=_checksum, args=(images, theirs))
    child.start()
    child.join()
    assert ours.recv() == fields()["train"].tolist()


def test_shared_images_are_the_same_bits(images: SharedImages, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded() -> Images:
        resident._cache.clear()
        source = load_images(SPEC, DataOptions(), torch.device("cpu"))
        assert isinstance(source, Images)
        return source

    plain = loaded()
    monkeypatch.setattr(shared_images, "shared", images)
    loaded()
    mapped = loaded()
    resident._cache.clear()
    for name in ("train", "test", "mean", "std"):
        assert torch.equal(getattr(mapped, name), getattr(plain, name))
    for name in ("train_labels", "test_labels"):
        assert np.array_equal(getattr(mapped, name), getattr(plain, name))
    assert (mapped.fingerprint, mapped.num_classes) == (plain.fingerprint, plain.num_classes)
