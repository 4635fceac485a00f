"""A Ray cluster as the dispatcher sees it: room for tasks, work handed out, answers, losses. Ray is imported late."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitbench.base.errors import IncompleteError, InputError, VitbenchError
from vitbench.base.signals import Terminated, held, keeping_handlers
from vitbench.engines import remote_work
from vitbench.engines.node_scratch import TrialFiles, scratch_name, sweep
from vitbench.engines.ray_options import RayOptions
from vitbench.store.events import Event
from vitbench.store.file_system import HELD, holding

CHECK_SECONDS = 300.0
"""Time for every node to say which software it has; a node's first process loads the package."""
SWEEP_SECONDS = 20.0
SHORTAGE_SECONDS = 45.0
"""How long no node may have what a trial needs."""
NODES_SECONDS = 1.0
"""How long a list of the nodes is used before it is read again."""
SETTINGS = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # Under `uv run` Ray would send the current folder to every node.
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class TaskLoss:
    """A task that ended without an answer; a loss that is not the trial's does not count against it."""

    what: str
    counts: bool


class RayCluster:
    """A cluster that is joined, or started on this machine, at the first `open`.

    A stop that a signal requests is held back in every call of Ray, because an exception from a signal handler does
    not survive inside it.
    """

    def __init__(self, options: RayOptions, root: Path) -> None:
        self.options, self.root = options, root
        self.left_missing: set[str] = set()
        """Trials whose checkpoints stay on their nodes when the run ends."""
        self._ray: Any = None
        self._mailbox: Any = None
        self._taking: Any = None
        self._short_since: float | None = None
        self._nodes: tuple[float, list[dict[str, Any]]] = (0.0, [])

    def open(self) -> None:
        """Connect, wait for room, and compare every node with this process. Raises InputError, IncompleteError."""
        if self._ray is not None:
            return
        with keeping_handlers(), held():  # Ray sets a handler of its own for SIGTERM.
            self._ray = _connected(self.options)
        while not self.room():
            time.sleep(NODES_SECONDS)
        self._check_nodes()
        here = self._on_node(self._ray.get_runtime_context().get_node_id(), soft=True)
        mailbox = self._ray.remote(remote_work.Mailbox)
        self._mailbox = mailbox.options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._ray is not None:
            with keeping_handlers(), held():
                self._ray.shutdown()
            self._ray = None

    def room(self) -> int:
        """How many tasks fit on the nodes when nothing else runs there; 0 while nodes may still come.

        Raises IncompleteError if no node has had what a trial needs for some time: Ray itself would wait for ever.
        """
        num_tasks = sum(self._fitting(node["Resources"]) for node in self._living())
        if num_tasks:
            self._short_since = None
            return num_tasks
        now = time.monotonic()
        self._short_since = now if self._short_since is None else self._short_since
        if self.options.address == "local" or now - self._short_since > SHORTAGE_SECONDS:
            raise IncompleteError(self._shortage())
        return 0

    def _shortage(self) -> str:
        """What a trial needs that no node has."""
        gpus = f" and {self.options.gpus_per_trial:g} GPU" if self.options.gpus_per_trial else ""
        nodes = [node["Resources"] for node in self._living()]
        largest = ", ".join(f"{max((node.get(kind, 0) for node in nodes), default=0):g} {kind}" for kind in _KINDS)
        return (
            f"no node of the Ray cluster has the {self.options.cpus_per_trial} CPU{gpus} that a trial needs "
            f"({len(nodes)} nodes, the largest have {largest}); finished trials are kept"
        )

    @held()
    def keep(self, files: TrialFiles) -> Any:
        """Put a stage into the cluster's object store; tasks get it once per node."""
        return self._ray.put(files)

    @held()
    def submit(self, work: remote_work.RemoteWork, stages: Sequence[Any]) -> Any:
        """Hand out work; return its task. Ray itself never retries it."""
        remote = self._ray.remote(remote_work.train).options(
            num_cpus=self.options.cpus_per_trial,
            num_gpus=self.options.gpus_per_trial,
            max_retries=0,
            retry_exceptions=False,
            scheduling_strategy="SPREAD",
        )
        return remote.remote(work, self._mailbox, *stages)

    @held()
    def wait(self, tasks: Sequence[Any], seconds: float) -> list[Any]:
        """The tasks that have ended, after at most some seconds."""
        ready, _ = self._ray.wait(list(tasks), num_returns=1, timeout=seconds)
        return list(ready)

    @held()
    def answer(self, task: Any) -> remote_work.NodeAnswer | TaskLoss:
        """What an ended task returned, or how it was lost."""
        errors = self._ray.exceptions
        try:
            answer: remote_work.NodeAnswer = self._ray.get(task)
        except errors.TaskCancelledError as error:
            return TaskLoss(_words("cancelled", error), counts=False)
        except (errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError) as error:
            return TaskLoss(_words("node lost", error), counts=False)
        except errors.OutOfMemoryError as error:
            return TaskLoss(_words("out of memory", error), counts=True)
        except errors.WorkerCrashedError as error:
            return TaskLoss(_words("worker lost, out of memory?", error), counts=True)
        except errors.RayError as error:
            return TaskLoss(f"task failed ({_last_line(error)})", counts=True)
        return answer

    @held()
    def events(self) -> list[Event]:
        """Events that arrived since the last call; never waits."""
        events: list[Event] = []
        with suppress(self._ray.exceptions.RayError):  # Only the display needs them.
            if self._taking is not None and self._ray.wait([self._taking], timeout=0)[0]:
                taken, self._taking = self._taking, None
                events = self._ray.get(taken)
            if self._taking is None:
                self._taking = self._mailbox.take.remote()
        return events

    @held()
    def cancel(self, tasks: Sequence[Any], force: bool) -> None:
        """Ask tasks to save their step and end, or end them at once."""
        for task in tasks:
            with suppress(self._ray.exceptions.RayError, ValueError):
                self._ray.cancel(task, force=force)

    def require_shared_root(self) -> None:
        """Raise InputError if a node does not see the results root, or if locks do not work between the nodes."""
        try:
            with holding(self.root, CHECK_SECONDS):
                content = (self.root / HELD).read_text()
                answers = self._everywhere(remote_work.sees_root, self.root, HELD, content)
        except BlockingIOError as error:
            raise IncompleteError(f"{self.root}: another command tests this folder now; try again") from error
        for reason in filter(None, answers):
            raise InputError(f"--commit workers: {self.root}: {reason}; omit --commit, and the driver commits")

    def sweep(self) -> None:
        """Remove the scratch folders of a finished run from all nodes, as far as they answer."""
        if self._ray is not None and self.options.driver_commits:
            with suppress(VitbenchError):
                name = scratch_name(self.root)
                self._everywhere(sweep, name, frozenset(self.left_missing), seconds=SWEEP_SECONDS)

    def _check_nodes(self) -> None:
        for host, theirs in self._everywhere(remote_work.node_facts):
            remote_work.refuse_other_software(host, theirs, remote_work.software())
        if not self.options.driver_commits:
            self.require_shared_root()

    def _everywhere(self, function: Any, *arguments: Any, seconds: float = CHECK_SECONDS) -> list[Any]:
        """What a function returns on each living node. Raises InputError, IncompleteError; a node may die meanwhile."""
        errors, nodes = self._ray.exceptions, self._living()
        remote = self._ray.remote(function)
        tasks = [
            remote.options(num_cpus=0, max_retries=0, scheduling_strategy=self._on_node(n["NodeID"])).remote(*arguments)
            for n in nodes
        ]
        answers = []
        until = time.monotonic() + seconds
        for node, task in zip(nodes, tasks, strict=True):
            while not self.wait([task], 1.0):
                if time.monotonic() > until:
                    raise IncompleteError(f"node {_name(node)} of the Ray cluster does not answer; try again")
            try:
                answers.append(self._value(task))
            except errors.NodeDiedError:
                continue
            except errors.RayError as error:
                raise InputError(f"node {_name(node)} cannot run vitbench ({_last_line(error)})") from error
        return answers

    @held()
    def _value(self, task: Any) -> Any:
        return self._ray.get(task)

    def _on_node(self, node_id: str, soft: bool = False) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node_id, soft=soft)

    @held()
    def _living(self) -> list[dict[str, Any]]:
        read_at, nodes = self._nodes
        if not nodes or time.monotonic() - read_at > NODES_SECONDS:
            nodes = [node for node in self._ray.nodes() if node["Alive"]]
            self._nodes = time.monotonic(), nodes
        return nodes

    def _fitting(self, resources: dict[str, float]) -> int:
        """Tasks that fit on one node: a task never spans two."""
        needs = {"CPU": self.options.cpus_per_trial, "GPU": self.options.gpus_per_trial}
        return min(int(resources.get(kind, 0.0) / need + 1e-9) for kind, need in needs.items() if need)


_KINDS = ("CPU", "GPU")


@contextmanager
def ray_cluster(options: RayOptions | None, root: Path) -> Iterator[RayCluster | None]:
    """The cluster of one command, opened at its first trial; None without `--engine ray`."""
    if options is None:
        yield None
        return
    cluster = RayCluster(options, root)
    try:
        yield cluster
        cluster.sweep()
    finally:
        cluster.close()


def _connected(options: RayOptions) -> Any:
    """The module ray, connected. Raises InputError, IncompleteError."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise InputError(f"--engine ray: the package ray cannot be imported ({error})") from error
    how: dict[str, Any] = {"address": options.address, "log_to_driver": False, "logging_level": logging.ERROR}
    if options.address == "local":
        how |= {"num_cpus": options.num_local_cpus, "include_dashboard": False}
    try:
        ray.init(**how)
    except SystemExit as error:  # Ray's handler of SIGTERM
        raise Terminated() from error
    except Exception as error:  # Ray raises many kinds, RuntimeError and ConnectionError among them.
        if options.address == "local":
            raise IncompleteError(f"Ray does not start on this machine ({_last_line(error)}); try again") from error
        raise InputError(
            f"--ray-address {options.address}: no Ray cluster can be joined ({_last_line(error)}); "
            "--ray-address local starts one on this machine"
        ) from error
    return ray


def _name(node: dict[str, Any]) -> str:
    return str(node.get("NodeManagerHostname") or node["NodeID"])


def _words(what: str, error: Exception) -> str:
    return f"{what} ({type(error).__name__})"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:300]}" if lines else type(error).__name__
