"""The files of a recommendation: Markdown, page, the experiment to go on with, and the exported model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vitbench.base.contained import exists
from vitbench.base.durable import replace_durably
from vitbench.base.errors import VitbenchError
from vitbench.cli.commands.recommend_options import RecommendOptions
from vitbench.cli.commands.recommend_trainings import FINAL
from vitbench.recommend.experiments import RECOMMENDED, recipe_file
from vitbench.recommend.outcome import Outcome, markdown
from vitbench.recommend.recommendation_page import page
from vitbench.spec.yaml import dump
from vitbench.store.record import Record
from vitbench.store.rows import read_records
from vitbench.store.trials import Store

EXPERIMENT = "recommended.yaml"


def write_answer(outcome: Outcome, options: RecommendOptions, with_weights: bool) -> Outcome:
    """Write the answer; `with_weights` also exports the recommended network. Return it with notes on how to go on."""
    root = options.root
    notes = [f"The same command goes on where it stopped: `{options.command}`"] if not outcome.tested else []
    if outcome.recipe is not None:
        frame = outcome.search.allocation.frame
        content = recipe_file("recommended", outcome.recipe, frame)
        replace_durably(root / EXPERIMENT, dump(content).encode())
        notes.append(f"The recipe as an experiment: `vitbench run {root / EXPERIMENT}`")
    if with_weights and outcome.tested:
        notes += _exported(options)
    outcome = replace(outcome, notes=tuple(notes))
    replace_durably(root / "recommendation.md", markdown(outcome).encode())
    replace_durably(root / "recommendation.html", page(outcome).encode())
    return outcome


def _exported(options: RecommendOptions) -> list[str]:
    """Export the recommended network whose validation score is the best; lines that say where, or why not."""
    record = _best_record(options.root)
    if record is None:
        return ["No weights of the recommended model were kept."]
    formats = ("timm", "onnx") if options.onnx else ("timm",)
    return [_export(record, format_, options) for format_ in formats]


def _export(record: Record, format_: str, options: RecommendOptions) -> str:
    from vitbench.inspection.export import export
    from vitbench.inspection.other_formats import export_onnx

    folder, store = options.root / f"model-{format_}", Store(options.root)
    if not folder.exists():
        try:
            if format_ == "timm":
                export(record, store, folder, options.where)
            else:
                export_onnx(record, store, folder, options.where)
        except VitbenchError as error:
            reason = str(error).splitlines()[0]
            return f"No export for {format_}: {reason}. The weights: {store.weights(record.trial_id)}"
    load = f'`timm.create_model("local-dir:{folder}", pretrained=True)`'
    return f"The trained model for {format_}: {load if format_ == 'timm' else folder / 'model.onnx'}"


def _best_record(root: Path) -> Record | None:
    """The record of the recommended network with the best validation score among the fresh seeds."""
    path, store = root / FINAL / "records.jsonl", Store(root)
    rows = read_records(path) if exists(path) else []
    ours = [
        row
        for row in rows
        if row["arm"] == RECOMMENDED and row["status"] == "ok" and store.weights(row["trial_id"]).is_file()
        and row["role"] != "stage"
    ]  # fmt: skip
    if not ours:
        return None
    best = max(ours, key=lambda row: (row["result"].get("val_top1_percent") or 0.0, -row["seed"]))
    return store.read(best["trial_id"])
