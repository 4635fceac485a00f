"""Experiments that train in a fraction of a second, and how they are run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitbench.commands.prepare import data_options, facts_source
from vitbench.engines.options import Options
from vitbench.events import Event
from vitbench.experiment import Experiment, Suite
from vitbench.load import loads
from vitbench.plan import Trial
from vitbench.record import Record
from vitbench.runner import Outcome, Request, run
from vitbench.stats.select import choose
from vitbench.store import Store

TINY = """
name: tiny
base:
  data: {name: fake, val_fraction: 0.2}
  model: {patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2, mlp_ratio: 2.0}
  train: {steps: 12, batch_size: 16, lr: 4e-3}
"""
ARMS = TINY + "factors: {model.global_pool: [token, avg]}\nseeds: 2\n"
TUNED = TINY + "tune: {train.lr: [1e-3, 4e-3], seeds: 1}\nseeds: 2\n"
STAGED = """
stages:
  - name: pretrain
    train: {steps: 12, objective: {name: masked_patch}}
  - name: transfer
    train: {steps: 6}
arms:
  masked: {}
  scratch: {pretrain.enabled: false}
seeds: 2
"""
STAGED = TINY + STAGED


def experiment(text: str) -> Experiment:
    made = loads(text, "tiny.yaml")
    assert not isinstance(made, Suite)
    return made


def options(root: Path, **changes: Any) -> Options:
    return Options(root=root, data=data_options(None, False), **changes)


class Ran:
    """What a run said and left."""

    def __init__(self, text: str, root: Path, workers: int = 1, hear: Any = None, **request: Any) -> None:
        self.events: list[Event] = []
        self.root, self.store = root, Store(root)
        changes = {key: request.pop(key) for key in ("keep", "engine") if key in request}

        def listen(event: Event) -> None:
            self.events.append(event)
            if hear is not None:
                hear(event)

        asked = Request(options(root, **changes), workers, **request)
        facts_of = facts_source(data_options(None, False))
        self.outcome: Outcome = run(experiment(text), asked, choose, facts_of, listen)

    @property
    def records(self) -> dict[str, Record]:
        return self.outcome.records

    @property
    def trials(self) -> Sequence[Trial]:
        return tuple(self.outcome.plan.unique().values())

    def heard(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def files(self) -> dict[str, bytes]:
        """Every committed file but the records, whose times differ, and the attempts."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and "attempts" not in path.parts and path.name not in ("record.json", "lock")
        }


def results(ran: Ran) -> dict[str, Any]:
    """The deterministic part of every record."""
    return {i: (r.status, r.reason, r.parent, r.seed, r.spec, r.result) for i, r in sorted(ran.records.items())}
