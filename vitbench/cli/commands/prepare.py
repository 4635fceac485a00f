"""From the words of a command line to experiments that can be planned and run."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vitbench.base.contained import exists
from vitbench.base.errors import InputError, is_plain, nearest
from vitbench.cli.commands.weights import fetch_weights
from vitbench.data import DataOptions, Facts, facts, facts_or_nominal
from vitbench.plan.resolve import patch_suits
from vitbench.plan.trials import FactsOf
from vitbench.spec import load
from vitbench.spec.experiment import Experiment, Suite
from vitbench.spec.limits import DEFAULT_MAX_TRIALS, max_trials
from vitbench.spec.overrides import patches
from vitbench.spec.trial import DataSpec
from vitbench.spec.yaml import dump


@dataclass(frozen=True)
class ExperimentRequest:
    """An experiment or suite by name, and the overrides of one command."""

    name: str
    data: str | None = None
    seeds: str | None = None
    sets: Sequence[str] = ()
    as_name: str | None = None


@dataclass(frozen=True)
class Prepared:
    """An experiment with its overrides, and the name of the run that holds its results."""

    experiment: Experiment
    run: str
    other_data: bool = False
    notes: tuple[str, ...] = ()
    file_looks: tuple[int, ...] | None = None
    """The looks as the file has them, where the run's declared maximum differs."""


def prepare(request: ExperimentRequest, facts_of: FactsOf | None = None) -> list[Prepared]:
    """The requested experiment, or all experiments of a suite, with every override applied.

    `facts_of` tells whether the file's patch size suits the images of `--data`. Raises InputError.
    """
    path = load.find(request.name)
    loaded = load.load(path, run_code=True)
    if not isinstance(loaded, Suite):
        return [_prepared(loaded, request, "", facts_of)]
    experiments = []
    for name in loaded.suite:
        member = load.load(load.find(name, beside=path.parent), run_code=True)
        if isinstance(member, Suite):
            raise InputError(f"suite {loaded.name}: {name} is itself a suite; name its experiments")
        experiments.append(load.apply_suite(loaded, member))
    changed = bool(loaded.base or loaded.tune or loaded.seeds)
    return [_prepared(e, request, f"{loaded.name}." if changed else "", facts_of) for e in experiments]


def _prepared(experiment: Experiment, request: ExperimentRequest, prefix: str, facts_of: FactsOf | None) -> Prepared:
    """Name the run: the experiment's name, plus the data set's with --data, plus six hex digits with --set."""
    overridden = load.override(experiment, data=request.data, seeds=request.seeds, sets=request.sets)
    notes: tuple[str, ...] = ()
    if request.data is not None:
        size = _image_size(overridden, request.data, facts_of)
        suits = None if size is None else functools.partial(patch_suits, img_size=size)
        overridden = load.override(experiment, data=request.data, seeds=request.seeds, sets=request.sets, suits=suits)
        notes = _patch_notes(experiment, overridden, request.data)
    fetch_weights(overridden)
    if request.as_name is not None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", request.as_name):
            raise InputError(f"--as {request.as_name!r}: letters, digits, '.', '_' and '-' only, at most 80")
        return Prepared(overridden, f"{prefix}{request.as_name}", request.data is not None, notes)
    name = f"{prefix}{experiment.name}"
    if request.data is not None:
        name += "-" + slug(request.data)
    if request.sets:
        name += "-" + hashlib.sha256("\n".join(sorted(request.sets)).encode()).hexdigest()[:6]
    return Prepared(overridden, name, request.data is not None, notes)


def _image_size(experiment: Experiment, data: str, facts_of: FactsOf | None) -> int | tuple[int, int] | None:
    """The size of the images of `--data` as they are trained on; None if it is not known yet."""
    if (size := experiment.base.get("data", {}).get("img_size")) is not None:
        return DataSpec(img_size=size).img_size
    with suppress(InputError):  # The data set is missing or bad: the check of every cell says so.
        return facts_of(data).img_size if facts_of else None
    return None


def _patch_notes(before: Experiment, after: Experiment, data: str) -> tuple[str, ...]:
    """Say what `--data` had to change in the model."""
    dropped = sorted(patches(before) - patches(after))
    if not dropped:
        return ()
    words = ", ".join(map(str, dropped))
    return (f"--data {data}: the file's patch size {words} does not suit these images; it is derived from their size",)


def slug(data: str) -> str:
    """A data set's name as part of a folder name: `folder-flowers-3fa2`. The hex digits tell equal last names apart."""
    kind, _, rest = data.removeprefix("torch/").partition(":")
    if not rest:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", kind)
    last = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(rest).name) or "data"
    return f"{kind}-{last}-{hashlib.sha256(rest.encode()).hexdigest()[:4]}"


def facts_source(options: DataOptions, *, nominal: bool = False) -> FactsOf:
    """A cached look-up of facts on data sets. `nominal` gives published sizes for a data set that is missing here."""
    look_up = facts_or_nominal if nominal else facts

    @functools.cache
    def facts_of(name: str) -> Facts:
        return look_up(name, options)

    return facts_of


def data_options(data_dir: Path | None, download: bool) -> DataOptions:
    """Where to find images: --data-dir, else $VITBENCH_DATA_DIR."""
    folder = data_dir or (Path(os.environ["VITBENCH_DATA_DIR"]) if "VITBENCH_DATA_DIR" in os.environ else None)
    cache = os.environ.get("VITBENCH_CACHE_DIR")
    return DataOptions(data_dir=folder, download=download, cache_dir=Path(cache) if cache else None)


def command_of(
    request: ExperimentRequest, root: Path, until_settled: bool = False, max_seeds: int | None = None
) -> str:
    """The command that repeats a run. It leaves out where the images are."""
    limit = ["--max-trials", str(max_trials())] if max_trials() > DEFAULT_MAX_TRIALS else []
    words = ["vitbench", *limit, "run", request.name]
    for option, value in (("--data", request.data), ("--seeds", request.seeds), ("--as", request.as_name)):
        words += [option, value] if value is not None else []
    for change in request.sets:
        words += ["--set", change]
    words += ["--until-settled"] if until_settled else []
    words += ["--max-seeds", str(max_seeds)] if max_seeds is not None else []
    return shlex.join(words + ([] if root == Path("results") else ["--results", str(root)]))


def experiment_yaml(experiment: Experiment, command: str) -> str:
    """The experiment with its overrides as YAML; `report`, `status` and `verdict` read it."""
    head = f"# {' '.join(experiment.question.split())}\n# Run: {command}\n"
    return head + dump(experiment.model_dump(mode="json", exclude_defaults=True))


def read_run(folder: Path) -> Experiment:
    """The experiment of a run folder. Raises InputError, also for control characters in the folder's name."""
    if not is_plain(folder.name):
        raise InputError(f"{folder}: control characters in the name of a run's folder; rename it")
    path = folder / "experiment.yaml"
    if not exists(path):
        raise InputError(f"{folder}: not a run folder: experiment.yaml is missing")
    loaded = load.load(path)
    if isinstance(loaded, Suite):
        raise InputError(f"{path}: needs one experiment, not a suite")
    return loaded


def runs(root: Path) -> list[Path]:
    """The run folders of a results root, by name."""
    return sorted(path.parent for path in root.glob("*/experiment.yaml")) if root.is_dir() else []


def runs_named(root: Path, names: Sequence[str]) -> list[Path]:
    """The run folders that `names` mean: a folder, a run's name, or an experiment's (all of its runs). Default: all."""
    folders = runs(root)
    if not names:
        if not folders:
            raise InputError(f"{root}: no runs; start one with `vitbench run NAME`")
        return folders
    out: list[Path] = []
    for name in names:
        folder = Path(name)
        exact = [folder] if (folder / "experiment.yaml").is_file() else [p for p in folders if p.name == name]
        matches = exact or [p for p in folders if read_run(p).name == name or p.name.startswith(f"{name}.")]
        if not matches:
            run_names = [path.name for path in folders]
            raise InputError(
                f"{name}: no such run in {root}.{nearest(name, run_names)} Runs: {', '.join(run_names) or 'none'}"
            )
        out.extend(path for path in matches if path not in out)
    return out


def started_runs(root: Path, names: Sequence[str]) -> list[Path]:
    """The named runs. Without names: the runs with rows, as another shell may have just started one."""
    folders = runs_named(root, names)
    return folders if names else [folder for folder in folders if (folder / "records.jsonl").is_file()] or folders
