"""Committed records of every form give the committed verdict lines, letter by letter."""

from __future__ import annotations

from typing import get_args

import pytest
from golden_verdicts import CASES, GOLDEN, golden_lines

from vitbench.spec.claims import Form


@pytest.mark.parametrize("name", CASES)
def test_records_give_the_committed_verdicts(name: str) -> None:
    expected = [line.split(": ", 1)[1] for line in _lines() if line.startswith(f"{name}: ")]
    assert golden_lines(name) == expected


def test_every_form_has_a_golden_case() -> None:
    forms = {claim["form"] for case in CASES.values() for claim in case["claims"]}
    assert forms == set(get_args(Form))


def _lines() -> list[str]:
    return (GOLDEN / "verdicts.txt").read_text().splitlines()
