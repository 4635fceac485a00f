"""What may be wrong with this machine and with a results root: one finding per line; nothing is changed here."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import stat
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Literal

from vitbench.base.durable import size_words
from vitbench.base.errors import InputError, ResultsError
from vitbench.cli.clean import Use, is_conflict, leftovers
from vitbench.data import DATASETS, DataOptions, Facts, find
from vitbench.data.prepared import FORMAT, PreparedSet, decoder, prepared_sets
from vitbench.engines.options import num_cores
from vitbench.plan.sources import record_contradictions
from vitbench.store import file_system
from vitbench.store.record import ALGORITHM_VERSION, Record
from vitbench.store.trials import Store

SLOW_SYNC_SECONDS = 0.05
LITTLE_BYTES, NO_BYTES = 2 * 2**30, 100 * 2**20
MOST_LISTED = 20
PYTHON = ((3, 11), (3, 13))


@dataclass(frozen=True)
class Finding:
    """One thing that was checked; `advice` says how to repair it; `exit_code` applies to a bad one."""

    level: Literal["ok", "warn", "bad"]
    what: str
    text: str
    advice: str = ""
    exit_code: int = 2


def ok(what: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", what, text)


def warn(what: str, text: str, advice: str = "") -> Finding:
    """Worth knowing; a run works all the same."""
    return Finding("warn", what, text, advice)


def machine(root: Path, options: DataOptions) -> Iterator[Finding]:
    """Python, torch, devices, cores, the disk under `root`, and the data sets on this machine."""
    version = platform.python_version()
    if PYTHON[0] <= sys.version_info[:2] <= PYTHON[1]:
        yield ok("python", version)
    else:
        yield warn("python", version, "3.11, 3.12 and 3.13 are tested")
    yield from _torch()
    yield from _cores()
    yield from disk(root)
    yield _data(options)
    yield from prepared_images(options)


def _torch() -> Iterator[Finding]:
    """Versions of torch and torchvision that fit each other, and the accelerators that torch sees."""
    try:
        versions = {name: metadata.version(name) for name in ("torch", "torchvision")}
        import torch
    except (ImportError, OSError) as error:
        yield Finding("bad", "torch", f"cannot be loaded ({error})", "install torch and torchvision")
        return
    text = f"{versions['torch']}, torchvision {versions['torchvision']}"
    needed = pinned_torch(metadata.requires("torchvision") or ())
    if needed and needed != versions["torch"].partition("+")[0]:
        yield Finding("bad", "torch", text, f"this torchvision is built for torch {needed}")
    else:
        yield ok("torch", text)
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield ok("cuda", f"{torch.version.cuda}: {names}")
    elif any(Path("/dev").glob("nvidia[0-9]*")):
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        yield warn("cuda", f"a GPU is here, but torch (built {built}) cannot use it", "look at the driver: nvidia-smi")
    else:
        yield ok("cuda", "no GPU here: trials run on the CPU")


def pinned_torch(requirements: Sequence[str]) -> str | None:
    """The version of torch that torchvision's metadata require, as `2.9.0`."""
    matches = (re.match(r"torch\s*\(?==\s*([\w.]+)", line) for line in requirements)
    return next((match[1] for match in matches if match), None)


def _cores() -> Iterator[Finding]:
    """Cores that may be used, and whether a container allows fewer."""
    usable = num_cores()
    quota = quota_cores(_read(Path("/sys/fs/cgroup/cpu.max")))
    text = f"{usable} usable, one trial with one thread on each"
    if quota is not None and quota < usable:
        yield warn("cores", f"{text}; this container may use {quota:g}", f"run with --jobs {max(1, int(quota))}")
    else:
        yield ok("cores", text)


def quota_cores(text: str) -> float | None:
    """How many cores a control group may use, from the text of `cpu.max` (`150000 100000`); None: all."""
    words = text.split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and all(word.isdigit() for word in words) else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def disk(root: Path) -> Iterator[Finding]:
    """Free space, and whether locks, links, renames and fsync work where the results are (or would be)."""
    there = next(path for path in (root.absolute(), *root.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    level: Literal["ok", "warn", "bad"] = "ok" if free > LITTLE_BYTES else "warn" if free > NO_BYTES else "bad"
    yield Finding(
        level, "disk", f"{free / 2**30:.1f} GiB free at {there}", "" if level == "ok" else "free some space", 6
    )
    try:
        with file_system.scratch(there) as folder:
            yield from _file_system(folder)
    except OSError as error:
        yield Finding("bad", "disk", f"{there} cannot be written ({error.strerror})", "choose --results elsewhere", 5)
    yield from _other_host(there)


def _file_system(folder: Path) -> Iterator[Finding]:
    """One finding each for locks between two processes, hard links, renames and fsync."""
    yield _tried("locks", file_system.try_locks, folder, "two commands at once may train one trial twice")
    yield _tried("hard links", file_system.try_links, folder, "records are renamed into place instead")
    rename = _tried("rename", file_system.try_rename, folder, "")
    if rename.level == "ok":
        yield rename
    else:
        yield Finding("bad", "rename", rename.text, "no result can be kept here; choose --results elsewhere", 5)
    seconds = file_system.sync_seconds(folder)
    text = f"{1000 * seconds:.1f} ms per write"
    yield ok("fsync", text) if seconds < SLOW_SYNC_SECONDS else warn("fsync", text, "a local disk would be faster")


def _tried(what: str, action: Callable[[Path], None], folder: Path, consequence: str) -> Finding:
    try:
        action(folder)
    except OSError as error:
        return warn(what, f"do not work here ({error.strerror or error})", consequence)
    return ok(what, "work")


def _other_host(root: Path) -> Iterator[Finding]:
    """Whether the lock that `doctor --hold` holds on another host excludes this one."""
    held = file_system.held_elsewhere(root)
    if held is None:
        return
    host, excludes = held
    if excludes:
        yield ok("hosts", f"a lock that {host} holds excludes {socket.gethostname()}")
    else:
        text = f"a lock that {host} holds does not exclude {socket.gethostname()}"
        yield warn("hosts", text, "commands on these two hosts may train one trial twice; give each its own --results")


def _data(options: DataOptions) -> Finding:
    """Which named data sets are on this machine; nothing is downloaded."""
    present, missing = [], []
    for name in (name for name in DATASETS if ":" not in name):
        canonical, argument, source = find(name)
        try:
            source.locate(argument, DataOptions(data_dir=options.data_dir, cache_dir=options.cache_dir))
            present.append(canonical)
        except InputError:
            missing.append(canonical)
    return ok("data", f"present: {', '.join(present)}; not found: {', '.join(missing) or 'none'}")


def prepared_images(options: DataOptions) -> Iterator[Finding]:
    """Sets of prepared images in the cache folder, whole or not."""
    for prepared in prepared_sets(options):
        contents = replace(prepared.contents, decoder=decoder(), format=FORMAT)
        reason = PreparedSet(prepared.folder, contents).why_not()
        text = f"{contents.name}, {contents.words}" if contents.name else prepared.folder.name
        if reason is None:
            yield ok("prepared", f"{text}, {size_words(contents.num_bytes)} in {prepared.folder}")
        else:
            yield warn("prepared", f"{text}: {reason}", f"prepare it again, or remove {prepared.folder}")


def root_findings(store: Store, use: Use) -> Iterator[Finding]:
    """What is damaged, contradictory, in conflict, mixed, orphaned or left over in a results root."""
    strange = list(strange_files(store.root))
    for path, kind in strange[:MOST_LISTED]:
        yield Finding("bad", "link", f"{path}: {kind}", "move it away: nothing in a results folder is followed", 5)
    if len(strange) > MOST_LISTED:
        yield Finding("bad", "link", f"{len(strange) - MOST_LISTED} more links and special files", "", 5)
    records: dict[str, Record] = {}
    for folder in sorted(path for path in store.trials.glob("*") if path.is_dir() and not path.is_symlink()):
        try:
            record = store.read(folder.name)
            problems = list(record_contradictions(record, store)) if record is not None else []
        except ResultsError as error:
            yield Finding("bad", "record", str(error), f"move {folder} away; the trial is run again", 5)
            continue
        if record is None:
            continue
        records[folder.name] = record
        yield from _trial_findings(store, folder, problems)
    yield ok("records", f"{len(records)} whole in {store.root}")
    yield from _mixed(records)
    for name, why in use.open_runs.items():
        yield warn("run", f"{name}: {why}", "until then no trial counts as unused")
    yield from _left_over(store, use)


def _trial_findings(store: Store, folder: Path, problems: Sequence[str]) -> Iterator[Finding]:
    """Contradictions of one committed trial, and attempts with another result."""
    for problem in problems:
        advice = f"restore the file, or move {folder} away; the trial is run again"
        yield Finding("bad", "contradiction", f"{folder / 'record.json'}: the trial {problem}", advice, 5)
    attempts = folder / "attempts"
    for attempt in sorted(attempts.glob("*")) if not attempts.is_symlink() else ():
        if is_conflict(store, folder.name, attempt):
            text = f"{attempt} has another result than the committed record, with the same settings"
            yield Finding("bad", "conflict", text, "compare `run` in the two records: machine or versions differ", 5)


def strange_files(root: Path) -> Iterator[tuple[Path, str]]:
    """Links, pipes, devices, and files with several names, in a results root; a run's folder may be a link.

    A committed record has two names by design: one in its trial, one in its attempt.
    """
    names: dict[tuple[int, int], list[Path]] = defaultdict(list)
    counts: dict[tuple[int, int], int] = {}
    for place, folders, files in os.walk(root):
        for path in (Path(place, name) for name in (*folders, *files)):
            status = path.lstat()
            is_run = path.parent == root and path.name not in ("trials", "events") and path.is_dir()
            if stat.S_ISLNK(status.st_mode) and not is_run:
                yield path, f"a symbolic link to {os.readlink(path)}"
            elif stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                key = status.st_dev, status.st_ino
                names[key].append(path)
                counts[key] = status.st_nlink
            elif not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode) and not is_run:
                yield path, "a pipe, a socket or a device"
    for key, paths in names.items():
        if counts[key] != 2 or {path.name for path in paths} != {"record.json"} or len(paths) != 2:
            yield paths[0], f"a file with {counts[key]} names (hard links)"


def _mixed(records: Mapping[str, Record]) -> Iterator[Finding]:
    """Records from several versions of the code, or from several sets of images under one name."""
    versions = Counter(record.algorithm_version for record in records.values())
    if set(versions) - {ALGORITHM_VERSION}:
        counts = ", ".join(f"{n} of version {version}" for version, n in sorted(versions.items()))
        yield warn("code", f"{counts}; this is version {ALGORITHM_VERSION}", "they are never mixed into one table")
    prints: dict[str, set[str]] = defaultdict(set)
    for record in records.values():
        prints[str(record.spec.get("data", {}).get("name", "digits"))].add(record.data_fingerprint)
    for name, digests in sorted(prints.items()):
        if len(digests) > 1:
            yield warn(
                "data", f"{name}: {len(digests)} different sets of images under this name", "they are never mixed"
            )


def _left_over(store: Store, use: Use) -> Iterator[Finding]:
    """One finding per kind of leftover."""
    kinds: dict[tuple[str, bool], list[int]] = defaultdict(list)
    for leftover in leftovers(store, use):
        kinds[leftover.why, leftover.safe].append(leftover.num_bytes)
    for (why, safe), sizes in kinds.items():
        text, command = f"{why}: {len(sizes)}, {size_words(sum(sizes))}", "doctor --fix" if safe else "clean --yes"
        yield Finding("warn" if safe else "ok", "leftover", text, f"vitbench {command} removes them")


def data_finding(run: str, facts: Facts, fingerprint: str) -> Finding | None:
    """A warning where a run's images are no longer those of its records; else None."""
    if facts.fingerprint == fingerprint:
        return None
    text = f"{run}: {facts.name} now holds other images than those of its records"
    return warn("data", text, "`vitbench run` refuses it; --as NAME starts a separate run")
