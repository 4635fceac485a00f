"""Every claim of an experiment, and q values over any list of verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from vitbench.base.errors import InputError
from vitbench.spec.claims import Claim, single_claims
from vitbench.spec.experiment import Experiment
from vitbench.stats.distributions import benjamini_hochberg
from vitbench.stats.table import Row, TrialTable, tabulate
from vitbench.stats.verdict import judge
from vitbench.stats.verdict_types import Context, Verdict


def judge_all(experiment: Experiment, rows: Iterable[Row] | TrialTable, facts: Context | None = None) -> list[Verdict]:
    """One verdict per claim in file order, or one per part if a claim's parts are judged alone. q is over all.

    A claim that these rows cannot answer (say, its metric was not measured) is untested; the others are judged.
    """
    table = rows if isinstance(rows, TrialTable) else tabulate(rows)
    verdicts = [_judged(claim, experiment, table, facts) for claim in single_claims(experiment.claims)]
    return with_q(_exclusions(verdicts, experiment))


def _judged(claim: Claim, experiment: Experiment, table: TrialTable, facts: Context | None) -> Verdict:
    try:
        return judge(claim, experiment, table, facts)
    except InputError as error:
        scale = facts.scale if facts else ""
        return Verdict(claim.id, claim.form, "untested", claim.statement, reason=str(error), scale=scale)


def with_q(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts with Benjamini-Hochberg q; untested ones are left out. A column: it changes no state."""
    tested = [index for index, verdict in enumerate(verdicts) if verdict.p is not None]
    q_values = benjamini_hochberg([verdicts[index].p or 0.0 for index in tested])
    out = list(verdicts)
    for index, q in zip(tested, q_values, strict=True):
        out[index] = replace(out[index], q=q)
    return out


def _exclusions(verdicts: list[Verdict], experiment: Experiment) -> list[Verdict]:
    """A note on supported claims that say of each other that they cannot both be."""
    supported = {verdict.claim for verdict in verdicts if verdict.state == "supported"}
    excludes = {claim.id: set(claim.excludes) & supported for claim in single_claims(experiment.claims)}
    return [
        replace(verdict, notes=(*verdict.notes, f"at odds with {', '.join(sorted(rivals))}, also supported"))
        if verdict.state == "supported" and (rivals := excludes.get(verdict.claim, set()))
        else verdict
        for verdict in verdicts
    ]
