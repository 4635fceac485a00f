"""docs/CLAIMS.md says of every claim where it is decided, and the experiment files agree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vitbench.spec.experiment import Suite
from vitbench.spec.load import load

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
NEEDS = ("file", "analysis", "mechanism", "scale", "outside", "descriptive")
ROW = re.compile(r"\| (?P<id>[A-Z][A-Z0-9-]+-\d+) \| (?P<form>[a-z ]+) \| .+ \| .+ \| (?P<place>.+) \|")
FILE = re.compile(r"\[([\w/]+)\]")


@dataclass(frozen=True)
class Place:
    """A claim's form, the files that declare it, and its parts (or itself) that these call untested."""

    form: str
    files: frozenset[str]
    untested: frozenset[str] = frozenset()


def page() -> str:
    return (ROOT / "docs/CLAIMS.md").read_text()


def rows() -> dict[str, tuple[str, str]]:
    """{claim: (form, the last cell)} in the order of the page; a claim that stands twice is an error."""
    found = [ROW.fullmatch(line) for line in page().splitlines()]
    listed = [(row["id"], (row["form"], row["place"])) for row in found if row]
    assert len(dict(listed)) == len(listed)
    return dict(listed)


def ledger() -> dict[str, Place]:
    """What the page says of the claims that it calls declared."""
    out = {}
    for claim, (form, cell) in rows().items():
        named = re.findall(rf"({claim}[a-z])? ?untested there", cell)
        if files := FILE.findall(cell):
            out[claim] = Place(form, frozenset(files), frozenset(part or claim for part in named))
    return out


def declared() -> dict[str, Place]:
    """What the files declare; a file in a subfolder stands under its namesake above, if that has the claim."""
    out: dict[str, Place] = {}
    for path in sorted(EXPERIMENTS.rglob("*.yaml"), key=lambda path: (len(path.parts), path)):
        experiment = load(path)
        for claim in () if isinstance(experiment, Suite) else experiment.claims:
            before = out.get(claim.id, Place("", frozenset()))
            if path.stem not in before.files:
                name = path.relative_to(EXPERIMENTS).with_suffix("").as_posix()
                untested = {part.id for part in (claim, *claim.part_claims()) if part.untested}
                form = claim.form.replace("_", " ")
                out[claim.id] = Place(form, before.files | {name}, before.untested | untested)
    return out


def disagreements(said: Mapping[str, Place], true: Mapping[str, Place]) -> list[str]:
    """One line for each claim of which the page and the files say different things."""
    return [
        f"{claim}: the page has {said.get(claim)}, the files {true.get(claim)}"
        for claim in sorted({*said, *true})
        if said.get(claim) != true.get(claim)
    ]


def test_every_claim_is_listed_once_and_counted() -> None:
    number = re.search(r"These are all (\d+) claims", page())
    assert number is not None
    assert len(rows()) == int(number[1])


def test_page_and_files_agree_on_what_is_declared() -> None:
    found = disagreements(ledger(), declared())
    assert not found, "\n".join(found)


def test_other_claims_say_what_they_need_and_the_counts_are_right() -> None:
    needs = [cell.split(":")[0] for _, cell in rows().values() if not FILE.search(cell)]
    assert set(needs) <= set(NEEDS)
    counts = Counter(needs)
    counts["nothing"] = len(ledger())
    shown = dict(re.findall(r"^\| (\w+) \| [^|]+ \| (\d+) \|$", page(), re.MULTILINE))
    assert {name: int(number) for name, number in shown.items()} == counts


def test_links_lead_to_files() -> None:
    targets = dict(re.findall(r"^\[([\w/]+)\]: (\S+)$", page(), re.MULTILINE))
    assert set(targets) == {file for place in ledger().values() for file in place.files}
    assert not [target for target in targets.values() if not (ROOT / "docs" / target).is_file()]


def test_a_wrong_ledger_is_caught() -> None:
    shape = Place("statistic", frozenset({"shape"}), frozenset({"SHAPE-05"}))
    for wrong in (
        {},
        {"SHAPE-05": Place("slope", shape.files, shape.untested)},
        {"SHAPE-05": Place(shape.form, frozenset({"shape", "smoke"}), shape.untested)},
        {"SHAPE-05": Place(shape.form, shape.files)},
        {"SHAPE-05": shape, "POS-07": shape},
    ):
        assert len(disagreements(wrong, {"SHAPE-05": shape})) == 1
