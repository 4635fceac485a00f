"""`vitbench recommend` from plan to answer, on a small folder of images. About 15 s."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from PIL import Image

from vitbench.base.signals import Terminated
from vitbench.bench import machine_gauge
from vitbench.cli.commands import recommend as command
from vitbench.cli.commands.recommend_trainings import Trainings
from vitbench.plan import resolve
from vitbench.recommend import budget, recipe
from vitbench.recommend.budget import Effort
from vitbench.recommend.questions import QUESTIONS
from vitbench.recommend.search import Ask, Reply
from vitbench.spec import load
from vitbench.store.rows import read_records


def write_images(folder: Path, num_classes: int = 2, per_class: int = 40, sides: tuple[int, ...] = (8,)) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", per_class), ("test", 20)):
        for label in range(num_classes):
            place = folder / split / f"class_{label}"
            place.mkdir(parents=True)
            for number in range(count):
                side = sides[number % len(sides)]
                pixels = rng.integers(0, 120, (side, side, 3)) + 30 * label
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortest trainings, two questions, two final seeds; the budget is never the limit."""
    monkeypatch.setattr(budget, "EFFORTS", (Effort(1, 2, 2, 2, 2),))
    for module in (budget, recipe, resolve):
        monkeypatch.setattr(module, "MIN_STEPS", 4)
    monkeypatch.setattr(budget, "LONGEST_STEPS", 20)
    monkeypatch.setattr(budget, "LONGEST_EPOCHS", 1)
    monkeypatch.setattr(command, "QUESTIONS", tuple(q for q in QUESTIONS if q.name == "augment"))
    monkeypatch.setattr(command, "MOST_FINAL", 2)
    monkeypatch.setattr(machine_gauge, "MOST_SECONDS", 0.1)


def recommend(cli: Cli, images: Path, root: Path, *more: str) -> tuple[int, str, str]:
    answer = cli("recommend", "--data", f"folder:{images}", "--max-hours", "1", "--results", root, "-j", "1", *more)
    return answer.code, answer.out, answer.err


@pytest.mark.slow
def test_from_the_plan_to_the_answer(
    cli: Cli, images: Path, short: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"

    def stop(self: Trainings, asked: Ask, reserved: float) -> Reply:
        if asked.name == "augment":
            raise Terminated
        return ask(self, asked, reserved)

    ask = Trainings.ask
    monkeypatch.setattr(Trainings, "ask", stop)
    code, _, err = recommend(cli, images, root)
    assert (code, "same command again" in err) == (143, True)
    assert "No test image has been read" in (root / "recommendation.md").read_text()
    monkeypatch.setattr(Trainings, "ask", ask)

    with monkeypatch.context() as patch:  # The time ends in the comparison, whose trainings read test images.
        patch.setattr(Trainings, "final", lambda *_: {})
        assert recommend(cli, images, root)[0] == 3
    assert "under two seeds of every arm" in (root / "recommendation.md").read_text()

    code, out, _ = recommend(cli, images, root)
    assert code == 0, out
    text = (root / "recommendation.md").read_text()
    assert "On 40 test images it has" in text
    assert "recipes in" in text
    assert "few images: class class_0 has 40" in text
    assert "<svg" in (root / "recommendation.html").read_text()
    assert load.load(root / "recommended.yaml")
    question, final = (read_records(root / name / "records.jsonl") for name in ("01-family", "final"))
    assert not [row for row in question if row["result"]["test_top1_percent"] is not None]
    assert all(row["result"]["test_top1_percent"] is not None and row["seed"] >= 100 for row in final)
    trials = {path.parent.name for path in root.glob("trials/*/record.json")}

    assert recommend(cli, images, root)[0] == 0
    assert {path.parent.name for path in root.glob("trials/*/record.json")} == trials, "nothing is trained again"
    refused = recommend(cli, images, tmp_path / "second", "--test-once")
    assert refused[0] == 4
    assert "were read before: by" in refused[2]
    assert recommend(cli, images, root, "--for", "size")[0] == 5
    plan = recommend(cli, images, tmp_path / "third", "--dry-run")
    assert plan[0] == 0
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("hours", "aim", "words"),
    [
        ("0", "accuracy", "needs a number above 0"),
        ("nan", "accuracy", "above 0"),
        ("1", "beauty", "allowed are accuracy"),
    ],
)
def test_bad_options_are_one_line(cli: Cli, hours: str, aim: str, words: str) -> None:
    answer = cli("recommend", "--data", "digits", "--max-hours", hours, "--for", aim)
    assert answer.code == 2
    assert words in answer.err
    assert len(answer.err.splitlines()) == 1


def test_images_that_allow_no_comparison_are_refused(cli: Cli, tmp_path: Path) -> None:
    unknown = cli("recommend", "--data", "nothing", "--max-hours", "1")
    assert (unknown.code, "no data set 'nothing'" in unknown.err) == (2, True)
    single = cli("recommend", "--data", f"folder:{write_images(tmp_path / 'one', 1)}", "--max-hours", "1")
    assert (single.code, len(single.err.splitlines())) == (2, 1)
    few = cli("recommend", "--data", f"folder:{write_images(tmp_path / 'few', 2, 1)}", "--max-hours", "1")
    assert (few.code, len(few.err.splitlines())) == (2, 1)


def test_a_diary_that_is_not_ours_is_refused(cli: Cli, images: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "recommend.json").write_text(json.dumps({"settings": {"data": "other"}}))
    code, _, err = recommend(cli, images, tmp_path / "root")
    assert code == 5
    assert "holds a recommendation with data" in err
