"""`vitbench prepare`, and what `run` and `doctor` say about prepared images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_prepared import photograph, write_kinds
from vitbench.base.signals import Terminated
from vitbench.cli import doctor
from vitbench.cli.commands.prepare import data_options, facts_source
from vitbench.cli.commands.prepare_images import img_size_of, prepared_lines
from vitbench.data import prepared
from vitbench.plan.trials import Builder
from vitbench.spec.experiment import Experiment
from vitbench.spec.load import loads

Cli = Callable[..., Any]
EXPERIMENT = """
name: tiny
base:
  data: {{name: "{name}", img_size: {size}, val_fraction: 0.2}}
  model: {{patch_size: 8, embed_dim: 16, depth: 1, num_heads: 2}}
  train: {{steps: 1, batch_size: 8, augment: light}}
seeds: 1
"""


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("VITBENCH_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(prepared, "MOST_PER_SHARD", 4)
    return write_kinds(tmp_path / "set", {"train": 6, "test": 3})


def ran(cli: Cli, tmp_path: Path, name: str, size: int = 16) -> Any:
    """A run of one step."""
    path = tmp_path / f"tiny{size}.yaml"
    path.write_text(EXPERIMENT.format(name=name, size=size))
    return cli("run", path, "--results", tmp_path / "results", "--replace", "-j", 1, "--device", "cpu")


def experiment(name: str, size: int) -> Experiment:
    """The experiment of one step at a size."""
    loaded = loads(EXPERIMENT.format(name=name, size=size), "tiny.yaml")
    assert isinstance(loaded, Experiment)
    return loaded


def said(name: str, *sizes: int) -> tuple[list[str], list[str]]:
    """The notes and warnings of runs at these sizes."""
    options = data_options(None, False)
    facts_of = facts_source(options)
    return prepared_lines([Builder(experiment(name, size), facts_of) for size in sizes], options)


def test_prepare_run_and_doctor(cli: Cli, tmp_path: Path, name: str) -> None:
    answer = cli("prepare", name, "--img-size", 16, "-j", 2)
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert lines[0] == f"{name}: 12 training and 6 test images in 2 classes (cat, dog)"
    assert "18 images of 16 x 16 px, 13.5 KiB in 5 shards: " in answer.out
    assert lines[-1] == "complete: 5 shards decoded, 0 kept and checked"
    again = cli("prepare", name, "--img-size", "16x16")
    assert again.out.splitlines()[-1] == "complete: 0 shards decoded, 5 kept and checked"

    notes, warnings = said(name, 16)
    assert not warnings
    assert notes[0].startswith(f"{name} at 16 x 16 px: prepared images of 16 x 16 px, {tmp_path}")
    assert cli("prepare", name, "--img-size", 72).code == 0
    first, _ = doctor.prepared_images(data_options(None, False))
    assert first.level == "ok"
    assert first.text.startswith(f"{name}, 18 images of 16 x 16 px, 13.5 KiB in ")

    notes, warnings = said(name, 24, 72)
    assert not warnings
    assert notes[0] == (
        f"{name} at 24 x 24 px: prepared images are of 16 x 16 px, of 72 x 72 px; "
        "they do not serve, the images are decoded"
    )
    assert notes[1].startswith(f"{name} at 72 x 72 px: prepared images of 72 x 72 px, ")
    assert notes[2] == (
        f"{name} at 72 x 72 px: crops of random sizes are cut from the original images, which are decoded for every "
        f"training step; `vitbench prepare '{name}' --img-size original` saves that"
    )

    shard = next((tmp_path / "cache" / "prepared").glob("*-16x16x3/train-00001-*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert said(name, 16)[1] == [
        f"{name} at 16 x 16 px: the prepared images of 16 x 16 px are not used: {shard.name} is truncated; "
        f"`vitbench prepare '{name}' --img-size 16` mends it"
    ]
    first, _ = doctor.prepared_images(data_options(None, False))
    assert (first.level, first.text) == ("warn", f"{name}, 18 images of 16 x 16 px: {shard.name} is truncated")
    assert "4 kept" in cli("prepare", name, "--img-size", 16).out


def test_changed_images_are_said(cli: Cli, tmp_path: Path, name: str) -> None:
    assert cli("prepare", name, "--img-size", 16, "--in-chans", 1).code == 0
    (tmp_path / "set" / "train" / "cat" / "0.png").write_bytes(photograph(99, "png"))
    answer = ran(cli, tmp_path, name)
    assert answer.code == 0
    assert "the images have changed since they were prepared; they are decoded" in answer.out
    (tmp_path / "set" / "train" / "cat").rename(tmp_path / "elsewhere")
    answer = cli("prepare", name, "--img-size", 16)
    assert answer.code == 2
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--img-size", "0"), "--img-size 0: allowed is a whole number from 1 to 4096, HEIGHTxWIDTH, or original"),
        (("--img-size", "-4"), "--img-size -4: allowed"),
        (("--img-size", "1.5"), "--img-size 1.5: allowed"),
        (("--img-size", "5000"), "--img-size 5000: allowed"),
        (("--img-size", "16", "--in-chans", "3"), "--in-chans 3: allowed is 1"),
    ],
)
def test_bad_words_are_one_line(cli: Cli, name: str, words: tuple[str, ...], line: str) -> None:
    answer = cli("prepare", name, *words)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {line}")
    assert answer.err.count("\n") == 1


def test_original_sizes_serve_every_run(cli: Cli, name: str) -> None:
    answer = cli("prepare", name, "--img-size", "original", "-j", 2)
    assert answer.code == 0
    assert "18 images in their original sizes, about 2" in answer.out
    notes, warnings = said(name, 24, 72)
    assert not warnings
    assert [note.rpartition(",")[0] for note in notes] == [
        f"{name} at {size} px: prepared images in their original sizes" for size in ("24 x 24", "72 x 72")
    ]


def test_a_stop_says_what_is_kept(cli: Cli, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(_: object) -> None:
        raise Terminated

    monkeypatch.setattr("vitbench.data.preparation.Preparation.run", stopped)
    answer = cli("prepare", name, "--img-size", 16)
    assert answer.code == 143
    assert answer.out.splitlines()[-1] == "0 of 5 shards, 0 of 18 images"
    assert answer.err == "stopped; finished shards are kept, run the same command again to resume\n"


def test_unknown_data_and_a_cache_that_is_a_file(
    cli: Cli, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = cli("prepare", "flowers", "--img-size", 16)
    assert answer.code == 2
    assert answer.err.startswith("error: data.name: no data set 'flowers'.")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VITBENCH_CACHE_DIR", str(tmp_path / "file"))
    answer = cli("prepare", name, "--img-size", 16)
    assert answer.code == 2
    assert "cannot write (Not a directory); VITBENCH_CACHE_DIR names another folder" in answer.err
    assert answer.err.count("\n") == 1


def test_sizes() -> None:
    assert img_size_of("224") == 224
    assert img_size_of("192x256") == (192, 256)
    assert img_size_of("64x64") == 64
    assert img_size_of("original") is None
