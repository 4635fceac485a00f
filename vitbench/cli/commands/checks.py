"""Checks before the first trial: cells that cannot be built, confounded arms, claims that cannot be decided."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from vitbench.base.contained import exists, read
from vitbench.base.errors import InputError, ResultsError
from vitbench.cli.commands.prepare import Prepared, read_run
from vitbench.data import Facts, cropped_share, describe
from vitbench.model.mechanisms import stages_by_mixer
from vitbench.model.objective import objective_of
from vitbench.plan.arm_diff import check_arms
from vitbench.plan.metric_check import check_metrics, has_validation
from vitbench.plan.run_table import model_sizes
from vitbench.plan.shared_settings import claim_references, factors_only
from vitbench.plan.stage_graph import ResolvedStage, check_roles
from vitbench.plan.trials import Builder, FactsOf, settings
from vitbench.spec.arms import find_arms
from vitbench.spec.claims import Claim
from vitbench.spec.experiment import Experiment
from vitbench.spec.metrics import metric_named
from vitbench.spec.trial import size_words
from vitbench.stats.verdict import claim_problem
from vitbench.store.bounds import parse
from vitbench.store.record import ALGORITHM_VERSION

SIZE_OF_AXIS = {"log2_grid_side": "grid_side", "log2_coefficients": "num_coefficients", "depth": "depth"}
"""The size of a model that each axis reads; other axes read what every trial has."""
WORDS_OF_SIZE = {"grid_side": "square grid", "num_coefficients": "cosine coefficients", "depth": "depth"}


def check_all(prepared: Sequence[Prepared], facts_of: FactsOf, warn: bool = True) -> list[Builder]:
    """Resolve every cell of every grid and every claim's arms before the first trial; `warn` of the images on stderr.

    Return the builder of each experiment, so that a command resolves each cell once. Raises InputError with all
    problems.
    """
    problems: list[str] = []
    builders = [Builder(item.experiment, facts_of) for item in prepared]
    for item, builder in zip(prepared, builders, strict=True):
        cell_problems: dict[str, None] = {}
        for arm in builder.arms.values():
            for setting in settings(item.experiment):
                cell_problems |= _problems(partial(builder.stages, arm, setting))
        if not cell_problems:
            cell_problems |= _problems(partial(check_arms, item.experiment, builder))
            cell_problems |= _problems(partial(check_metrics, item.experiment, builder))
            cell_problems |= _problems(partial(check_roles, item.experiment, _all_stages(builder)))
            cell_problems |= dict.fromkeys(_claim_problems(item, builder))
            cell_problems |= dict.fromkeys(_tuning_problems(builder))
        problems.extend(cell_problems)
    if problems:
        raise InputError("\n".join(problems))
    notes = [*(note for item in prepared for note in item.notes), *_model_notes(builders)]
    for note in dict.fromkeys(notes):
        print(f"note: {note}", file=sys.stderr)
    if warn:
        _warn_of_data(builders)
    return builders


def _all_stages(builder: Builder) -> list[list[ResolvedStage]]:
    """The stages of every arm at the first setting."""
    setting = settings(builder.experiment)[0]
    return [builder.stages(arm, setting) for arm in builder.arms.values()]


def _model_notes(builders: Sequence[Builder]) -> Iterator[str]:
    """What the token mixers of all arms have to say about themselves."""
    for builder in builders:
        for resolved in _all_stages(builder):
            models = [stage.spec.model for stage in resolved if stage.spec.model.family != "resnet"]
            yield from (
                note for model in models for mixer, stages in stages_by_mixer(model) for note in mixer.notes(stages)
            )


def overlap_line(facts: Facts) -> str | None:
    """Say how many test images are also training images; None if there are none, or if nobody counted."""
    if not facts.num_test_in_train:
        return None
    share = 100 * facts.num_test_in_train / facts.num_test
    return (
        f"{facts.name}: {facts.num_test_in_train} of {facts.num_test} test images ({share:.1f}%) are also "
        "training images; their accuracies are too high in every arm"
    )


def _data_sets(builders: Sequence[Builder]) -> list[Facts]:
    """The data sets of all arms, each once."""
    names: dict[str, Facts] = {}
    for builder in builders:
        setting = settings(builder.experiment)[0]
        for arm in builder.arms.values():
            for stage in builder.stages(arm, setting):
                names[stage.spec.data.name] = builder.facts_of(stage.spec.data.name)
    return list(names.values())


CROP_SHARE = 0.1
"""`run` warns if a centre crop removes more than this share of the images' area."""


def crop_line(facts: Facts, img_size: int | tuple[int, int]) -> str | None:
    """Say how much of the images a centre crop to `img_size` removes; None for a tenth or less."""
    share = cropped_share(facts, img_size)
    if share <= CROP_SHARE:
        return None
    return (
        f"{facts.name}: the centre crop to {size_words(img_size)} px removes {100 * share:.0f}% of the images' area; "
        "data.img_size: [height, width] keeps their shape"
    )


def _warn_of_data(builders: Sequence[Builder]) -> None:
    """Warn of test images that are also training images, and of large centre crops; the user decides."""
    lines: dict[str | None, None] = {}
    for builder in builders:
        setting = settings(builder.experiment)[0]
        for arm in builder.arms.values():
            for stage in builder.stages(arm, setting):
                data = stage.spec.data
                facts = builder.facts_of(data.name)
                crop = None if data.img_size is None else crop_line(facts, data.img_size)
                lines |= {overlap_line(facts): None, crop: None}
    for line in filter(None, lines):
        print(f"warning: {line}", file=sys.stderr)


def check_origin(folder: Path, facts_of: FactsOf) -> None:
    """Refuse to add to a run whose records come from another version of the code or from other images.

    Its table would mix incomparable numbers. Raises ResultsError.
    """
    advice = "--as NAME starts a separate run"
    for row in _whole_rows(folder / "records.jsonl"):
        version = row.get("algorithm_version", ALGORITHM_VERSION)
        if version != ALGORITHM_VERSION:
            raise ResultsError(
                f"{folder}: records of algorithm version {version}, but this is {ALGORITHM_VERSION}; {advice}"
            )
        try:
            current = facts_of(str(row.get("data"))).fingerprint
        except InputError:  # this experiment no longer reads that data set
            continue
        if row.get("data_fingerprint", current) != current:
            raise ResultsError(f"{folder}: the images of {row['data']} have changed since its records; {advice}")


COMPUTES = ("base", "factors", "arms", "exclude", "stages", "tune")
"""The keys of an experiment that decide what its trials compute."""


def check_same_experiment(folder: Path, experiment: Experiment, *, replace: bool) -> None:
    """Nothing, if a run's folder holds no results of another experiment, or of an earlier text of this one.

    Raises ResultsError that names the first difference; with `replace` nothing.
    """
    if replace or next(_whole_rows(folder / "records.jsonl"), None) is None:
        return
    try:
        before = read_run(folder)
    except InputError:  # A damaged experiment.yaml is written again.
        return
    old, new = (
        flat(item.model_dump(mode="json", exclude_defaults=True, include=set(COMPUTES)))
        for item in (before, experiment)
    )
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if changed:
        key = changed[0]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ResultsError(
            f"{folder}: holds results of another experiment named {before.name} ({key}: {old.get(key)} there, "
            f"{new.get(key)} here{more}); --as NAME starts a run beside it, --replace takes its place"
        )


def flat(nested: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings, by dotted path."""
    if not isinstance(nested, dict):
        return {prefix: nested}
    return {
        path: leaf
        for key, value in nested.items()
        for path, leaf in flat(value, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def data_lines(builders: Sequence[Builder]) -> list[str]:
    """What the data sets of these experiments are: splits, classes, what was left out, what was done to the images."""
    return [line for facts in _data_sets(builders) for line in describe(facts)]


def _whole_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The readable rows. The file is derived data, so the next run rewrites a torn line."""
    for line in read(path).split(b"\n") if exists(path) else ():
        with suppress(ValueError):
            row = parse(line)
            if isinstance(row, dict):
                yield row


def _problems(check: Callable[[], object]) -> dict[str, None]:
    """The lines of the InputError that `check` raises; empty if it passes."""
    try:
        check()
    except InputError as error:
        return dict.fromkeys(str(error).splitlines())
    return {}


def _claim_problems(item: Prepared, builder: Builder) -> Iterator[str]:
    """Claims whose arms do not exist or are tested on different images, or whose margin is too fine for the images.

    The margin was written for the file's own data. With --data it is not refused here; the verdict mentions it.
    """
    experiment = item.experiment
    data = str(experiment.base.get("data", {}).get("name", "digits"))
    for claim in experiment.claims:
        too_fine = None if item.other_data else claim_problem(claim.on(data), builder.facts_of(data).num_test)
        if too_fine:
            yield f"{experiment.name}: {too_fine}"
        for part in claim.part_claims():
            if part.untested is None and part.form != "descriptive":
                lines = _arm_problems(experiment, part)
                for line in lines or [*_test_set_problems(builder, part), *_axis_problems(builder, part)]:
                    yield f"{experiment.name}, claim {part.id}: {line}"


def _tuning_problems(builder: Builder) -> Iterator[str]:
    """Arms whose settings cannot be chosen: without validation images, or without the metric that chooses."""
    experiment = builder.experiment
    if (tune := experiment.tune) is None:
        return
    for arm in builder.arms.values():
        for setting in settings(experiment):
            spec = builder.stages(arm, setting)[-1].spec
            where = f"{experiment.name}, arm {arm.name}: tune chooses by {tune.metric};"
            classifies = objective_of(spec.train.objective).predicts_classes
            if metric_named(tune.metric).guess and not classifies:
                yield f"{where} train.objective.name {spec.train.objective.name} has none (tune.metric: val_loss)"
            elif not has_validation(builder, spec):
                yield f"{where} data.val_fraction {spec.data.val_fraction:g} leaves no validation image"


def _arm_problems(experiment: Experiment, claim: Claim) -> list[str]:
    """References of one claim that name no arm, at its fixed levels and at each level of its axis."""
    problems: dict[str, None] = {}
    for refs, where in claim_references(experiment, claim):
        for ref in refs:
            problems |= _problems(partial(find_arms, experiment, factors_only(experiment, ref), where))
    return list(problems)


def _axis_problems(builder: Builder, claim: Claim) -> list[str]:
    """Arms that lack the size along which the claim's x runs."""
    experiment, size = builder.experiment, SIZE_OF_AXIS.get(claim.x or "")
    if size is None:
        return []
    setting, problems = settings(experiment)[0], dict[str, None]()
    for refs, where in claim_references(experiment, claim):
        for arm in (arm for ref in refs for arm in find_arms(experiment, factors_only(experiment, ref), where)):
            if model_sizes(builder.stages(arm, setting)[-1].spec.model)[size] is None:
                problems[f"arm {arm.name} has no {WORDS_OF_SIZE[size]}, along which x: {claim.x} runs"] = None
    return list(problems)


def _test_set_problems(builder: Builder, claim: Claim) -> list[str]:
    """Arms that the claim compares by seed and that are tested on different images."""
    experiment, problems = builder.experiment, dict[str, None]()
    setting = settings(experiment)[0]
    for refs, where in claim_references(experiment, claim):
        test_sets: dict[object, str] = {}
        for ref in refs:
            for arm in find_arms(experiment, factors_only(experiment, ref), where):
                stage = builder.stages(arm, setting)[-1]
                test_sets.setdefault((stage.fingerprint, stage.spec.data.classes), arm.name)
        if len(test_sets) > 1:
            first, second, *_ = test_sets.values()
            line = f"{first} and {second} are tested on different images, and a difference by seed needs the same ones"
            problems[line] = None
    return list(problems)
