"""Writes the golden records and what they give; run by hand when a table is meant to change, then read the diff."""

from __future__ import annotations

import json
from pathlib import Path

from sample_rows import class_token_experiment, class_token_rows, lost

from vitbench.experiment import Experiment
from vitbench.report.board import scoreboard
from vitbench.report.page import report

GOLDEN = Path(__file__).parent / "golden"
RUN = "class_token_vs_gap"
PINNED = (f"{RUN}/table.md", f"{RUN}/table.csv", f"{RUN}/table.tex", "scoreboard.csv")


def rebuild(root: Path) -> None:
    """Writes every derived file of the golden run into `root`, from its committed records."""
    folder = root / RUN
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("experiment.yaml", "records.jsonl"):
        (folder / name).write_bytes((GOLDEN / RUN / name).read_bytes())
    rows = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    report(experiment(folder), rows, folder)
    scoreboard(root, [folder])


def experiment(folder: Path) -> Experiment:
    """The experiment of the folder; JSON is YAML."""
    return Experiment.model_validate(json.loads((folder / "experiment.yaml").read_text()))


def main(scratch: Path) -> None:
    """Makes records, rebuilds in `scratch` and keeps the pinned files."""
    folder = GOLDEN / RUN
    folder.mkdir(parents=True, exist_ok=True)
    rows = class_token_rows()
    rows[4] = lost(rows[4], "diverged", "loss is not finite at step 131")
    rows[-7] = lost(rows[-7], "failed", "RuntimeError: out of luck")
    slim = [{**row, "result": {**row["result"], "curve": list(row["result"]["curve"])[-2:]}} for row in rows]
    text = class_token_experiment().model_dump(mode="json", exclude_defaults=True)
    (folder / "experiment.yaml").write_text(json.dumps(text, indent=1) + "\n")
    (folder / "records.jsonl").write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in slim))
    rebuild(scratch)
    for name in PINNED:
        (GOLDEN / name).write_bytes((scratch / name).read_bytes())


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as made:
        main(Path(made))
