"""Run analyses on one network, or on all networks of a run; write numbers, tables and figures into a folder."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from vitbench.base.durable import replace_durably
from vitbench.base.errors import InputError
from vitbench.data import DataOptions
from vitbench.inspection.catalogue import Analysis
from vitbench.inspection.network import Subject, of_trial
from vitbench.inspection.results import Findings, Shown
from vitbench.inspection.sample_images import choose_pictures
from vitbench.report.formats import to_csv, write
from vitbench.report.plots.arm_plots import save
from vitbench.report.plots.style import plotting
from vitbench.report.run_pictures import record_picture
from vitbench.stats.intervals import Interval, mean_interval, paired_interval
from vitbench.store.record import REPORTS
from vitbench.store.rows import AnalysisLine, add_analyses
from vitbench.store.trials import Store

Tell = Callable[[str], None]
PRIVATE = "private"
"""The folder of figures that show images which may not be published; no page includes it."""
MOST_REASONS = 3


@dataclass(frozen=True)
class InspectionRequest:
    """Which analyses to run, on which images. `named`: the user chose the analyses by name."""

    analyses: Mapping[str, Analysis]
    named: bool
    images: str | None
    limit: int
    data: DataOptions
    tell: Tell


@dataclass
class CollectedFindings:
    """Findings of one analysis by arm and seed, why networks were left out, and whether pages may show its images."""

    by_arm: dict[str, dict[int, Findings]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    publishable: bool = True
    images: str = ""

    def by_label(self) -> dict[str, list[Findings]]:
        """{label: findings by seed}."""
        return {label: [by_seed[seed] for seed in sorted(by_seed)] for label, by_seed in self.by_arm.items()}


Collected = Mapping[str, CollectedFindings]
"""The findings of several analyses, by the analysis's name."""


def look_into(subject: Subject, request: InspectionRequest, folder: Path) -> list[str]:
    """Analyse one network and write the results into `folder`; returns the names of the analyses that apply to it.

    Raises InputError if an analysis that the user named does not apply, or if none applies.
    """
    if request.images is not None:
        choose_pictures(subject, request.images, 1, request.data)
    collected: dict[str, CollectedFindings] = {name: CollectedFindings() for name in request.analyses}
    numbers = _look(subject, (subject.name, 0), request, collected)
    refused = [reason for findings in collected.values() for reason in findings.refused.values()]
    done = [name for name, findings in collected.items() if findings.by_arm]
    if refused and (request.named or not done):
        raise InputError(refused[0])
    for name in (name for name in collected if name not in done):
        request.tell(f"{name}: left out; {next(iter(collected[name].refused.values()))}")
    for name in done:
        (findings,) = collected[name].by_label()[subject.name]
        _draw(name, request, collected[name], folder, f"{subject.name}; {collected[name].images}.")
        write(folder / f"{name}.csv", to_csv(pd.DataFrame(findings.rows or [findings.metrics])))
    frame = pd.DataFrame([{"number": key, "value": value} for key, value in numbers.items()])
    write(folder / "numbers.csv", to_csv(frame))
    return done


def look_into_run(
    rows: Sequence[Mapping[str, Any]], folder: Path, request: InspectionRequest, *, every_setting: bool = False
) -> list[str]:
    """Analyse every kept network of a run; write figures and tables over its seeds, and the numbers of each network.

    With `every_setting`, also write the numbers of a race's other settings: a claim on such a number needs them to know
    how much it depends on the choice. Figures and tables show the chosen setting only.
    Return the names of the analyses that apply. Raises InputError if none applies.
    """
    collected: dict[str, CollectedFindings] = {name: CollectedFindings() for name in request.analyses}
    for stage in (False, True):
        part = {name: findings for name, findings in collected.items() if request.analyses[name].of_stage == stage}
        networks = _networks(rows, stage) if part else []
        for number, row in enumerate(networks, 1):
            request.tell(f"[{number}/{len(networks)}] {row['arm']}, seed {row['seed']}")
            _look_at(row, folder, request, part)
    for row in _other_settings(rows) if every_setting else ():
        setting = ", ".join(f"{path} {value}" for path, value in row["setting"].items())
        request.tell(f"{row['arm']}, seed {row['seed']}, {setting}: numbers only")
        _look_at(row, folder, request, {n: CollectedFindings() for n, a in request.analyses.items() if not a.of_stage})
    done = [name for name, findings in collected.items() if findings.by_arm]
    if not done:
        raise InputError(_nothing(folder, collected))
    for name in done:
        counts = ", ".join(f"{label} {len(by_seed)}" for label, by_seed in collected[name].by_arm.items())
        left_out = "".join(f" Left out: {line}." for line in _left_out(collected[name]))
        words = f"Networks: {counts}; {collected[name].images}.{left_out}"
        _draw(name, request, collected[name], folder / "analysis", words)
        write(folder / "analysis" / f"{name}.csv", to_csv(summary(collected[name].by_arm)))
    return done


def _look_at(row: Mapping[str, Any], folder: Path, request: InspectionRequest, collected: Collected) -> None:
    """Run every analysis in `collected` on one trial's network, and add its numbers to the run's file."""
    store = Store(folder.parent)
    record = store.read(row["trial_id"])
    try:
        if record is None:
            raise InputError(f"trial {row['trial_id']}: no record in {store.trials}")
        subject = of_trial(record, store.root, request.data)
    except InputError as error:
        for findings in collected.values():
            findings.refused[f"{row['arm']}, seed {row['seed']}"] = str(error)
        return
    metrics = _look(subject, (str(row["arm"]), int(row["seed"])), request, collected)
    if metrics:
        weights = record.result.weights_sha256
        images = request.images or subject.data or ""
        line = AnalysisLine(
            trial_id=record.trial_id, weights_sha256=weights, images=images, num_images=request.limit, metrics=metrics
        )
        add_analyses(folder, [line])


def _networks(rows: Sequence[Mapping[str, Any]], stage: bool) -> list[Mapping[str, Any]]:
    """The rows of finished trials at their arm's chosen setting, or of the first stages; each trial once."""
    roles = {"stage"} if stage else REPORTS
    found = [
        row
        for row in rows
        if row["role"] in roles and row["status"] == "ok" and row["seed"] < 1000 and (stage or row.get("chosen", True))
    ]
    return list({row["trial_id"]: row for row in reversed(found)}.values())[::-1]


def _other_settings(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The finished trials of races at settings that were not chosen; each trial once."""
    others = [r for r in rows if r["role"] == "trial" and r["status"] == "ok" and not r.get("chosen", True)]
    return list({row["trial_id"]: row for row in others}.values())


def _look(
    subject: Subject, cell: tuple[str, int], request: InspectionRequest, collected: Collected
) -> dict[str, float]:
    """Run every analysis on one network and add the findings to `collected`; returns all numbers by name."""
    images = Shown(subject, request.images, request.limit, request.data)
    (label, seed), metrics = cell, dict[str, float]()
    for name, into in collected.items():
        try:
            findings = request.analyses[name].look(subject, images)
        except InputError as error:
            into.refused[f"{label}, seed {seed}"] = str(error)
            continue
        into.by_arm.setdefault(label, {})[seed] = findings
        if "test" in vars(images):
            into.publishable &= images.test.publishable
            into.images = f"{len(images.test)} test images of {images.test.name}"
        metrics |= findings.metrics
    return metrics


def _nothing(folder: Path, collected: Collected) -> str:
    reasons = [reason for findings in collected.values() for reason in findings.refused.values()]
    return (
        reasons[0] if reasons else f"{folder.name}: no finished trial of the kind that {', '.join(collected)} looks at"
    )


def _left_out(collected: CollectedFindings) -> list[str]:
    """The networks that were left out, with reasons; the first few."""
    lines = [f"{who} ({reason.partition(': ')[2] or reason})" for who, reason in collected.refused.items()]
    more = len(lines) - MOST_REASONS
    return lines[:MOST_REASONS] + ([f"and {more} more"] if more > 0 else [])


def _draw(name: str, request: InspectionRequest, collected: CollectedFindings, folder: Path, words: str) -> None:
    """Save the figure of one analysis with its caption: in `folder`; a figure of images as an asset, or privately."""
    analysis = request.analyses[name]
    caption = f"{analysis.caption} {words}"
    with plotting():
        figure = analysis.draw(collected.by_label())
        png = io.BytesIO()
        if analysis.pictures:
            figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    folder.mkdir(parents=True, exist_ok=True)
    if not analysis.pictures:
        save({name: figure}, folder)
        write(folder / f"{name}.md", caption + "\n")
    elif collected.publishable and folder.name == "analysis":
        record_picture(folder.parent, name, png.getvalue(), caption)
    else:
        place = folder / PRIVATE if not collected.publishable else folder
        place.mkdir(exist_ok=True)
        replace_durably(place / f"{name}.png", png.getvalue())
        write(place / f"{name}.md", caption + "\n")


def summary(by_arm: Mapping[str, Mapping[int, Findings]]) -> pd.DataFrame:
    """One row per number: mean and 95% interval over each arm's seeds, and each arm minus the first, paired by seed."""
    names = dict.fromkeys(
        name for by_seed in by_arm.values() for findings in by_seed.values() for name in findings.metrics
    )
    first, *others = by_arm
    rows = []
    for name in names:
        values = {arm: _values(by_seed, name) for arm, by_seed in by_arm.items()}
        row = {"number": name}
        row |= {arm: _cell(mean_interval(list(of.values())) if of else None) for arm, of in values.items()}
        row |= {f"{arm} - {first}": _cell(_paired(values[arm], values[first])) for arm in others}
        rows.append(row)
    return pd.DataFrame(rows)


def _values(by_seed: Mapping[int, Findings], name: str) -> dict[int, float]:
    return {seed: findings.metrics[name] for seed, findings in by_seed.items() if name in findings.metrics}


def _paired(a: Mapping[int, float], b: Mapping[int, float]) -> Interval | None:
    """The interval of a - b over the seeds that both have; None without common seeds."""
    both = sorted(a.keys() & b.keys())
    return paired_interval([a[seed] for seed in both], [b[seed] for seed in both]) if both else None


def _cell(interval: Interval | None) -> str:
    """`n = 5: 81.20 [80.10, 82.30]`; `none` for None. The count is first, so that no spreadsheet reads a formula."""
    if interval is None or interval.mean is None:
        return "none"
    if interval.ends is None:
        return f"n = {interval.n}: {interval.mean:.2f}"
    low, high = interval.ends
    return f"n = {interval.n}: {interval.mean:.2f} [{low:.2f}, {high:.2f}]"
