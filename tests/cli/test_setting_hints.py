"""Names from other tools lead to the setting that is meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from PIL import Image

from vitbench.cli.commands.checks import crop_line
from vitbench.cli.setting_options import advice
from vitbench.data import DataOptions, cropped_share, facts
from vitbench.spec.messages import ELSEWHERE
from vitbench.spec.paths import SPEC_PATHS, path_problem


@pytest.mark.parametrize(
    ("path", "instead"),
    [
        ("train.warmup_epochs", "Use train.warmup_fraction"),
        ("model.pretrained", "Use model.init_from: timm:NAME"),
        ("train.learning_rate", "Use train.lr"),
        ("pretrained", "Use model.init_from"),
        ("train.layer_decays", "Did you mean 'train.layer_decay'"),
    ],
)
def test_the_hint_names_the_setting(path: str, instead: str) -> None:
    problem = path_problem(path, ())
    assert problem is not None
    assert instead in problem
    assert "\n" not in problem


def test_every_hint_names_a_setting_that_exists_and_hides_none() -> None:
    for word, instead in ELSEWHERE.items():
        assert instead.split(",")[0].split(":")[0] in (*SPEC_PATHS, "nothing"), word
        assert not [path for path in SPEC_PATHS if path.rpartition(".")[2] == word]


def test_a_setting_given_as_an_option() -> None:
    assert advice("--lr") == "Use --set train.lr=VALUE."
    assert advice("--batch-size") == "Use --set train.batch_size=VALUE."
    assert advice("--img-size") == "Use --set model.img_size=VALUE or --set data.img_size=VALUE."
    assert advice("--nonsense") is None


def test_the_command_line_says_it(cli: Cli) -> None:
    done = cli("plan", "smoke", "--lr", "1e-3")
    assert done.code == 2
    assert "--set train.lr=VALUE" in " ".join(done.err.split())


@pytest.fixture
def wide(tmp_path: Path) -> str:
    for part in ("train", "test"):
        for label in "ab":
            place = tmp_path / part / label
            place.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(np.full((10, 20), 20 * i + (label == "a"), np.uint8)).save(place / f"{i}.png")
    return f"folder:{tmp_path}"


def test_a_large_centre_crop_is_said(wide: str, tmp_path: Path) -> None:
    options = DataOptions(cache_dir=tmp_path / "cache")
    known = [facts(wide, options) for _ in range(2)]  # Read, then from the cache.
    assert known[0] == known[1]
    assert cropped_share(known[0], 8) == pytest.approx(0.5, abs=0.03)
    assert cropped_share(known[0], (8, 16)) == pytest.approx(0.0, abs=0.03)
    line = crop_line(known[0], 8)
    assert line is not None
    assert "the centre crop to 8 x 8 px removes" in line
    assert crop_line(known[0], (8, 16)) is None
    assert crop_line(facts("digits", options), 8) is None
