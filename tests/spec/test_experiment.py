"""Experiments and claims: what a file may ask, and what is refused as undecidable."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from vitbench.spec.claims import Claim, form_problem
from vitbench.spec.experiment import Experiment, Seeds, Suite


def claim(form: str, **fields: Any) -> Claim:
    return Claim.model_validate({"id": "X", "form": form, **fields})


DECIDABLE: dict[str, dict[str, Any]] = {
    "difference": {"arms": ["a", "b"], "above_points": 0.0},
    "equivalence": {"arms": ["a", "b"], "margin_points": 1.0},
    "interaction": {"pairs": [["a", "b"], ["c", "d"]], "below_points": 0.0},
    "ordering": {"tiers": [["a"], ["b", "c"]]},
    "slope": {"x": "log2_images", "levels": {"data.train_fraction": [0.5, 1.0]}, "above_points": 0.0},
    "share_of_gain": {"arms": ["a", "b", "c"], "share": 0.5},
    "frontier_ratio": {"arms": ["a", "b"], "at": {"train.train_flops": [1, 2]}, "ratio": 2.0},
    "crossover": {"x": "log2_images", "levels": {"data.train_fraction": [0.5, 1.0]}},
    "descriptive": {},
}


@pytest.mark.parametrize("form", DECIDABLE)
def test_every_form_has_a_decidable_claim(form: str) -> None:
    assert form_problem(claim(form, **DECIDABLE[form])) is None


@pytest.mark.parametrize(
    ("form", "without", "message"),
    [
        ("difference", "arms", r"needs arms: \[A, B\]"),
        ("difference", "above_points", "exactly one of above_points, below_points"),
        ("equivalence", "margin_points", "needs margin_points above 0"),
        ("equivalence", "arms", "needs arms or pairs"),
        ("interaction", "pairs", "needs pairs"),
        ("ordering", "tiers", "at least two tiers"),
        ("slope", "x", "needs x and levels"),
        ("share_of_gain", "share", r"needs arms: \[low, mid, high\] and share"),
        ("frontier_ratio", "ratio", "at and ratio"),
        ("crossover", "levels", "needs x and levels"),
    ],
)
def test_a_claim_says_what_it_lacks(form: str, without: str, message: str) -> None:
    fields = {key: value for key, value in DECIDABLE[form].items() if key != without}
    with pytest.raises(ValidationError, match=message):
        claim(form, **fields)


def test_a_cut_beyond_the_papers_effect_is_refused() -> None:
    with pytest.raises(ValidationError, match="lies on the other side of above_points 1"):
        claim("difference", arms=["a", "b"], above_points=1.0, paper={"effect_points": 0.5})
    with pytest.raises(ValidationError, match="exactly one"):
        claim("difference", arms=["a", "b"], above_points=1.0, below_points=2.0)


def test_parts_inherit_and_may_differ() -> None:
    whole = claim(
        "difference", arms=["a", "b"], above_points=0.0, parts=[{"id": "X1"}, {"id": "X2", "arms": ["a", "c"]}]
    )
    assert [(part.id, part.arms, part.above_points) for part in whole.part_claims()] == [
        ("X1", ("a", "b"), 0.0), ("X2", ("a", "c"), 0.0),
    ]  # fmt: skip
    assert claim("descriptive").part_claims() == (claim("descriptive"),)
    with pytest.raises(ValidationError, match="needs arms"):
        claim("difference", above_points=0.0, parts=[{"id": "X1"}])


def test_margins_of_digits() -> None:
    own = claim("equivalence", arms=["a", "b"], margin_points=1.0, margin_points_digits=2.0)
    assert own.on("digits").margin_points == 2.0
    assert own.on("cifar10").margin_points == 1.0
    split = claim(
        "equivalence", parts=[{"id": "P", "arms": ["a", "b"], "margin_points": 1.0, "margin_points_digits": 3.0}]
    )
    assert [part.margin_points for part in split.on("digits").part_claims()] == [3.0]


def test_an_untested_claim_needs_its_reason_only() -> None:
    assert claim("difference", untested="needs JFT-300M").untested


@pytest.mark.parametrize(
    ("written", "first"),
    [(3, (0, 1, 2)), ([0, 3, 7], (0, 3, 7)), ({"looks": [5, 8]}, (0, 1, 2, 3, 4)), ({"num": 2}, (0, 1))],
)
def test_seeds_short_and_long(written: Any, first: tuple[int, ...]) -> None:
    assert Experiment.model_validate({"name": "x", "seeds": written}).seeds.first() == first


def test_defaults() -> None:
    assert Seeds().first() == (0, 1, 2, 3, 4)
    assert Experiment(name="x").seeds.first() == (0, 1, 2, 3, 4)
    assert Experiment(name="x").report.metric == "test_top1_percent"


def test_a_tuned_grid_stands_beside_its_seeds() -> None:
    made = Experiment.model_validate({"name": "x", "tune": {"train.lr": [1e-3, 2e-3], "seeds": 2}})
    assert made.tune is not None
    assert (made.tune.grid, made.tune.seeds) == ({"train.lr": (1e-3, 2e-3)}, 2)
    again = Experiment.model_validate_json(made.model_dump_json(exclude_unset=True))
    assert again == made


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"factors": {"train.lr": [1, 2]}, "tune": {"train.lr": [1, 2]}}, "both a factor and tuned"),
        ({"stages": [{"name": "train"}]}, "a stage cannot be called train"),
        ({"factors": {"train.lr": []}}, "factor train.lr has no levels"),
        ({"nmae": "y"}, "Extra inputs"),
        ({"name": "a/b"}, "String should match"),
        ({"name": ""}, "String should match"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Experiment.model_validate({"name": "x", **fields})


def test_a_suite_lists_experiments() -> None:
    suite = Suite.model_validate({"name": "all", "suite": ["one", "two"], "seeds": 3})
    assert suite.suite == ("one", "two")
    assert suite.seeds is not None
    assert suite.seeds.first() == (0, 1, 2)


def test_a_claim_has_margins_of_its_own_on_digits() -> None:
    claim = Claim.model_validate(
        {
            "id": "X-1", "form": "equivalence", "margin_points": 1.0, "margin_points_digits": 2.0,
            "parts": [
                {"id": "X-1a", "arms": ["a", "b"]},
                {"id": "X-1b", "arms": ["a", "c"], "margin_points_digits": 3.0},
            ],
        }
    )  # fmt: skip
    assert [part.on("digits").margin_points for part in claim.part_claims()] == [2.0, 3.0]
    assert [part.margin_points for part in claim.on("digits").part_claims()] == [2.0, 3.0]
    assert claim.on("cifar10") == claim
