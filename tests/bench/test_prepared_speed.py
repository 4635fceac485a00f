"""The benchmark of prepared images reads every image in both ways, and says whose memory it counts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_prepared import write_kinds
from vitbench.base.errors import VitbenchError
from vitbench.bench import prepared_speed
from vitbench.bench.prepared_speed import DECODED, PREPARED, RESIDENT, Subject, measure, table
from vitbench.data import DataOptions, open_images
from vitbench.train.streamed import Loader


def memory(_subject: Subject, way: str, number: int, _say: object) -> dict[str, float]:
    added = 100.0 * number if way == RESIDENT else 100.0
    return {"processes": number, "imported_mib": 50.0, "read_mib": 50.0 + added, "added_mib": added}


def test_both_ways_read_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, lines = write_kinds(tmp_path / "set", {"train": 40, "test": 3}), list[str]()
    monkeypatch.setattr(prepared_speed, "_memory", memory)
    measured = measure(Subject(name, 16, tmp_path), 3, (1, 2), lines.append)
    assert measured["images"] == 86
    assert measured["image_bytes"] == 16 * 16 * 3
    assert [cost["images"] for cost in measured["preparing"]] == [86, 86]
    rounds = [line for line in lines if line.startswith("round")]
    assert [DECODED in line for line in rounds] == [False, True, True, False, False, True]
    sums = [line.rpartition(" ")[2] for line in rounds]
    assert sums[0::2] == sums[1::2]
    text = table(json.loads(json.dumps(measured)))
    assert f"| {RESIDENT} | 4 | 50 | 450 | 400 |" in text
    assert f"| {PREPARED} | 4 | 50 | 150 | 100 |" in text
    assert "86 images at 16 x 16 px, files of" in text
    assert len([line for line in text.splitlines() if line.startswith(f"| {DECODED} | ")]) == 1


def test_a_way_that_decodes_after_all_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write_kinds(tmp_path / "set", {"train": 4, "test": 3})
    monkeypatch.setattr(prepared_speed, "with_prepared", lambda data, *_: data)
    with pytest.raises(VitbenchError, match="are not used"):
        measure(Subject(name, 16, tmp_path), 2, (1,), lambda line: None)


def test_a_pass_counts_every_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_images(write_kinds(tmp_path / "set", {"train": 40, "test": 3}), DataOptions(cache_dir=tmp_path))
    asked: list[Any] = []
    load = Loader.load
    monkeypatch.setattr(
        Loader, "load", lambda self, requests: load(self, (asked.append(request) or request for request in requests))
    )
    prepared_speed._read(Loader(data, data, 16, 0, prepared_speed.CPU), prepared_speed.np.arange(80)[::-1])
    assert sorted(row for request in asked for row in request.index) == list(range(80))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux says what processes share")
def test_memory_is_that_of_the_process() -> None:
    status = Path("/proc/self/status").read_text().split()
    resident = int(status[status.index("VmRSS:") + 1]) / 1024
    assert 0 < prepared_speed._pss_mib(os.getpid()) <= resident * 1.05
