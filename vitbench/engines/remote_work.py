"""What runs on a node of a cluster: one stack or trial, and the checks of the node. Torch is loaded late."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import platform
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from vitbench.base.errors import InputError, VitbenchError
from vitbench.base.signals import Stopped, obeying_scheduler
from vitbench.engines.node_scratch import TrialFiles, collected, install, scratch_folder
from vitbench.engines.options import Options
from vitbench.plan.trials import Trial
from vitbench.spec.mechanism import load_code
from vitbench.store.events import Event, Progress, Warned
from vitbench.store.trials import Store

PROGRESS_SECONDS = 0.5
"""Least time between two readings of a trial that are sent to the driver."""
ZOMBIE_SECONDS = 60.0
"""How long a trial waits for an earlier attempt on the same node whose driver is gone."""


@dataclass(frozen=True)
class RemoteWork:
    """One stack or trial for a node.

    `software` are the driver's versions, which the node must have too, and `folder` is the driver's, for relative
    paths. `scratch` names the node's folder if the driver commits; None: the node commits in `options.root`.
    """

    trials: tuple[Trial, ...]
    options: Options
    software: Mapping[str, str]
    folder: str
    scratch: str | None = None


@dataclass(frozen=True)
class NodeAnswer:
    """What a task returns: errors and losses travel as values, so that Ray retries and reports nothing itself."""

    host: str
    done: tuple[str, ...] = ()
    results: tuple[TrialFiles, ...] = ()
    warnings: tuple[Warned, ...] = ()
    error: VitbenchError | None = None
    loss: str | None = None
    was_stopped: bool = False


class Mailbox:
    """Events on their way to the driver, for display only: a lost one changes no result."""

    def __init__(self, most: int = 10_000) -> None:
        self.events: deque[Event] = deque(maxlen=most)

    def put(self, event: Event) -> None:
        self.events.append(event)

    def take(self) -> list[Event]:
        """All events since the last call."""
        taken = list(self.events)
        self.events.clear()
        return taken


@functools.cache
def software() -> dict[str, str]:
    """Versions that decide the bits of a result; of vitbench also the hash of its sources."""
    versions = {"python": platform.python_version()}
    for name in ("torch", "vitbench"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "(not installed)"
    package, digest = Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    versions["vitbench"] += f" (sources {digest.hexdigest()[:12]})"
    return versions


def node_facts() -> tuple[str, dict[str, str]]:
    """The host and its versions."""
    return socket.gethostname(), software()


def refuse_other_software(host: str, theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
    """Raise InputError if a node has other versions than the driver: equal bits are promised within equal ones only."""
    different = [
        f"{name} {theirs.get(name, 'missing')} instead of {ours[name]}"
        for name in ours
        if theirs.get(name) != ours[name]
    ]
    if different:
        raise InputError(f"node {host} has {', '.join(different)}; install the same versions on every node")


def train(work: RemoteWork, mailbox: Any, *stages: TrialFiles) -> NodeAnswer:
    """Train a stack or trial on this node. `stages`: the committed stages that it needs, if the driver commits."""
    host, report = socket.gethostname(), _Report(mailbox)
    answer, store = NodeAnswer(host), Store(work.options.root)
    try:
        with obeying_scheduler():
            refuse_other_software(host, software(), work.software)
            with suppress(OSError):  # A node without this folder needs no relative path, or says which file is missing.
                os.chdir(work.folder)
            if work.scratch is not None:
                store = Store(scratch_folder(work.scratch))
                for stage in stages:
                    install(stage, store)
                for trial in work.trials:
                    store.set_aside(trial.trial_id)  # A failure that no driver took says nothing about this attempt.
            load_code(work.options.code)
            answer = _executed(work, store, report, answer)
    except Stopped:
        answer = replace(answer, was_stopped=True)
    except VitbenchError as error:
        answer = replace(answer, error=type(error)(f"on node {host}: {error}"))
    results = () if work.scratch is None else tuple(collected(store, work.trials))
    return replace(answer, results=results, warnings=tuple(report.warnings))


@dataclass
class _Report:
    """Sends Started and Progress to the mailbox and keeps warnings for the answer."""

    mailbox: Any
    warnings: list[Warned] = field(default_factory=list)
    sent: dict[str, float] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.warnings.append(event)
            return
        if isinstance(event, Progress):
            now = time.monotonic()
            if now - self.sent.get(event.trial_id, -PROGRESS_SECONDS) < PROGRESS_SECONDS:
                return
            self.sent[event.trial_id] = now
        with suppress(Exception):  # Ray's; the mailbox may be gone, and only the display needs it
            self.mailbox.put.remote(event)

    def gave_up(self) -> set[str]:
        """Trials that were left missing."""
        return {warning.given_up for warning in self.warnings if warning.given_up}


def _executed(work: RemoteWork, store: Store, report: _Report, answer: NodeAnswer) -> NodeAnswer:
    """Train what has no record; running out of memory is a loss."""
    from vitbench.engines.execute import OUT_OF_MEMORY, free_memory

    options, ids = replace(work.options, root=store.root), [trial.trial_id for trial in work.trials]
    until = time.monotonic() + ZOMBIE_SECONDS
    try:
        while True:
            done = list(_pass(work.trials, options, report))
            missing = [i for i in ids if i not in report.gave_up() and store.read(i) is None]
            if work.scratch is None or not missing:
                return replace(answer, done=tuple(done))
            if time.monotonic() > until:
                return replace(answer, loss="an earlier attempt still runs on this node")
            time.sleep(1.0)
    except OUT_OF_MEMORY as error:
        why = str(error)
    free_memory()  # Not inside `except`: there the traceback still refers to the tensors.
    return replace(answer, loss=f"out of memory ({why})")


def _pass(trials: Sequence[Trial], options: Options, emit: Callable[[Event], None]) -> Iterator[str]:
    """Train the trials that no other process of this root holds; yield the ids of those that have a record."""
    from vitbench.engines import stacked
    from vitbench.engines.execute import execute_locked

    if len(trials) > 1:
        yield from stacked.run(trials, options, emit)
    elif execute_locked(trials[0], options, emit):
        yield trials[0].trial_id


def sees_root(root: Path, name: str, content: str) -> str | None:
    """Why this node cannot commit in the driver's results root; None if it can.

    `name` is a file in the root that the driver wrote `content` to and holds a lock on.
    """
    path, host = root / name, socket.gethostname()
    try:
        if path.read_text() != content:
            return f"node {host} sees another folder under this path"
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                excluded = True
            else:
                excluded = False
        own = root / f"{name}-{os.getpid()}"
        own.write_text(content)
        own.unlink()
    except OSError as error:
        return f"node {host} cannot use it ({error.strerror or error})"
    return None if excluded else f"locks do not work between node {host} and this host"
