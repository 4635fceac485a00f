"""Check this machine and a results root: one finding per line. Changes nothing."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from vitbench.base.durable import sync_folder
from vitbench.base.errors import InputError, ResultsError
from vitbench.cli.clean import Use, is_conflict, leftovers
from vitbench.data import DATASETS, DataOptions, Facts, find
from vitbench.engines.options import num_cores
from vitbench.store.record import ALGORITHM_VERSION, Record
from vitbench.store.trials import Store

SLOW_SYNC_SECONDS = 0.05
LITTLE_BYTES, NO_BYTES = 2 * 2**30, 100 * 2**20
PYTHON = ((3, 11), (3, 13))


@dataclass(frozen=True)
class Finding:
    """The result of one check. `advice` says how to repair it; `exit_code` counts if the level is bad."""

    level: Literal["ok", "warn", "bad"]
    topic: str
    message: str
    advice: str = ""
    exit_code: int = 2


def ok(topic: str, message: str) -> Finding:
    """A finding without a problem."""
    return Finding("ok", topic, message)


def warn(topic: str, message: str, advice: str = "") -> Finding:
    """A problem that does not prevent a run."""
    return Finding("warn", topic, message, advice)


def machine(root: Path, options: DataOptions) -> Iterator[Finding]:
    """Check Python, torch, devices, cores, the disk under `root`, and the data sets of this machine."""
    version = platform.python_version()
    if PYTHON[0] <= sys.version_info[:2] <= PYTHON[1]:
        yield ok("python", version)
    else:
        yield warn("python", version, "3.11, 3.12 and 3.13 are tested")
    yield from _torch()
    yield from _cores()
    yield from disk(root)
    yield _data(options)


def _torch() -> Iterator[Finding]:
    """Check that the versions fit together and that torch can use the accelerator."""
    try:
        versions = {name: metadata.version(name) for name in ("torch", "torchvision")}
        import torch
    except (ImportError, OSError) as error:
        yield Finding("bad", "torch", f"cannot be loaded ({error})", "install torch and torchvision")
        return
    message = f"{versions['torch']}, torchvision {versions['torchvision']}"
    needed = pinned_torch(metadata.requires("torchvision") or ())
    if needed and needed != versions["torch"].partition("+")[0]:
        yield Finding("bad", "torch", message, f"this torchvision is built for torch {needed}")
    else:
        yield ok("torch", message)
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield ok("cuda", f"{torch.version.cuda}: {names}")
    elif any(Path("/dev").glob("nvidia[0-9]*")):
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        yield warn(
            "cuda", f"this machine has a GPU, but torch (built {built}) cannot use it", "check the driver: nvidia-smi"
        )
    else:
        yield ok("cuda", "no GPU: trials run on the CPU")


def pinned_torch(requirements: Sequence[str]) -> str | None:
    """The version of torch that torchvision's metadata require, such as `2.9.0`."""
    matches = (re.match(r"torch\s*\(?==\s*([\w.]+)", line) for line in requirements)
    return next((match[1] for match in matches if match), None)


def _cores() -> Iterator[Finding]:
    """Check the usable cores against the limit of the container."""
    usable = num_cores()
    quota = quota_cores(_read(Path("/sys/fs/cgroup/cpu.max")))
    message = f"{usable} usable, one trial and one thread on each"
    if quota is not None and quota < usable:
        yield warn("cores", f"{message}; this container may use {quota:g}", f"run with --jobs {max(1, int(quota))}")
    else:
        yield ok("cores", message)


def quota_cores(text: str) -> float | None:
    """Cores that a control group may use (`max 100000`, `150000 100000`); None means all."""
    words = text.split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and all(word.isdigit() for word in words) else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def disk(root: Path) -> Iterator[Finding]:
    """Check free space, locks, hard links and fsync in the (future) results folder."""
    folder = next(path for path in (root.absolute(), *root.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    level: Literal["ok", "warn", "bad"] = "ok" if free > LITTLE_BYTES else "warn" if free > NO_BYTES else "bad"
    yield Finding(
        level, "disk", f"{free / 2**30:.1f} GiB free at {folder}", "" if level == "ok" else "free some space", 6
    )
    try:
        with tempfile.TemporaryDirectory(prefix=".vitbench-doctor-", dir=folder) as scratch:
            yield from _file_system(Path(scratch))
    except OSError as error:
        yield Finding("bad", "disk", f"{folder} cannot be written ({error.strerror})", "choose --results elsewhere", 5)


def _file_system(folder: Path) -> Iterator[Finding]:
    """One finding each for locks, hard links and fsync."""
    file = folder / "file"
    with file.open("w") as first, file.open("w") as second:
        yield _tried(
            "locks",
            lambda: _exclude(first.fileno(), second.fileno()),
            "two simultaneous runs may train the same trial twice",
        )
        began = time.monotonic()
        first.write("x")
        first.flush()
        os.fsync(first.fileno())
        sync_folder(folder)
        seconds = time.monotonic() - began
    yield _tried("hard links", lambda: os.link(file, folder / "link"), "records are renamed into place instead")
    message = f"{1000 * seconds:.1f} ms per write"
    yield (
        ok("fsync", message) if seconds < SLOW_SYNC_SECONDS else warn("fsync", message, "a local disk would be faster")
    )


def _exclude(first: int, second: int) -> None:
    """Raises OSError if two handles can hold the lock at once."""
    fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    raise OSError("two processes can hold one lock")


def _tried(what: str, action: Callable[[], object], consequence: str) -> Finding:
    try:
        action()
    except OSError as error:
        return warn(what, f"do not work here ({error.strerror or error})", consequence)
    return ok(what, "work")


def _data(options: DataOptions) -> Finding:
    """List the named data sets of this machine, without downloading any."""
    present, missing = [], []
    for name in (name for name in DATASETS if ":" not in name):
        canonical, argument, source = find(name)
        try:
            source.locate(argument, DataOptions(data_dir=options.data_dir, cache_dir=options.cache_dir))
            present.append(canonical)
        except InputError:
            missing.append(canonical)
    return ok("data", f"found: {', '.join(present)}; missing: {', '.join(missing) or 'none'}")


def root_findings(store: Store, use: Use) -> Iterator[Finding]:
    """Find damaged, conflicting, mixed, orphaned or unused trials of a root."""
    records: dict[str, Record] = {}
    for folder in sorted(path for path in store.trials.glob("*") if path.is_dir()):
        try:
            record = store.read(folder.name)
        except ResultsError as error:
            yield Finding("bad", "record", str(error), f"move {folder} aside; the next run repeats the trial", 5)
            continue
        if record is None:
            continue
        records[folder.name] = record
        for attempt in sorted((folder / "attempts").glob("*")):
            if is_conflict(store, folder.name, attempt):
                message = f"{attempt} has another result than the committed record, with the same settings"
                yield Finding(
                    "bad", "conflict", message, "compare `run` in both records: machine or versions differ", 5
                )
    yield ok("records", f"{len(records)} readable in {store.root}")
    yield from _mixed(records)
    for name, why in use.open_runs.items():
        yield warn("run", f"{name}: {why}", "until it is finished, no trial counts as unused")
    yield from _left_over(store, use)


def _mixed(records: Mapping[str, Record]) -> Iterator[Finding]:
    """Find records of several code versions, and names that stand for several sets of images."""
    versions = Counter(record.algorithm_version for record in records.values())
    if set(versions) - {ALGORITHM_VERSION}:
        counts = ", ".join(f"{n} of version {version}" for version, n in sorted(versions.items()))
        yield warn("code", f"{counts}; this is version {ALGORITHM_VERSION}", "tables never mix them")
    prints: dict[str, set[str]] = defaultdict(set)
    for record in records.values():
        prints[str(record.spec.get("data", {}).get("name", "digits"))].add(record.data_fingerprint)
    for name, hashes in sorted(prints.items()):
        if len(hashes) > 1:
            yield warn(
                "data", f"{name}: {len(hashes)} different sets of images have this name", "tables never mix them"
            )


def _left_over(store: Store, use: Use) -> Iterator[Finding]:
    """One finding per kind of leftover."""
    kinds: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for leftover in leftovers(store, use):
        kinds[leftover.why, leftover.safe].append(leftover.num_bytes)
    for (why, safe), sizes in kinds.items():
        message, command = f"{why}: {len(sizes)}, {size_words(sum(sizes))}", "doctor --fix" if safe else "clean --yes"
        yield Finding("warn" if safe else "ok", "leftover", message, f"vitbench {command} removes them")


def size_words(num_bytes: int) -> str:
    """`3 bytes`, `1.5 MiB`."""
    return f"{num_bytes} bytes" if num_bytes < 2**20 else f"{num_bytes / 2**20:.1f} MiB"


def data_finding(run: str, facts: Facts, fingerprint: str) -> Finding | None:
    """A warning if a run's images have changed since its records; else None."""
    if facts.fingerprint == fingerprint:
        return None
    message = f"{run}: the images of {facts.name} have changed since its records"
    return warn("data", message, "`vitbench run` refuses to continue; --as NAME starts a separate run")
