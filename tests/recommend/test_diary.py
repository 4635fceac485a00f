"""What a recommendation keeps: settings, time over sessions, and who looked at the test images."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vitbench.base.errors import CheckError, ResultsError
from vitbench.recommend.diary import Clock, Diary, Looks, TimeUp, alone

SETTINGS = {"data": "a" * 64, "for": "accuracy", "max-hours": 1.0}


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    Diary(tmp_path, SETTINGS).save()
    assert Diary(tmp_path, SETTINGS).content["settings"] == SETTINGS
    with pytest.raises(ResultsError, match="for accuracy, not size"):
        Diary(tmp_path, {**SETTINGS, "for": "size"})


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense"])
def test_a_damaged_diary_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "recommend.json").write_text(text)
    with pytest.raises(ResultsError, match=r"recommend\.json: cannot be read"):
        Diary(tmp_path, SETTINGS)


def test_time_adds_up_over_sessions(tmp_path: Path) -> None:
    with Clock(Diary(tmp_path, SETTINGS), 100.0) as first:
        first.note(journal=["family"])
    diary = Diary(tmp_path, SETTINGS)
    diary.note(used_seconds=60.0)
    second = Clock(diary, 100.0)
    assert 60.0 <= second.used < 90.0
    assert second.left(30.0) <= 10.0
    assert Diary(tmp_path, SETTINGS).content["journal"] == ["family"]


def test_the_clock_ends_a_block(tmp_path: Path) -> None:
    clock = Clock(Diary(tmp_path, SETTINGS), 0.0)
    with pytest.raises(TimeUp), clock.until(0.0):
        time.sleep(30.0)
    with Clock(Diary(tmp_path, SETTINGS), 100.0).until(0.0):
        pass


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(ResultsError, match="another vitbench recommend"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def test_a_second_look_is_refused_and_says_who_looked(tmp_path: Path) -> None:
    looks = Looks(tmp_path / "cache", "f" * 64)
    looks.refuse(tmp_path / "a", "mine")
    looks.add(tmp_path / "a", "vitbench recommend ...")
    looks.refuse(tmp_path / "a", "mine")  # Its own look is no second one: an interrupted comparison goes on.
    with pytest.raises(CheckError, match=r"test images of mine were read before: by .+ at 20.+, for .+/a"):
        looks.refuse(tmp_path / "b", "mine")
    assert Looks(tmp_path / "cache", "e" * 64).earlier(tmp_path / "b") == []
