"""The short form of `make soak`: a few kills, and the tables are those of the undisturbed run."""

from __future__ import annotations

from pathlib import Path

import pytest
from soak import PLAIN, soak


@pytest.mark.slow
def test_nothing_is_lost_under_random_kills(tmp_path: Path) -> None:
    tally = soak(tmp_path, kills=2, seed=1, content=f"{PLAIN}seeds: 3\n")
    assert sum(tally.kills.values()) >= 2
    assert tally.trials == 6 * tally.rounds
    assert tally.lost == []
