"""The looks that a run declares: those of its file, cut or continued by --max-seeds, then sealed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vitbench.base.errors import InputError
from vitbench.cli.commands.prepare import Prepared, read_run
from vitbench.cli.commands.run_options import RunOptions
from vitbench.plan.rounds import SeedsOfArms
from vitbench.plan.run_table import Row
from vitbench.plan.shared_settings import claimed_arms
from vitbench.spec.arms import arms
from vitbench.spec.claims import single_claims
from vitbench.spec.experiment import Experiment, Seeds, declare_maximum, later_looks
from vitbench.spec.seal import read_seal
from vitbench.store.record import REPORTS


def has_rows(folder: Path) -> bool:
    """Whether a trial of the run has a record."""
    path = folder / "records.jsonl"
    return path.is_file() and path.stat().st_size > 0


def declared(item: Prepared, options: RunOptions) -> Prepared:
    """The experiment with the looks that its run declares: cut or continued by --max-seeds before the first trial.

    After it the sealed looks hold; a higher maximum adds looks that are labelled as extended. Raises InputError.
    """
    experiment, folder, most = item.experiment, options.root / item.run, options.max_seeds
    seeds, tune = experiment.seeds, experiment.tune
    if seeds.looks is None:
        if options.until_settled or most is not None:
            option = "--until-settled" if options.until_settled else "--max-seeds"
            raise InputError(
                f"{experiment.name}: {option} needs looks in the file, as seeds: {{looks: [6, 9, 13, 20]}}"
            )
        return item
    if most is not None and most < seeds.looks[0]:
        raise InputError(f"{experiment.name}: --max-seeds {most} is under the first look, {seeds.looks[0]}")
    if tune is not None and not tune.races:
        return item  # A first-edition file keeps its looks; a maximum only stops it earlier.
    seal = read_seal(folder) if has_rows(folder) else None
    if seal is None:
        declared_seeds = seeds if most is None or has_rows(folder) else declare_maximum(seeds, most)
    elif list(seeds.looks) == seal["file_looks"]:
        declared_seeds = _extended(Seeds(looks=tuple(seal["seeds"]["looks"])), folder, most)
    else:
        declared_seeds = seeds  # An edit of the looks, which the verdicts then say.
    return replace(item, experiment=experiment.model_copy(update={"seeds": declared_seeds}), file_looks=seeds.looks)


def _extended(sealed: Seeds, folder: Path, most: int | None) -> Seeds:
    """The sealed looks with those beyond their maximum: earlier ones stay, a higher maximum adds some."""
    assert sealed.looks is not None
    extended = read_run(folder).seeds.extended
    last = (*sealed.looks, *extended)[-1]
    more = later_looks(last, most) if most is not None and most > last else ()
    return Seeds(looks=sealed.looks, extended=(*extended, *more))


def looks_of(experiment: Experiment, options: RunOptions) -> list[int | None]:
    """The number of seeds of each look in turn, up to --max-seeds; one ordinary run without --until-settled."""
    if not options.until_settled:
        return [None]
    looks = experiment.seeds.all_looks()
    return [n for n in looks if n <= (options.max_seeds or looks[-1])]


def seeds_at(look: int | None, experiment: Experiment, rows: Sequence[Row], open_claims: Sequence[str]) -> SeedsOfArms:
    """The seeds of each arm at a look: all of them for the arms of open claims, those it has for the others.

    At the first look, without rows, every arm has all of them.
    """
    if look is None:
        return None
    if not rows:
        return range(look)
    names, looks = [arm.name for arm in arms(experiment)], experiment.seeds.all_looks()
    claims = [claim for claim in single_claims(experiment.claims) if claim.id in open_claims]
    going = set[str]().union(*(claimed_arms(experiment, claim) or names for claim in claims))
    reached: dict[str, int] = {}
    for row in rows:
        within = [n for n in looks if n <= row["seed"] + 1 and row["role"] in REPORTS]
        reached[row["arm"]] = max(reached.get(row["arm"], looks[0]), *within, 0)
    return {name: range(look if name in going else reached.get(name, looks[0])) for name in names}
