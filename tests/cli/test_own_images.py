"""Experiments on images as other people have them, by the real commands: the right accuracy, or one clear line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

EXPERIMENT = """
name: own
base:
  data: {val_fraction: 0.2, flip: false, img_size: 16}
  model: {patch_size: 4, embed_dim: 32, depth: 2, num_heads: 2, pos_embed: sincos_2d}
  train: {epochs: 60, batch_size: 16, lr: 4e-3, augment: none}
seeds: 1
"""
Cli = Callable[..., Any]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(EXPERIMENT)
    return path


def bars(label: int, key: int, side: int = 16) -> np.ndarray:
    """The upper half bright (class 0) or the left half (class 1), on noise: upright pixels tell the classes apart."""
    pixels = np.random.default_rng(key).integers(0, 90, (side, side, 3), dtype=np.uint8)
    if label == 0:
        pixels[:8] += 150
    else:
        pixels[:, :8] += 150
    return pixels


def save(path: Path, pixels: np.ndarray, turned: bool = False) -> None:
    """A JPEG file; `turned` as a phone that was held upright stores it: lying, with EXIF orientation 6."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image, exif = Image.fromarray(pixels), Image.Exif()
    if turned:
        exif[0x0112], image = 6, image.transpose(Image.Transpose.ROTATE_90)
    image.save(path, "JPEG", quality=95, exif=exif)


def phone(root: Path, train: str = "train", test: str = "test") -> Path:
    for label, name in enumerate(("banner", "column")):
        for i in range(24):
            save(root / train / name / f"{i}.jpg", bars(label, 100 * label + i))
        for i in range(10):
            save(root / test / name / f"{i}.jpg", bars(label, 1000 + 100 * label + i), turned=True)
    return root


def accuracy(cli: Cli, own: Path, data: str, root: Path, *more: str) -> float:
    answer = cli("run", own, "--data", data, "-j", 1, "--results", root, "--json", *more)
    assert answer.code == 0, answer.err
    (folder,) = [Path(run["folder"]) for run in json.loads(answer.out)["runs"]]
    (row,) = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return float(row["result"]["test_top1_percent"])


def test_a_phones_photos_are_upright(cli: Cli, own: Path, tmp_path: Path) -> None:
    data = f"folder:{phone(tmp_path / 'set', 'seg_train', 'seg_test')}"
    assert accuracy(cli, own, data, tmp_path / "results") == 100.0
    said = " ".join(cli("check-data", data).out.split())
    assert "48 training and 20 test images in 2 classes (banner, column)" in said
    assert "splits by name: training from seg_train/; test from seg_test/" in said
    assert "20 images turned upright as the EXIF orientation says" in said


def test_sprites_whose_shape_is_their_transparency(cli: Cli, own: Path, tmp_path: Path) -> None:
    for part, num in (("train", 24), ("test", 10)):
        for label, name in enumerate("ab"):
            for i in range(num):
                alpha = 255 * (bars(label, 1000 * num + 100 * label + i)[:, :, 0] > 120).astype(np.uint8)
                alpha[8 + i % 8, i % 16] = 255
                sprite = np.dstack([np.zeros((16, 16, 3), np.uint8), alpha])
                buffer = io.BytesIO()
                Image.fromarray(sprite).save(buffer, "PNG")
                path = tmp_path / "set" / part / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(buffer.getvalue())
    assert accuracy(cli, own, f"folder:{tmp_path / 'set'}", tmp_path / "results") == 100.0


def numbered(root: Path, num: int = 11) -> Path:
    for label in range(num):
        for i in range(8):
            save(root / str(label) / f"{i}.jpg", bars(label % 2, 100 * label + i))
    return root


def test_classes_by_name(cli: Cli, own: Path, tmp_path: Path) -> None:
    data = f"folder:{numbered(tmp_path / 'set')}"
    for classes in ("[1, 2, 10]", "['10', '2', '1']"):
        answer = cli("show", own, "--data", data, "--set", f"data.classes={classes}", "--json")
        (arm,) = json.loads(answer.out)[0]["arms"].values()
        assert arm["single"]["data"]["classes"] == [1, 2, 10]
    answer = cli("plan", own, "--data", data, "--set", "data.classes=[1, cat]")
    assert (answer.code, answer.out) == (2, "")
    assert "data.classes: no class 'cat'" in answer.err


def test_other_data_keep_the_model_and_the_image_size(cli: Cli, own: Path, tmp_path: Path) -> None:
    data = f"folder:{phone(tmp_path / 'set')}"
    answer = cli("show", own, "--data", data, "--json")
    (arm,) = json.loads(answer.out)[0]["arms"].values()
    assert (arm["single"]["model"]["patch_size"], arm["single"]["data"]["img_size"]) == (4, 16)
    own.write_text(EXPERIMENT.replace(", img_size: 16", ""))
    (arm,) = json.loads(cli("show", own, "--data", data, "--json").out)[0]["arms"].values()
    assert arm["single"]["model"]["patch_size"] == 4
    own.write_text(own.read_text().replace("patch_size: 4", "patch_size: 1"))
    answer = cli("plan", own, "--data", data)
    assert "note: " in answer.err
    assert "the file's patch size 1 does not suit these images" in answer.err


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ("knn=20", "evaluate.knn: 20 neighbours of 38 training images in 2 classes are the majority"),
        ("few_shot=[5, 25]", "evaluate.few_shot: 25 shots, and class banner has 19 training images"),
    ],
)
def test_probes_that_cannot_be_are_refused_by_plan(
    probe: str, message: str, cli: Cli, own: Path, tmp_path: Path
) -> None:
    data = f"folder:{phone(tmp_path / 'set')}"
    answer = cli("plan", own, "--data", data, "--set", f"evaluate.{probe}")
    assert answer.code == 2
    assert message in answer.err


def test_two_data_sets_are_no_pairs(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    text = EXPERIMENT.replace("img_size: 16", "img_size: 8").replace("epochs: 60", "steps: 4")
    path.write_text(text + "factors: {data.name: [digits, fake]}\n")
    answer = cli("run", path, "-j", 1, "--results", tmp_path / "results", "--quiet")
    assert answer.code == 0, answer.err
    assert cli("report", "own", "--results", tmp_path / "results").code == 0
    table = (tmp_path / "results" / "own" / "table.md").read_text()
    assert "other test images" in table
    claim = "claims: [{id: X, form: difference, arms: [fake, digits], above_points: 1}]\n"
    path.write_text(path.read_text() + claim)
    answer = cli("plan", path)
    assert answer.code == 2
    assert "are tested on different images, and a difference by seed needs the same ones" in answer.err


def test_a_second_experiment_of_one_name_is_refused(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    text = EXPERIMENT.replace("img_size: 16", "name: fake").replace("epochs: 60", "steps: 4")
    path.write_text(text)
    words = ["run", path, "-j", 1, "--results", tmp_path / "results", "--quiet"]
    assert cli(*words).code == 0
    assert cli(*words).code == 0
    before = (tmp_path / "results" / "own" / "records.jsonl").read_bytes()
    path.write_text(text.replace("steps: 4", "steps: 5"))
    answer = cli(*words)
    assert answer.code == 5
    assert "holds results of another experiment named own (base.train.steps: 4 there, 5 here)" in answer.err
    assert (tmp_path / "results" / "own" / "records.jsonl").read_bytes() == before
    assert cli(*words, "--as", "other").code == 0
    assert cli(*words, "--replace").code == 0
    answer = cli("clean", "--results", tmp_path / "results")
    assert "no run's plan uses this trial (ok: fake, seed 0, 4 steps)" in " ".join(answer.out.split())


def test_the_first_lines_of_a_run_say_what_the_data_are(cli: Cli, own: Path, tmp_path: Path) -> None:
    data = f"folder:{phone(tmp_path / 'set')}"
    answer = cli("run", own, "--data", data, "-j", 1, "--results", tmp_path / "r", "--set", "train.epochs=1")
    said = " ".join(answer.out.split())
    assert "48 training and 20 test images in 2 classes (banner, column)" in said
    assert said.index("splits by name") < said.index("20 images turned upright") < said.index("Records")


def test_a_path_without_its_kind_says_what_to_write(cli: Cli, own: Path, tmp_path: Path) -> None:
    phone(tmp_path / "set")
    answer = cli("plan", own, "--data", tmp_path / "set")
    assert answer.code == 2
    assert f"Did you mean 'folder:{tmp_path / 'set'}'?" in answer.err
