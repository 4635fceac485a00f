"""The limits on trials and seeds: refused by default with the way out, allowed where the user says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import Cli

from vitbench.base.errors import InputError
from vitbench.spec.experiment import Experiment
from vitbench.spec.limits import DEFAULT_MAX_TRIALS, allow_trials
from vitbench.spec.load import loads

MANY = """name: many
question: How many trials may there be?
base: {data: {name: fake}, train: {steps: 5}}
factors: {train.lr: [1e-3, 2e-3]}
"""


@pytest.fixture(autouse=True)
def _default_again() -> Iterator[None]:
    yield
    allow_trials(DEFAULT_MAX_TRIALS)


def loaded(seeds: str) -> Experiment:
    made = loads(MANY + seeds, "many.yaml")
    assert isinstance(made, Experiment)
    return made


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ("seeds: [0, 6000]", "reporting seeds are 0 to 999, not 6000; `vitbench --max-trials N` allows more"),
        ("seeds: 6000", "reporting seeds are 0 to 999, not 6000; `vitbench --max-trials N` allows more"),
        ("stages: [{name: a}, {name: b}]\nseeds: [0, 1]\nreport: {also_at: {train.lr: [" + "1e-3, " * 3000 + "]}}",
         "at most 10,000 are planned at once; `vitbench --max-trials N` allows more"),
    ],
)  # fmt: skip
def test_more_is_refused_with_the_way_out(seeds: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        loaded(seeds)
    assert words in str(error.value)


def test_a_user_may_allow_more_trials_and_seeds() -> None:
    allow_trials(12_000)
    assert loaded("seeds: 6000").most_trials() == 12_000
    assert loaded("seeds: [0, 6000]").seeds.first() == (0, 6000)
    with pytest.raises(InputError, match=r"up to 12,002 trials .*; at most 12,000 are planned"):
        loaded("seeds: 6001")


def test_tuning_seeds_and_reporting_seeds_never_meet() -> None:
    allow_trials(10**6)
    tuned = "tune: {train.weight_decay: [0.1, 0.2], seeds: 2}\n"
    assert loaded(tuned + "seeds: 1000").most_trials() == 2 * (2 * 2 + 1000)
    for seeds in ("seeds: 1001", "seeds: [0, 1000]"):
        with pytest.raises(InputError, match="beside tuning seeds, which begin at 1000, the last is 999"):
            loaded(tuned + seeds)


def test_the_option_holds_for_one_command(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = cli("--max-trials", 10, "show", "smoke")
    assert refused.code == 2
    assert "at most 10 are planned at once; `vitbench --max-trials N` allows more" in refused.err
    assert cli("show", "smoke").code == 0
    monkeypatch.setenv("VITBENCH_MAX_TRIALS", "10")
    assert cli("show", "smoke").code == 2
