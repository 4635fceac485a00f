"""Every experiment that ships is whole: it loads, resolves, passes its checks, and keeps to its budget of FLOPs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vitbench.cli.commands.checks import check_all
from vitbench.cli.commands.prepare import ExperimentRequest, facts_source, prepare
from vitbench.data import DataOptions
from vitbench.engines.runner import flops_of
from vitbench.model.costs import forward_flops, num_params, train_flops
from vitbench.plan.resolve import MIN_STEPS
from vitbench.plan.trials import Builder, settings
from vitbench.spec import load
from vitbench.spec.arms import find_arms
from vitbench.spec.experiment import Experiment, Suite
from vitbench.spec.trial import ObjectiveSpec, TrialSpec
from vitbench.stats.looks import CALIBRATED, FIRST_EDITION

FOLDER = Path(__file__).parent.parent / "experiments"
FILES = {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in sorted(FOLDER.rglob("*.yaml"))}
SINGLE = [name for name, path in FILES.items() if not isinstance(load.load(path), Suite)]
PAPER = [name for name in SINGLE if name.startswith("paper/")]
SIX = {"class_token_vs_gap", "position_encoding", "patch_size", "data_scale", "equal_compute", "masked_patch"}
TOLERANCE = 0.02
FACTS_OF = facts_source(DataOptions(data_dir=Path("/nowhere")), nominal=True)


def experiment(name: str) -> Experiment:
    loaded = load.load(FILES[name])
    assert isinstance(loaded, Experiment)
    return loaded


def test_there_are_files() -> None:
    """Guards the parametrised tests below against an empty folder."""
    assert set(FILES) >= SIX | {"smoke", "ablation"}
    assert {name.removeprefix("paper/") for name in PAPER} == SIX | {"axial"}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_resolves_and_passes_its_checks(name: str) -> None:
    check_all(prepare(ExperimentRequest(name)), FACTS_OF)


@pytest.mark.parametrize("name", FILES)
def test_header_says_claim_command_cost_and_outcome(name: str) -> None:
    path = FILES[name]
    said = load.header(path)
    assert all(said[part] for part in ("claim", "run", "cost", "came_out"))
    assert re.match(rf"vitbench run {re.escape(name)}(?![\w/])", said["run"]), said["run"]
    first, *_ = path.read_text().splitlines()
    assert first.endswith(f"$schema={'../' * (name.count('/') + 1)}schema.json")


@dataclass(frozen=True)
class Spent:
    """The training FLOPs of one arm's stage, or (for a `total_of`) of a whole arm, and what it was given."""

    what: str
    budget: float
    flops: float
    step_flops: float
    steps: int

    @property
    def off(self) -> bool:
        """Neither within 2% of the budget nor within one step of it?"""
        return abs(self.flops - self.budget) > max(TOLERANCE * self.budget, self.step_flops)


def spent(spec: TrialSpec, what: str, budget: float) -> Spent:
    """What a resolved spec spends."""
    train = spec.train
    assert train.steps is not None
    step = train_flops(spec.model, train.objective, train.batch_size)
    return Spent(
        what, budget, train_flops(spec.model, train.objective, train.steps * train.batch_size), step, train.steps
    )


def budgets(one: Experiment) -> Iterator[Spent]:
    """Every stage of every arm that has a budget in FLOPs."""
    builder, setting = Builder(one, FACTS_OF), settings(one)[0]
    of_base = one.base.get("train", {}).get("train_flops")
    of_stage = {s.name: s.model_dump(exclude_unset=True).get("train", {}).get("train_flops") for s in one.stages}
    for arm in builder.arms.values():
        for stage, spec, *_ in builder.stages(arm, setting):
            written: dict[str, Any] = {"train.train_flops": of_stage.get(stage) or of_base, **arm.assignment}
            budget = written.get(f"{stage}.train.train_flops", written["train.train_flops"])
            match = re.fullmatch(r"total_of\((.+)\)", budget) if isinstance(budget, str) else None
            if match is not None:
                (other,) = find_arms(one, match[1])
                budget = sum(flops_of(trial) for trial in builder.trials(other, setting, 0, "reporting"))
            if budget is not None:
                yield spent(spec, f"{one.name}, {arm.name}", float(budget))


WITH_BUDGET = [name for name in SINGLE if "train_flops:" in re.sub(r"#.*", "", FILES[name].read_text())]


@pytest.mark.parametrize("name", WITH_BUDGET)
def test_equal_compute_is_equal(name: str) -> None:
    """Acceptance: within 2% of the budget, or within one step where a step is more than that; at least 50 steps."""
    found = list(budgets(experiment(name)))
    assert found, "a file that names a budget has an arm that spends it"
    assert not [one for one in found if one.off]
    assert min(one.steps for one in found) >= MIN_STEPS


def test_which_files_have_a_budget() -> None:
    """`shape` and `masked_patch` give some arms the total of another."""
    assert {"equal_compute", "patch_size", "shape", "masked_patch", "paper/equal_compute"} <= set(WITH_BUDGET)
    assert len(list(budgets(experiment("pretraining")))) == 7, "six pre-trainings, and one arm's total"
    arms = {one.what for name in ("shape", "masked_patch") for one in budgets(experiment(name))}
    assert arms == {f"shape, {arm}" for arm in ("width", "mlp", "patch", "all")} | {
        "masked_patch, scratch_equal_compute"
    }


@pytest.mark.parametrize(("share", "off"), [(1.0, False), (0.985, False), (0.97, True), (1.03, True)])
def test_a_training_off_its_budget_is_seen(share: float, off: bool) -> None:
    budget, step = 1e9, 1e6
    assert Spent("", budget, share * budget, step, 1000).off is off
    assert Spent("", budget, share * budget, 0.05 * budget, 20).off is False


@pytest.mark.parametrize("name", PAPER)
def test_paper_is_at_the_papers_size(name: str) -> None:
    one = experiment(name)
    builder = Builder(one, FACTS_OF)
    for arm in builder.arms.values():
        spec = builder.stages(arm, settings(one)[0])[-1].spec
        assert (spec.data.name, spec.data.img_size, spec.model.num_classes) == ("imagenet", 224, 1000)
        assert (spec.train.batch_size, spec.train.precision) == (1024, "bf16")
    assert one.seeds.looks in {**CALIBRATED, **FIRST_EDITION}
    margins = [part.margin_points for claim in one.claims for part in claim.part_claims() if part.form == "equivalence"]
    assert set(margins) <= {1.0}


@pytest.mark.parametrize("name", sorted(SIX))
def test_paper_asks_the_claims_of_the_question(name: str) -> None:
    ids = {claim.id for claim in experiment(f"paper/{name}").claims}
    assert ids == {claim.id for claim in experiment(name).claims}


@pytest.mark.parametrize(
    ("name", "arm", "gflops", "millions"),
    [
        ("position_encoding", "learned_1d", 35.1, 86.57),
        ("patch_size", "equal_steps+32", 8.8, 88.22),
        ("equal_compute", "resnet+1.2e+19", 8.2, 25.55),
    ],
)
def test_paper_models_cost_what_is_published(name: str, arm: str, gflops: float, millions: float) -> None:
    """Twice the published multiply-adds of ViT-B/16 (17.6G), B/32 (4.4G) and R50x1 (4.1G); timm's parameter counts."""
    one = experiment(f"paper/{name}")
    builder = Builder(one, FACTS_OF)
    (_, spec, *_), *_ = builder.stages(builder.arms[arm], settings(one)[0])
    assert forward_flops(spec.model, spec.train.objective) / 1e9 == pytest.approx(gflops, rel=0.01)
    assert num_params(spec.model, spec.train.objective) / 1e6 == pytest.approx(millions, rel=1e-3)


def test_plan_says_what_a_step_of_each_objective_costs(cli: Any, tmp_path: Path) -> None:
    """Two large and two small crops of a student, two of its teacher, in steps of learning labels."""
    text = " ".join(cli("plan", "pretraining", "--results", tmp_path).out.split())
    assert "in supervised steps: mae 0.48 (pretrain), dino 3.34 (pretrain), moco_v3 2.81 (pretrain)" in text
    shipped = experiment("pretraining")
    (dino,), setting = find_arms(shipped, "dino"), settings(shipped)[0]
    trial, _ = Builder(shipped, FACTS_OF).trials(dino, setting, 0, "reporting")
    whole = forward_flops(trial.spec.model, trial.spec.train.objective)
    small = forward_flops(trial.spec.model.model_copy(update={"img_size": 4}), trial.spec.train.objective)
    supervised = 3 * forward_flops(trial.spec.model, ObjectiveSpec())
    assert round((3 * (2 * whole + 2 * small) + 2 * whole) / supervised, 2) == 3.34
