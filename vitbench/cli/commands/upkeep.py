"""`vitbench doctor`, `clean` and `check-data`: check machine and results, remove leftovers, check images."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from vitbench import data as images
from vitbench.base.contained import exists, read_text
from vitbench.base.durable import size_words
from vitbench.base.errors import InputError, ResultsError, printable
from vitbench.cli import clean as cleaning
from vitbench.cli.clean import Leftover, Use
from vitbench.cli.commands.checks import overlap_line
from vitbench.cli.commands.prepare import facts_source, read_run, runs
from vitbench.cli.doctor import Finding, data_finding, machine, ok, root_findings, warn
from vitbench.data import DataOptions
from vitbench.engines import runner
from vitbench.plan.sources import cautions, contradictions
from vitbench.plan.trials import Builder, FactsOf
from vitbench.spec.seal import edits, read_seal
from vitbench.stats.race import CHOOSER
from vitbench.store import file_system
from vitbench.store.record import parents_of
from vitbench.store.rows import read_records
from vitbench.store.trials import Store

STYLES = {"ok": "green", "warn": "yellow", "bad": "bold red"}
ORDER = (6, 5, 2)
"""Exit codes by priority: the first that applies."""


def doctor(root: Path, data: DataOptions, console: Console, *, fix: bool, as_json: bool) -> int:
    """Print one finding per line; with `fix`, first remove what is safe to lose. Return 0 if nothing is bad."""
    store, facts_of = Store(root), facts_source(data)
    removed: list[Leftover] = []
    findings = [*machine(root, data)]
    if root.is_dir():
        use = use_of(root, facts_of)
        if fix:
            safe = [leftover for leftover in cleaning.leftovers(store, use) if leftover.safe]
            removed, refused = cleaning.remove(store, safe)
            findings += [Finding("bad", "leftover", line, "", 5) for line in refused]
        findings += [*root_findings(store, use), *_run_findings(root, facts_of)]
    else:
        findings.append(ok("results", f"no folder {root} yet"))
    if as_json:
        paths = [str(leftover.path) for leftover in removed]
        print(json.dumps({"findings": [dataclasses.asdict(finding) for finding in findings], "removed": paths}))
    else:
        for leftover in removed:
            console.print(Text(printable(f"removed  {leftover.path} ({leftover.why})")), soft_wrap=True)
        for finding in findings:
            line = Text(f"{finding.level:5}", STYLES[finding.level])
            line.append(printable(f"{finding.what}: {finding.text}"), "default")
            line.append(printable(f" -> {finding.advice}") if finding.advice else "", "dim")
            console.print(line, soft_wrap=True)
    codes = {finding.exit_code for finding in findings if finding.level == "bad"}
    return next((code for code in ORDER if code in codes), 0)


def hold(root: Path, seconds: float, console: Console) -> int:
    """Hold a lock in the root, so that `vitbench doctor` on another host can say whether it is excluded there."""
    if not root.is_dir():
        raise InputError(f"{root}: no results folder")
    try:
        with file_system.holding(root, seconds):
            console.print(f"holding a lock for {seconds:g} s: now run vitbench doctor on another host", highlight=False)
            time.sleep(seconds)
    except BlockingIOError:
        raise InputError(f"{root}: another `vitbench doctor --hold` holds its lock") from None
    return 0


def clean(root: Path, data: DataOptions, console: Console, *, yes: bool) -> int:
    """List the leftovers that nothing refers to, and with `yes` remove them."""
    store, facts_of = Store(root), facts_source(data)
    if not root.is_dir():
        raise InputError(f"{root}: no results folder")
    use = use_of(root, facts_of)
    leftovers = cleaning.leftovers(store, use)
    for name, why in use.open_runs.items():
        console.print(Text(printable(f"kept: trials that no plan uses, as {name} {why}")), soft_wrap=True)
    done, refused = cleaning.remove(store, leftovers) if yes else (leftovers, [])
    for leftover in done:
        line = (
            f"{'removed' if yes else 'would remove'}  {leftover.path}: {leftover.why}, {size_words(leftover.num_bytes)}"
        )
        console.print(Text(printable(line)), soft_wrap=True)
    total = size_words(sum(leftover.num_bytes for leftover in done))
    hint = "" if yes or not done else "; --yes removes them"
    console.print(f"{len(done)} leftovers, {total}{hint}", highlight=False)
    if refused:
        raise ResultsError("\n".join(refused))
    return 0


def use_of(root: Path, facts_of: FactsOf) -> Use:
    """The trials to which the plans and records of a root's runs refer.

    A run that cannot be planned or is not finished may refer to more.
    """
    roles: dict[str, set[str]] = defaultdict(set)
    still_open: dict[str, str] = {}
    for folder in runs(root):
        try:
            for row in read_records(folder / "records.jsonl") if exists(folder / "records.jsonl") else ():
                roles[row["trial_id"]].add(row["role"])
                for parent in parents_of(row).values():
                    roles[parent].add("stage")
            plan, records = runner.look(Builder(read_run(folder), facts_of), Store(root), CHOOSER)
        except (InputError, ResultsError) as error:
            still_open[folder.name] = f"cannot be planned: {str(error).splitlines()[0]}"
            continue
        for trial in plan.trials:
            roles[trial.trial_id].add(trial.role)
        if plan.missing(records) or not plan.complete:
            still_open[folder.name] = "is not finished"
    return Use({trial_id: frozenset(uses) for trial_id, uses in roles.items()}, still_open)


def _run_findings(root: Path, facts_of: FactsOf) -> Iterator[Finding]:
    """Check that every run can be read, fits the current images, and has the tables of its records."""
    for folder in runs(root):
        try:
            yield from _run_finding(folder, Store(root), facts_of)
        except ResultsError as error:
            yield Finding("bad", "run", str(error), "restore the file, or run the experiment again under --as NAME", 5)
        except InputError as error:
            yield warn("run", f"{folder.name}: {str(error).splitlines()[0]}")


def _run_finding(folder: Path, store: Store, facts_of: FactsOf) -> Iterator[Finding]:
    """The findings of one run. Raises InputError, ResultsError."""
    from vitbench.report.formats import to_csv
    from vitbench.report.tables import result_frame

    experiment, path = read_run(folder), folder / "records.jsonl"
    written = read_records(path) if exists(path) else []
    for problem in contradictions(folder, written):
        yield Finding("bad", "contradiction", problem, "restore the file, or run the experiment again", 5)
    for caution in cautions(written):
        yield warn("caution", f"{folder.name}: {caution}")
    prints = {str(row.get("data")): str(row.get("data_fingerprint")) for row in written}
    for name, fingerprint in prints.items():
        finding = data_finding(folder.name, facts_of(name), fingerprint)
        if finding:
            yield finding
            return
    for claim, lines in edits(read_seal(folder), experiment).items():
        for line in lines:
            text = f"{folder.name}{f', {claim}' if claim else ''}: {line}"
            yield warn("sealed", text, "its verdicts are exploratory; --as NAME starts a new run")
    plan, records = runner.look(Builder(experiment, facts_of), store, CHOOSER)
    num_finished = sum(trial.trial_id in records for trial in plan.trials)
    if num_finished > len(written):
        text = f"{folder.name}: {num_finished - len(written)} finished trials are not in records.jsonl"
        yield warn("run", text, "run its command again to write them")
    table = folder / "table.csv"
    if written and exists(table) and read_text(table) != to_csv(result_frame(experiment, written)):
        yield warn("run", f"{folder.name}: the tables do not fit the records", f"vitbench report {folder.name}")
    else:
        yield ok("run", f"{folder.name}: {len(written)} rows")


def check_data(name: str, data: DataOptions, console: Console) -> int:
    """Decode every image, look at every label, and compare the splits. Raises InputError for a bad image or label."""
    report = images.check(name, data)
    for line in report.problems:
        console.print(Text(printable(line)), soft_wrap=True)
    if report.facts is None:
        count = len(report.problems)
        raise InputError(f"{name}: {count} problem{'' if count == 1 else 's'}")
    for line in images.describe(report.facts):
        console.print(Text(printable(line)), soft_wrap=True)
    console.print(f"every image can be decoded; fingerprint {report.facts.fingerprint[:16]}", highlight=False)
    overlap = overlap_line(report.facts)
    for line in (*([overlap] if overlap else []), *report.warnings):
        console.print(Text(printable(f"warning: {line}")), soft_wrap=True)
    return 0
