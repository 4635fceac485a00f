"""The options of `vitbench run`, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitbench.data import DataOptions


@dataclass(frozen=True)
class RunOptions:
    """The options of `vitbench run`."""

    root: Path
    data: DataOptions
    device: str = "auto"
    jobs: int | None = None
    workers: int | None = None
    threads: int = 1
    processes: int = 1
    limit: int | None = None
    shard: str | None = None
    no_wait: bool = False
    keep: str = "final"
    retry_failed: bool = False
    quiet: bool = False
    as_json: bool = False
    command: str = ""
    until_settled: bool = False
    max_seeds: int | None = None
    track: str | None = None
    checkpoint_seconds: float = 60.0
    oom: str = "fail"
    engine: str = "auto"
    ray_address: str | None = None
    gpus_per_trial: float | None = None
    commit: str | None = None
    program: str = "auto"
    recompute: bool = False
    replace_run: bool = False
    warn: bool = True
    seed_by_seed: bool = False
