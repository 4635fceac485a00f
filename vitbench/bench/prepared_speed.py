"""Reading prepared images against decoding them on the fly: time of a pass, memory of several processes, preparing.

The ways to read alternate within each round, in one process and in one order of images; a reader's memory is its share
of what it maps (PSS), summed over processes that have read every image.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from vitbench.base.errors import InputError, VitbenchError
from vitbench.bench.suite import ratios
from vitbench.data import DataOptions, ImageData, open_images, with_prepared
from vitbench.data.preparation import Preparation
from vitbench.spec import trial
from vitbench.train.augment import Augment
from vitbench.train.streamed import ImageRequest, Loader

Say = Callable[[str], None]
CPU = torch.device("cpu")
BATCH = 64
DECODED, PREPARED = "decoded on the fly", "prepared"
RESIDENT = "decoded into memory"
PLAIN, AUGMENTED = "centre crops", "crops of random sizes"
"""What is read: images of one size, or what augmented training cuts from whole images above 64 px."""
READERS = (1, 4)
READER = """
import sys
from pathlib import Path
import numpy as np
import torch
from vitbench.data import DataOptions
from vitbench.spec.trial import DataSpec
from vitbench.train.resident import load_images
def barrier(word):
    print(word, flush=True)
    sys.stdin.readline()
barrier("imported")
name, size, cache = sys.argv[1:]
data = DataSpec(name=name, img_size=int(size))
source = load_images(data, DataOptions(cache_dir=Path(cache)), torch.device("cpu"))
for part, labels in (("train", source.train_labels), ("test", source.test_labels)):
    for images in source.read(part, np.arange(len(labels))[None], 64):
        pass
barrier("read")
"""
"""A process that reads every image as a trial process does, and waits so that all can be measured at once."""


@dataclass(frozen=True)
class BenchedImages:
    """The images of the benchmark, and the folder that holds the caches with and without prepared images."""

    name: str
    img_size: int
    work: Path

    def options(self, way: str) -> DataOptions:
        """A cache of its own for each way, so that a way cannot use the images of another."""
        return DataOptions(cache_dir=self.work / way.replace(" ", "-"))


def measure(subject: BenchedImages, rounds: int, jobs: Sequence[int], say: Say) -> dict[str, Any]:
    """All measurements as plain data. Raises InputError where the kernel does not say what processes share."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise InputError("bench prepare: needs Linux, which says how much memory each process shares")
    load = os.getloadavg()[0]
    data = open_images(subject.name, subject.options(PREPARED))
    preparing = [_preparing(subject, data, size, number, say) for size in (None, subject.img_size) for number in jobs]
    passes = _passes(subject, data, rounds, say)
    memory = {way: [_memory(subject, way, number, say) for number in READERS] for way in (RESIDENT, PREPARED)}
    return {
        "data": subject.name,
        "img_size": subject.img_size,
        "images": data.facts.num_train + data.facts.num_test,
        "file_bytes": _file_bytes(data),
        "rounds": rounds,
        "load_at_the_start": load,
        "load_at_the_end": os.getloadavg()[0],
        "preparing": preparing,
        "passes": passes,
        "memory": memory,
    }


def _file_bytes(data: ImageData) -> float | None:
    """Bytes of a training image's file on average; None for images that are no files."""
    encoded = data.train.encoded
    if encoded is None:
        return None
    return float(np.mean([len(encoded.store.load(int(row))) for row in encoded.rows[:500]]))


def _preparing(subject: BenchedImages, data: ImageData, size: int | None, number: int, say: Say) -> dict[str, Any]:
    """Prepare the images with a number of processes; the last set of a size stays."""
    preparation = Preparation.of(data, size, subject.options(PREPARED), number)
    for path in preparation.prepared.files().values():
        path.unlink()
    began, children = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    num_images = sum(done.place.count for done in preparation.run())
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    processor = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    contents = preparation.prepared.contents
    say(f"prepared {contents.form} by {number} processes: {wall:.1f} s, {processor:.1f} CPU s")
    times = {"seconds": wall, "cpu_seconds": processor, "image_bytes": contents.image_bytes}
    return {"form": contents.form, "jobs": number, "images": num_images, **times}


def _passes(subject: BenchedImages, data: ImageData, rounds: int, say: Say) -> list[dict[str, Any]]:
    """Wall-clock and processor seconds of every pass over the training images."""
    options = subject.options(PREPARED)
    sized, whole = (with_prepared(data, size, options) for size in (subject.img_size, None))
    if sized is data or whole is data:
        raise VitbenchError(f"{subject.name}: the images that were just prepared are not used")
    loaders = {
        DECODED: Loader(data, data, subject.img_size, 0, CPU),
        PREPARED: Loader(whole, sized, subject.img_size, 0, CPU),
    }
    passes = []
    for number in range(rounds):
        index = np.random.default_rng(number).permutation(len(data.train))
        for use in (PLAIN, AUGMENTED):
            for way in list(loaders) if number % 2 else list(reversed(loaders)):
                began = time.monotonic(), time.process_time()
                checksum = _read(loaders[way], index, use == AUGMENTED)
                times = {"seconds": time.monotonic() - began[0], "cpu_seconds": time.process_time() - began[1]}
                passes.append({"round": number, "use": use, "way": way, "checksum": checksum, **times})
                say(f"round {number + 1}, {use}, {way}: {times['seconds']:.2f} s, {times['cpu_seconds']:.2f} CPU s")
    return passes


def _read(loader: Loader, index: np.ndarray, augmented: bool) -> int:
    """Read the images as batches of uint8 pixels; return the sum of some values, which is the same for every way."""
    size = trial.sides(loader.img_size)
    augment = Augment("light", True, 0.0, resized=True, size=size) if augmented else None
    draws = np.random.default_rng(len(index)).random((len(index), 5)) if augmented else None
    requests = (
        ImageRequest("train", index[rows], None if draws is None else draws[rows])
        for rows in np.split(np.arange(len(index)), range(BATCH, len(index), BATCH))
    )
    return sum(int(images[..., 0, 0].sum()) for images in loader.load(requests, augment))


def _memory(subject: BenchedImages, way: str, number: int, say: Say) -> dict[str, float]:
    """MiB of so many processes together before and after each has read every image."""
    cache = subject.options(way).cache_dir
    words = [sys.executable, "-c", READER, subject.name, str(subject.img_size), str(cache)]
    children = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(number)
    ]
    sums = {}
    try:
        for stage in ("imported", "read"):
            for child in children:
                assert child.stdout is not None
                if child.stdout.readline().strip() != stage:
                    raise VitbenchError(f"bench prepare: a reading process ended with {child.wait()}")
            sums[f"{stage}_mib"] = sum(_pss_mib(child.pid) for child in children)
            for child in children:
                assert child.stdin is not None
                child.stdin.write("\n")
                child.stdin.flush()
    finally:
        for child in children:
            child.communicate()
    added = sums["read_mib"] - sums["imported_mib"]
    say(f"{way}, {number} processes: {sums['read_mib']:.0f} MiB, {added:.0f} added by reading")
    return {"processes": number, **sums, "added_mib": added}


def _pss_mib(pid: int) -> float:
    """Memory of a process; a page that n processes share counts as 1/n."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise VitbenchError(f"process {pid}: smaps_rollup has no Pss")


def table(measured: dict[str, Any]) -> str:
    """The result as Markdown."""
    size, count = measured["img_size"], measured["images"]
    files = f", files of {measured['file_bytes'] / 1024:.0f} KiB on average" if measured["file_bytes"] else ""
    lines = [
        "# Prepared images against decoding on the fly",
        "",
        f"{count:,} images at {size} x {size} px{files}; {measured['rounds']} rounds, the ways alternate; load average "
        f"{measured['load_at_the_start']:.1f} at the start, {measured['load_at_the_end']:.1f} at the end. "
        "Ratios have 95% intervals, paired by round. `vitbench bench prepare` writes this page.",
        "",
        "| pass over the training images | read | seconds, median | CPU s, median | times as long | CPU time, times |",
        "|---|---|---|---|---|---|",
    ]
    for use in (PLAIN, AUGMENTED):
        seconds, processor = (_by_way(measured, use, key) for key in ("seconds", "cpu_seconds"))
        wall_ratios, cpu_ratios = ratios(seconds, PREPARED), ratios(processor, PREPARED)
        for way in (PREPARED, DECODED):
            medians = f"{median(seconds[way]):.2f} | {median(processor[way]):.2f}"
            lines.append(
                f"| {use} | {way} | {medians} | {_times(wall_ratios.get(way))} | {_times(cpu_ratios.get(way))} |"
            )
    lines += ["", "| memory of reading processes (PSS, MiB) | processes | before | after | added by the images |"]
    lines += ["|---|---|---|---|---|"]
    for way, sums in measured["memory"].items():
        for each in sums:
            figures = f"{each['imported_mib']:,.0f} | {each['read_mib']:,.0f} | {each['added_mib']:,.0f}"
            lines.append(f"| {way} | {each['processes']} | {figures} |")
    lines += ["", "| preparing images | processes | bytes per image | seconds | CPU s | images/s | images per CPU s |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for cost in measured["preparing"]:
        rates = f"{cost['images'] / cost['seconds']:.0f} | {cost['images'] / cost['cpu_seconds']:.0f}"
        times = f"{cost['image_bytes']:,} | {cost['seconds']:.1f} | {cost['cpu_seconds']:.1f}"
        lines.append(f"| {cost['form']} | {cost['jobs']} | {times} | {rates} |")
    return "\n".join(lines) + "\n"


def _by_way(measured: dict[str, Any], use: str, key: str) -> dict[str, list[float]]:
    """A figure of every pass of one use, by way, in the order of the rounds."""
    passes = [each for each in measured["passes"] if each["use"] == use]
    return {way: [each[key] for each in passes if each["way"] == way] for way in (PREPARED, DECODED)}


def _times(ratio: dict[str, float] | None) -> str:
    return "1" if ratio is None else f"{ratio['ratio']:.1f} [{ratio['low']:.1f}, {ratio['high']:.1f}]"
