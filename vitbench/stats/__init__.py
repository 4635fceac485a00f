"""Statistics that settle a claim, usable from a notebook: arrays and rows in, intervals and verdicts out.

    from vitbench.stats import judge_all, mean_interval, one_line, paired_interval, score_matrix

A row is one trial, a dict as `records.jsonl` holds it. No files, no torch.
"""

from __future__ import annotations

from vitbench.stats.compare import Comparison, compare_arms, compare_to_baseline
from vitbench.stats.images import calibration_error, churn, images_interval, per_class_differences
from vitbench.stats.intervals import Interval, mean_interval, paired_interval
from vitbench.stats.power_law import PowerLaw, power_law
from vitbench.stats.scores import ScoreMatrix, score_matrix
from vitbench.stats.table import TrialTable as Table
from vitbench.stats.table import tabulate
from vitbench.stats.tuning import Choice, TuningNoise, choose, tuning_noise
from vitbench.stats.verdict import claim_problem, judge
from vitbench.stats.verdict_list import judge_all, with_q
from vitbench.stats.verdict_types import Context as Facts
from vitbench.stats.verdict_types import PartVerdict, Verdict
from vitbench.stats.wording import one_line

__all__ = [
    "Choice",
    "Comparison",
    "Facts",
    "Interval",
    "PartVerdict",
    "PowerLaw",
    "ScoreMatrix",
    "Table",
    "TuningNoise",
    "Verdict",
    "calibration_error",
    "choose",
    "churn",
    "claim_problem",
    "compare_arms",
    "compare_to_baseline",
    "images_interval",
    "judge",
    "judge_all",
    "mean_interval",
    "one_line",
    "paired_interval",
    "per_class_differences",
    "power_law",
    "score_matrix",
    "tabulate",
    "tuning_noise",
    "with_q",
]
