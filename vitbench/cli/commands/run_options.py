"""The options of `vitbench run`, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitbench.data import DataOptions
from vitbench.engines.options import Options


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

    def engine_options(
        self, data: DataOptions, device: str, gpus: tuple[int, ...], joins: bool, code: tuple[str, ...]
    ) -> Options:
        """What every trial process receives, before an engine is chosen."""
        return Options(
            root=self.root.resolve(),
            data=data,
            device=device,
            gpus=gpus,
            threads=self.threads,
            processes=self.processes,
            joins=joins,
            keep=self.keep,
            checkpoint_seconds=self.checkpoint_seconds,
            oom=self.oom,
            program=self.program,
            recompute=self.recompute,
            code=code,
        )
