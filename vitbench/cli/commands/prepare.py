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
from vitbench.base.errors import InputError, is_plain
from vitbench.cli.commands.weights import fetch_weights
from vitbench.data import DataOptions, Facts, facts, facts_or_nominal
from vitbench.plan.resolve import patch_suits
from vitbench.plan.trials import FactsOf
from vitbench.spec import load
from vitbench.spec.experiment import Experiment, Suite
from vitbench.spec.overrides import patches
from vitbench.spec.trial import DataSpec
from vitbench.spec.yaml import dump


@dataclass(frozen=True)
class Asked:
    """The overrides of one command."""

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


def prepare(asked: Asked, facts_of: FactsOf | None = None) -> list[Prepared]:
    """The experiment that was asked for, or all of a suite's, with every override applied.

    `facts_of` tells whether the file's patch size suits the images of `--data`. Raises InputError.
    """
    path = load.find(asked.name)
    loaded = load.load(path, run_code=True)
    if not isinstance(loaded, Suite):
        return [_prepared(loaded, asked, "", facts_of)]
    experiments = []
    for name in loaded.suite:
        member = load.load(load.find(name, beside=path.parent), run_code=True)
        if isinstance(member, Suite):
            raise InputError(f"suite {loaded.name}: {name} is itself a suite; name its experiments")
        experiments.append(load.apply_suite(loaded, member))
    changed = bool(loaded.base or loaded.tune or loaded.seeds)
    return [_prepared(e, asked, f"{loaded.name}." if changed else "", facts_of) for e in experiments]


def _prepared(experiment: Experiment, asked: Asked, prefix: str, facts_of: FactsOf | None) -> Prepared:
    """A run's name: the experiment's, plus the data set's with --data, plus six hex digits of any other override."""
    overridden = load.override(experiment, data=asked.data, seeds=asked.seeds, sets=asked.sets)
    notes: tuple[str, ...] = ()
    if asked.data is not None:
        size = _image_size(overridden, asked.data, facts_of)
        suits = None if size is None else functools.partial(patch_suits, img_size=size)
        overridden = load.override(experiment, data=asked.data, seeds=asked.seeds, sets=asked.sets, suits=suits)
        notes = _patch_notes(experiment, overridden, asked.data)
    fetch_weights(overridden)
    if asked.as_name is not None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", asked.as_name):
            raise InputError(f"--as {asked.as_name!r}: letters, digits, '.', '_' and '-' only, at most 80")
        return Prepared(overridden, f"{prefix}{asked.as_name}", asked.data is not None, notes)
    name = f"{prefix}{experiment.name}"
    if asked.data is not None:
        name += "-" + slug(asked.data)
    if asked.sets:
        name += "-" + hashlib.sha256("\n".join(sorted(asked.sets)).encode()).hexdigest()[:6]
    return Prepared(overridden, name, asked.data is not None, notes)


def _image_size(experiment: Experiment, data: str, facts_of: FactsOf | None) -> int | tuple[int, int] | None:
    """The size of the images of `--data` as they are trained on; None if it is not known yet."""
    if (size := experiment.base.get("data", {}).get("img_size")) is not None:
        return DataSpec(img_size=size).img_size
    with suppress(InputError):  # The data set is missing or bad: the check of every cell says so.
        return facts_of(data).img_size if facts_of else None
    return None


def _patch_notes(before: Experiment, after: Experiment, data: str) -> tuple[str, ...]:
    """What `--data` had to change in the model, in words."""
    dropped = sorted(patches(before) - patches(after))
    if not dropped:
        return ()
    words = ", ".join(map(str, dropped))
    return (f"--data {data}: the file's patch size {words} does not suit these images; it is derived from their size",)


def slug(data: str) -> str:
    """A data set's name as part of a folder's name: `folder-flowers`; two paths of one last name get hex digits."""
    kind, _, rest = data.removeprefix("torch/").partition(":")
    if not rest:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", kind)
    last = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(rest).name) or "data"
    return f"{kind}-{last}-{hashlib.sha256(rest.encode()).hexdigest()[:4]}"


def facts_source(options: DataOptions, *, nominal: bool = False) -> FactsOf:
    """A cached look-up of what is known of a data set; `nominal`: of one that is not here, its published sizes."""
    look_up = facts_or_nominal if nominal else facts

    @functools.cache
    def facts_of(name: str) -> Facts:
        return look_up(name, options)

    return facts_of


def data_options(data_dir: Path | None, download: bool) -> DataOptions:
    """Where images lie: --data-dir, else $VITBENCH_DATA_DIR."""
    given = data_dir or (Path(os.environ["VITBENCH_DATA_DIR"]) if "VITBENCH_DATA_DIR" in os.environ else None)
    cache = os.environ.get("VITBENCH_CACHE_DIR")
    return DataOptions(data_dir=given, download=download, cache_dir=Path(cache) if cache else None)


def command_of(asked: Asked, root: Path, until_settled: bool = False, max_seeds: int | None = None) -> str:
    """The command that repeats a run, wherever its images lie."""
    words = ["vitbench", "run", asked.name]
    for option, value in (("--data", asked.data), ("--seeds", asked.seeds), ("--as", asked.as_name)):
        words += [option, value] if value is not None else []
    for change in asked.sets:
        words += ["--set", change]
    words += ["--until-settled"] if until_settled else []
    words += ["--max-seeds", str(max_seeds)] if max_seeds is not None else []
    return shlex.join(words + ([] if root == Path("results") else ["--results", str(root)]))


def experiment_yaml(experiment: Experiment, command: str) -> str:
    """The experiment as YAML, overrides included; what `report`, `status` and `verdict` read."""
    head = f"# {' '.join(experiment.question.split())}\n# Run: {command}\n"
    return head + dump(experiment.model_dump(mode="json", exclude_defaults=True))


def read_run(folder: Path) -> Experiment:
    """The experiment of a run folder. Raises InputError; also where the folder's name would move a cursor."""
    if not is_plain(folder.name):
        raise InputError(f"{folder}: control characters in the name of a run's folder; rename it")
    path = folder / "experiment.yaml"
    if not exists(path):
        raise InputError(f"{folder}: no experiment.yaml, so no run of vitbench")
    loaded = load.load(path)
    if isinstance(loaded, Suite):
        raise InputError(f"{path}: a suite, not a run's experiment")
    return loaded


def runs(root: Path) -> list[Path]:
    """The run folders of a results root, by name."""
    return sorted(path.parent for path in root.glob("*/experiment.yaml")) if root.is_dir() else []


def runs_named(root: Path, names: Sequence[str]) -> list[Path]:
    """The run folders that `names` mean: a folder, a run's name, or an experiment's (all of its runs); none: all."""
    known = runs(root)
    if not names:
        if not known:
            raise InputError(f"{root}: no runs; start one with `vitbench run NAME`")
        return known
    out: list[Path] = []
    for name in names:
        folder = Path(name)
        exact = [folder] if (folder / "experiment.yaml").is_file() else [p for p in known if p.name == name]
        found = exact or [p for p in known if read_run(p).name == name or p.name.startswith(f"{name}.")]
        if not found:
            from vitbench.base.errors import nearest

            raise InputError(
                f"{name}: no such run in {root}.{nearest(name, [p.name for p in known])} "
                f"Runs: {', '.join(p.name for p in known) or 'none'}"
            )
        out.extend(path for path in found if path not in out)
    return out
