"""The benchmark of prepared images reads every image in both ways, and says whose memory it counts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.test_prepared import write_kinds
from vitbench.base.errors import VitbenchError
from vitbench.bench import prepared_speed
from vitbench.bench.prepared_speed import AUGMENTED, DECODED, PLAIN, PREPARED, RESIDENT, BenchedImages, measure, table
from vitbench.data import DataOptions, open_images
from vitbench.train.streamed import Loader


def memory(_subject: BenchedImages, way: str, number: int, _say: object) -> dict[str, float]:
    added = 100.0 * number if way == RESIDENT else 100.0
    return {"processes": number, "imported_mib": 50.0, "read_mib": 50.0 + added, "added_mib": added}


def test_both_ways_read_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, lines = write_kinds(tmp_path / "set", {"train": 40, "test": 3}), list[str]()
    monkeypatch.setattr(prepared_speed, "_memory", memory)
    measured = measure(BenchedImages(name, 16, tmp_path), 3, (1, 2), lines.append)
    assert measured["images"] == 86
    costs = [(cost["form"], cost["jobs"], cost["images"]) for cost in measured["preparing"]]
    forms = ("in their original sizes", "of 16 x 16 px")
    assert costs == [(form, jobs, 86) for form in forms for jobs in (1, 2)]
    assert measured["preparing"][-1]["image_bytes"] == 16 * 16 * 3
    ways = [(each["use"], each["way"]) for each in measured["passes"]]
    assert ways[:4] == [(use, way) for use in (PLAIN, AUGMENTED) for way in (PREPARED, DECODED)]
    assert ways[4:8] == [(use, way) for use in (PLAIN, AUGMENTED) for way in (DECODED, PREPARED)]
    sums = [each["checksum"] for each in measured["passes"]]
    assert sums[0::2] == sums[1::2]
    assert len(set(sums)) == 4  # One of all centre crops, and one of each round's random crops.
    text = table(json.loads(json.dumps(measured)))
    assert f"| {RESIDENT} | 4 | 50 | 450 | 400 |" in text
    assert f"| {PREPARED} | 4 | 50 | 150 | 100 |" in text
    assert "86 images at 16 x 16 px, files of" in text
    assert text.count(f"| {AUGMENTED} | {DECODED} | ") == 1


def test_a_way_that_decodes_after_all_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write_kinds(tmp_path / "set", {"train": 4, "test": 3})
    monkeypatch.setattr(prepared_speed, "with_prepared", lambda data, *_: data)
    with pytest.raises(VitbenchError, match="are not used"):
        measure(BenchedImages(name, 16, tmp_path), 2, (1,), lambda line: None)


def test_a_pass_counts_every_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_images(write_kinds(tmp_path / "set", {"train": 40, "test": 3}), DataOptions(cache_dir=tmp_path))
    asked: list[Any] = []
    load = Loader.load
    monkeypatch.setattr(
        Loader, "load", lambda self, requests, _: load(self, (asked.append(item) or item for item in requests))
    )
    prepared_speed._read(Loader(data, data, 16, 0, prepared_speed.CPU), np.arange(80)[::-1], augmented=False)
    assert sorted(row for request in asked for row in request.index) == list(range(80))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux says what processes share")
def test_memory_is_that_of_the_process() -> None:
    status = Path("/proc/self/status").read_text().split()
    resident = int(status[status.index("VmRSS:") + 1]) / 1024
    assert 0 < prepared_speed._pss_mib(os.getpid()) <= resident * 1.05
