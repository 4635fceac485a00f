"""The committed results: every table is what its records give, and no page shows images that may not be shown."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import matplotlib
import pytest
from conftest import Cli

HERE = Path(__file__).parent.parent
ROOTS = sorted({path.parents[1] for path in (HERE / "results").glob("*/*/records.jsonl")})


@pytest.mark.slow
@pytest.mark.parametrize("root", ROOTS, ids=lambda path: path.name)
def test_committed_tables_are_what_their_records_give(root: Path, cli: Cli) -> None:
    answer = cli("report", "--check", "--results", str(root))
    assert answer.code == 0, answer.out


def committed(root: Path) -> list[Path]:
    """The files of a root that git holds: not trials, PNGs and the largest drawings, which the pages have."""
    left_out = [line for line in (HERE / ".gitignore").read_text().splitlines() if line.startswith("results/*/")]
    assert left_out
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and "trials" not in path.parts)
    return [path for path in files if not any(path.relative_to(HERE).match(pattern) for pattern in left_out)]


def test_the_committed_results_are_small() -> None:
    """As git holds them and a clone fetches them, deflated; and as a checkout of 25 MB in all holds them."""
    files = [path for root in ROOTS for path in committed(root)]
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) < 10 * 2**20
    assert sum(path.stat().st_size for path in files) < 20e6


@pytest.mark.slow
@pytest.mark.skipif(
    f'"matplotlib=={matplotlib.__version__}"' not in (HERE / "pyproject.toml").read_text(),
    reason="another matplotlib than the one that drew the committed plots",
)
@pytest.mark.parametrize("root", ROOTS, ids=lambda path: path.name)
def test_committed_records_give_every_committed_byte(root: Path, tmp_path: Path, cli: Cli) -> None:
    """Tables, plots, pages and the scoreboard, rebuilt from the records in an empty folder."""
    given = ("experiment.yaml", "sealed.json", "records.jsonl", "predictions.npz", "analysis.jsonl")
    for path in committed(root):
        if path.name in given or path.parent.name == "assets":
            copy = tmp_path / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    assert cli("report", "--results", str(tmp_path)).code == 0
    for path in committed(root):
        assert (tmp_path / path.relative_to(root)).read_bytes() == path.read_bytes(), path
