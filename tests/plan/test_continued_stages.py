"""Cooldowns that go on from one trunk: shared trials, honest totals, all weights, and refusals."""

from __future__ import annotations

import pytest
import torch
from made_plans import experiment, facts_of
from tiny_jobs import images_of, spec

from vitbench.base.errors import InputError
from vitbench.model.costs import forward_flops
from vitbench.plan.trials import Builder
from vitbench.train.trainer import Job, initial_state

STAGES = """
stages:
  - {name: trunk, train: {steps: 60, sched: constant}}
  - {name: later, train: {steps: 40, sched: constant, continues: true}}
  - {name: short, uses: {start: trunk}, train: {steps: 20, sched: linear, warmup_fraction: 0.0, continues: true}}
  - {name: long, uses: {start: later}, train: {steps: 30, sched: linear, warmup_fraction: 0.0, continues: true}}
arms:
  short: {long.enabled: false}
  long: {}
"""


def test_arms_share_the_trunk_and_count_it_each() -> None:
    made = Builder(experiment(STAGES), facts_of)
    short, long = (made.trials(made.arms[name], {}, 0, "trial") for name in ("short", "long"))
    assert [trial.stage for trial in short] == ["trunk", "short"]
    assert [trial.stage for trial in long] == ["trunk", "later", "long"]
    model, objective = short[0].spec.model, short[0].spec.train.objective
    step = 64 * 3 * forward_flops(model, objective)
    assert [sum(trial.train_flops for trial in trials) // step for trials in (short, long)] == [80, 130]
    distinct = {trial.trial_id: trial for trial in (*short, *long)}
    assert sum(trial.train_flops for trial in distinct.values()) // step == 60 + 40 + 20 + 30


@pytest.mark.parametrize(
    ("written", "instead", "message"),
    [
        ("steps: 60, ", "steps: 60, continues: true, ", "train.continues: this stage starts from no other stage"),
        (
            "name: trunk, ",
            "name: trunk, model: {head: mlp_tanh}, ",
            "representation.bias (and 1 more) differs",
        ),
        ("sched: linear", "sched: linear, cooldown_fraction: 0.5", "sched linear already falls to 0"),
        ("sched: constant}", "sched: constant, cooldown_fraction: 0.99}", "are more than the whole training"),
        ("sched: constant}", "sched: rsqrt, timescale_fraction: 0.0}", "timescale_fraction"),
        ("sched: constant}", "weight_decay_head: -1.0}", "weight_decay_head"),
        ("sched: constant}", "sched: inverse_sqrt}", "allowed: cosine, linear, constant, rsqrt"),
    ],
)
def test_what_is_refused(written: str, instead: str, message: str) -> None:
    assert written in STAGES
    lines = ""
    try:
        made = Builder(experiment(STAGES.replace(written, instead, 1)), facts_of)
        made.stages(made.arms["short"], {})
    except InputError as error:
        lines = str(error)
    assert message in lines
    assert len(lines.splitlines()) == 1


def test_settings_at_their_defaults_are_in_no_id() -> None:
    """A head that decays like the rest, a timescale without rsqrt, and pre-training without a classifier."""
    plain = spec(weight_decay=0.1)
    assert spec(weight_decay=0.1, weight_decay_head=0.1, timescale_fraction=0.5) == plain
    assert spec(weight_decay=0.1, weight_decay_head=0.2) != plain
    assert spec(objective="pixels", weight_decay_head=0.2) == spec(objective="pixels")
    new = {"weight_decay_head", "timescale_fraction", "cooldown_fraction", "continues"}
    assert not new & plain.train.model_dump(exclude_defaults=True).keys()


def test_a_stage_that_continues_takes_the_head_too() -> None:
    plain = spec()
    parent = {name: tensor + 1 for name, tensor in initial_state(Job(plain, 0), images_of(plain)).items()}
    for continues in (True, False):
        one = spec(continues=continues)
        start = initial_state(Job(one, 0, parent), images_of(one))
        assert torch.equal(start["blocks.0.attn.qkv.weight"], parent["blocks.0.attn.qkv.weight"])
        assert torch.equal(start["head.weight"], parent["head.weight"]) is continues
