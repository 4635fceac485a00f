"""A map for readers of the ViT paper: each of its tables and figures with our experiment, numbers and verdicts.

`python -m vitbench.report.scoreboard.paper_map > docs/PAPER.md` writes the committed page.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitbench.report.scoreboard.ledger import LedgerEntry, ledger
from vitbench.spec.experiment import Experiment
from vitbench.spec.load import load

ROOT = Path(__file__).parents[3]

HEAD = """# The ViT paper, table by table

Each table and figure of Dosovitskiy et al. (2021), with our experiment, the paper's number beside ours, and the
verdict. The page is drawn from [CLAIMS.md](CLAIMS.md) and the scoreboards in `results/`:
`python -m vitbench.report.scoreboard.paper_map > docs/PAPER.md`. Effects are in points of accuracy unless the claim's
experiment says otherwise. Brackets hold the interval that decides; n counts seeds. The paper trains on millions of
images, and we train small models on small ones: a number beside a number is no repetition.
"""


@dataclass(frozen=True)
class Exhibit:
    """A table or figure of the paper: what it shows, and the claims that test it, or the reason why none does."""

    place: str
    shows: str
    claims: tuple[str, ...] = ()
    instead: str = ""


EXHIBITS = (
    Exhibit("Table 1", "Shapes of ViT-B, L, H", (), "`model.name: ViT-B/16`; tests count parameters as timm does"),
    Exhibit("Table 2", "State of the art after JFT-300M", (), "not repeated: these images are not public"),
    Exhibit("Table 3", "Hyperparameters of training", (), "`experiments/paper/` has them at the published sizes"),
    Exhibit("Table 4", "Hyperparameters of fine-tuning", (), "in `experiments/paper/masked_patch.yaml`"),
    Exhibit("Table 5", "Accuracy by pre-training set and model size", ("DATA-04", "ANA-07")),
    Exhibit("Table 6", "ViT, ResNet and hybrid: accuracy and cost", ("COMP-01", "COMP-02", "COMP-04", "SHAPE-04")),
    Exhibit("Table 7", "ResNets pre-trained with Adam or SGD", ("COMP-08",)),
    Exhibit("Table 8", "Position encodings and where they are added", ("POS-01", "POS-02", "POS-03", "POS-04")),
    Exhibit("Table 9", "VTAB, 19 tasks", (), "not repeated: needs the pre-trained models and 19 data sets"),
    Exhibit("Fig. 1", "The architecture", (), "`vitbench/model/vit.py`; tests hold its outputs against timm's"),
    Exhibit("Fig. 2", "VTAB by group of tasks", (), "not repeated, as Table 9"),
    Exhibit("Fig. 3", "Transfer by size of the pre-training set", ("DATA-02", "DATA-05", "DATA-06")),
    Exhibit("Fig. 4", "Few-shot accuracy by number of images", ("DATA-01", "DATA-03")),
    Exhibit("Fig. 5", "Accuracy against compute", ("COMP-01", "COMP-02", "COMP-03")),
    Exhibit("Fig. 6", "Attention on input images", ("ANA-06",)),
    Exhibit("Fig. 7", "Filters, similarity of positions, attention distance", ("ANA-05", "POS-10", "ANA-01")),
    Exhibit("Fig. 8", "Scaling depth, width, MLP and patches", ("SHAPE-01", "SHAPE-02", "SHAPE-03", "SHAPE-05")),
    Exhibit("Fig. 9", "Class token against average pooling", ("CLS-01", "CLS-02", "CLS-03")),
    Exhibit("Fig. 10", "Position similarity by hyperparameters", ("POS-11",)),
    Exhibit("Fig. 11", "Attention distance by head and depth", ("ANA-02", "ANA-03")),
    Exhibit("Fig. 12", "Images per second and largest batch", ("COMP-10",)),
    Exhibit("Fig. 13", "Axial attention", ("COMP-09",)),
    Exhibit("Fig. 14", "Attention maps of many images", ("ANA-06",)),
    Exhibit("s4.6, B.1.2", "Masked patch prediction", ("MPP-01", "MPP-02", "MPP-03", "MPP-04", "MPP-05", "MPP-06")),
)  # fmt: skip

Score = Mapping[str, str]
"""A line of a scoreboard, and `page`: the file in the root that shows the claim."""


def paper_map(scores: Mapping[str, Sequence[Score]]) -> str:
    """The page in Markdown. `scores`: the lines of each root's scoreboard, by the root's name."""
    entries = ledger()
    rows = [row for exhibit in EXHIBITS for row in _rows(exhibit, entries, scores)]
    cells = ("paper", "it shows", "claim", "experiment", "the paper's number", *scores)
    lines = [
        "| " + " | ".join(cells) + " |",
        "|" + "---|" * len(cells),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    links = sorted({name for row in rows for name in re.findall(r"\[([\w/]+)\]", row[3])})
    return "\n".join([HEAD, *lines, "", *(f"[{name}]: ../experiments/{name}.yaml" for name in links), ""])


def read_scores(results: Path) -> dict[str, list[Score]]:
    """The scoreboards of all results roots in a folder, in the order of their names."""
    found: dict[str, list[Score]] = {}
    for path in sorted(results.glob("*/scoreboard.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            found[path.parent.name] = [{**line, "page": _page(path.parent, line)} for line in csv.DictReader(file)]
    return found


def _page(root: Path, line: Score) -> str:
    """The claim on its run's page, or the scoreboard of a root that keeps nothing else."""
    page = f"{line['run']}/index.html"
    return f"{page}#claim-{line['claim']}" if (root / page).is_file() else "scoreboard.md"


def _rows(
    exhibit: Exhibit, entries: Mapping[str, LedgerEntry], scores: Mapping[str, Sequence[Score]]
) -> Iterable[tuple[str, ...]]:
    """A row for each claim; the place and what it shows stand in the first only."""
    if not exhibit.claims:
        yield (exhibit.place, exhibit.shows, exhibit.instead, "", "", *("" for _ in scores))
    for number, claim in enumerate(exhibit.claims):
        place, shows = (exhibit.place, exhibit.shows) if number == 0 else ("", "")
        entry = entries[claim]
        cells = [
            "<br>".join(_verdict(line, root) for line in lines if _belongs(line["claim"], claim)) or "not run"
            for root, lines in scores.items()
        ]
        if not entry.files:
            cells = ["" for _ in cells]
        files = ", ".join(f"[{name}]" for name in entry.files) or entry.place
        yield (place, shows, f"{claim}: {entry.says}", files, _numbers(claim, entry.files), *cells)


def _belongs(name: str, claim: str) -> bool:
    """Whether a line judges the claim or a part of it."""
    return re.fullmatch(rf"{claim}[a-z]?", name) is not None


def _letter(name: str) -> str:
    """`a: ` for part a of a claim."""
    return f"{name[-1]}: " if name[-1].isalpha() else ""


def _numbers(claim: str, files: Sequence[str]) -> str:
    """The paper's effects for a claim and its parts, as its first experiment states them."""
    if not files:
        return ""
    experiment = load(ROOT / f"experiments/{files[0]}.yaml")
    assert isinstance(experiment, Experiment)
    whole = next(each for each in experiment.claims if each.id == claim)
    stated = {each.id: each.paper.effect_points for each in (whole, *whole.part_claims()) if each.paper is not None}
    return "<br>".join(f"{_letter(name)}{effect:+.2f}" for name, effect in stated.items() if effect is not None)


def _verdict(line: Score, root: str) -> str:
    claim = line["claim"]
    page = f"[{line['verdict']}](../results/{root}/{line['page']})"
    if not line["effect"]:
        return f"{_letter(claim)}{page}"
    low, high = float(line["low"]), float(line["high"])
    return f"{_letter(claim)}{float(line['effect']):+.2f} [{low:+.2f}, {high:+.2f}], n = {line['n']}: {page}"


if __name__ == "__main__":
    print(paper_map(read_scores(ROOT / "results")), end="")
