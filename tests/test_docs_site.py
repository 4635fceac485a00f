"""The documentation site builds without a warning, and a broken link is a warning."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

for module in ("sphinx", "myst_parser", "furo"):
    pytest.importorskip(module, reason="the documentation's generator is not installed (extra `docs`)")

ROOT = Path(__file__).parent.parent


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    words = ["-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(root / "docs"), str(site)]
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, cwd=ROOT)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert all(f'id="vitbench.{name}"' in api for name in ("load_records", "stats.judge_all", "stats.paired_interval"))
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert not [page for page in pages if f'href="{page}.html"' not in home.replace('href="#"', 'href="index.html"')]


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "docs" / "conf.py", tmp_path / "docs")
    (tmp_path / "docs" / "index.md").write_text("# A page\n\n[nothing](NOTHING.md)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert "NOTHING" in done.stderr
