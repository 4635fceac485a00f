"""The benchmark of a run's memory: what it adds up, and what its table says."""

from __future__ import annotations

import os

import numpy as np
import pytest

from vitbench.bench.run_memory import PARTS, session_mib, table


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux only")
def test_memory_of_a_session_grows_by_what_a_process_takes() -> None:
    before = session_mib(os.getsid(0))
    taken = np.ones(64 * 2**20, dtype=np.uint8)
    after = session_mib(os.getsid(0))
    assert after["own_mib"] - before["own_mib"] > 0.5 * taken.nbytes / 2**20
    assert after["peak_mib"] >= after["own_mib"]
    assert session_mib(-1) == dict.fromkeys(PARTS, 0.0)


def test_the_table_has_medians_and_a_ratio_paired_by_round() -> None:
    costs = [
        {"data": "digits", "build": build, "peak_mib": peak, "own_mib": 1.0, "files_mib": 2.0, "shared_mib": 3.0}
        for build, peaks in (("this", (400.0, 600.0, 500.0)), ("old", (800.0, 1200.0, 1000.0)))
        for peak in peaks
    ]
    text = table({"rounds": 3, "steps": 1, "costs": costs})
    assert "| digits | this | 500 | 1 | 2 | 3 | 1 |" in text
    assert "| digits | old | 1000 | 1 | 2 | 3 | 2.00 [2.00, 2.00] |" in text
