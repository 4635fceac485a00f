"""The trial that is broken in these tests, and a root in which it ran unbroken (read it only)."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulted import here, options, planned

from vitbench.plan import Trial


@pytest.fixture(scope="session")
def trial() -> Trial:
    return planned()[0]


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory, trial: Trial) -> Path:
    root = tmp_path_factory.mktemp("unbroken")
    here([trial], options(root, every=float("inf")))
    return root
