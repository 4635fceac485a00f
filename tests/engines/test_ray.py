"""`--engine ray` on a stand-in for Ray: dispatch, losses, checks of the nodes, commits of the driver, stops.

`test_ray_cluster.py` has the same on Ray itself.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray_stand_in
from faulted import STAGED, TINY, left, planned, record
from faulted import options as options_for
from made_runs import experiment
from ray_stand_in import AFTER_TRAINING, NodeDiedError, ObjectLostError, OutOfMemoryError, StandIn, WorkerCrashedError

from vitbench.base.errors import IncompleteError, InputError
from vitbench.base.signals import Terminated, stoppable
from vitbench.cli.commands.device import choose_cluster
from vitbench.cli.commands.prepare import data_options, facts_source
from vitbench.cli.commands.run_options import RunOptions
from vitbench.data import DataOptions
from vitbench.engines import dispatch, local, ray_cluster, remote_work, runner
from vitbench.engines.node_scratch import scratch_folder, scratch_name, sweep
from vitbench.engines.ray_options import RayOptions
from vitbench.plan.trials import Builder, Trial
from vitbench.stats.race import CHOOSER
from vitbench.store.events import Event, Progress, Started, Warned
from vitbench.store.trials import Store

TWO_NODES = {"node-a": {"CPU": 1.0}, "node-b": {"CPU": 1.0}}


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    before = signal.getsignal(signal.SIGTERM)
    yield ray_stand_in.install(monkeypatch, tmp_path / "nodes", TWO_NODES)
    signal.signal(signal.SIGTERM, before)


@contextmanager
def cluster_for(root: Path, **how: Any) -> Iterator[ray_cluster.RayCluster]:
    with ray_cluster.ray_cluster(RayOptions(**{"address": "head:6379", **how}), root) as cluster:
        assert cluster is not None
        yield cluster


def dispatched(trials: Sequence[Trial], root: Path, **how: Any) -> tuple[list[str], list[Event]]:
    """(ids in the order of their commits, events) of one round on a cluster."""
    events: list[Event] = []
    with cluster_for(root, **how) as cluster:
        ids = list(dispatch.run(trials, options_for(root, engine="ray"), events.append, cluster))
    return ids, events


def messages(events: Sequence[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Warned)]


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Trial], dict[str, Any]]:
    """Two seeds of two stages, and what they leave on the local engine."""
    trials, root = planned(STAGED, (0, 1)), tmp_path_factory.mktemp("local")
    list(local.run(trials, options_for(root), lambda event: None))
    return trials, left(root, trials)


def test_without_a_shared_folder_every_byte_is_that_of_the_local_engine(
    ray: StandIn, staged: tuple[list[Trial], dict[str, Any]], tmp_path: Path
) -> None:
    """A worker and two nodes are lost, one of them when its record was written."""
    trials, expected = staged
    ray.faults = {0: WorkerCrashedError(), 2: NodeDiedError(), 3: AFTER_TRAINING}
    root = tmp_path / "results"
    ids, events = dispatched(trials, root)
    assert sorted(ids) == sorted(trial.trial_id for trial in trials)
    assert left(root, trials) == expected
    assert {record(root, trial).run.engine for trial in trials} == {"ray"}
    assert all(record(root, trial).run.host for trial in trials)
    assert sum(record(root, trial).run.attempt for trial in trials) == ray.num_trained == len(trials) + 3
    assert ["not count" in line for line in messages(events)].count(True) == 2
    started = [event.trial_id for event in events if isinstance(event, Started)]
    assert started
    assert set(started) <= set(ids)
    assert {event.trial_id for event in events if isinstance(event, Progress)} <= set(ids)
    assert ray.is_shut
    assert not list(ray.folder.rglob("*.safetensors")), "the nodes' folders are swept"
    assert {(given["max_retries"], given["num_cpus"], given["num_gpus"]) for given in ray.options} == {(0, 1, 0.0)}


def test_a_child_starts_from_the_stage_that_travels(
    ray: StandIn, staged: tuple[list[Trial], dict[str, Any]], tmp_path: Path
) -> None:
    """The second command has the stage's weights only in its results root, and the nodes are new."""
    (stage, child, *_), expected = staged
    root = tmp_path / "results"
    dispatched([stage], root)
    ray.folder = tmp_path / "other nodes"
    ids, _ = dispatched([child], root)
    assert ids == [child.trial_id]
    assert left(root, [stage, child]).items() <= expected.items()


def test_a_stage_whose_weights_were_not_kept_is_trained_again_on_the_node(
    ray: StandIn, staged: tuple[list[Trial], dict[str, Any]], tmp_path: Path
) -> None:
    (stage, child, *_), expected = staged
    root = tmp_path / "results"
    dispatched([stage], root)
    Store(root).weights(stage.trial_id).unlink()
    _, events = dispatched([child], root)
    assert any("retraining it" in line for line in messages(events))
    assert left(root, [child]).items() <= expected.items()


def test_nodes_may_commit_in_a_shared_root(
    ray: StandIn, staged: tuple[list[Trial], dict[str, Any]], tmp_path: Path
) -> None:
    trials, expected = staged
    ray.faults = {1: WorkerCrashedError()}
    root = tmp_path / "results"
    root.mkdir()
    ids, _ = dispatched(trials, root, commit="workers")
    assert sorted(ids) == sorted(trial.trial_id for trial in trials)
    assert left(root, trials) == expected
    assert {record(root, trial).run.engine for trial in trials} == {"ray"}


def test_a_node_without_the_shared_root_is_refused(
    ray: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content, name = "x", ".vitbench-doctor.lock"
    (tmp_path / name).write_text(content)
    assert "locks do not work" in str(remote_work.sees_root(tmp_path, name, content)), "nobody holds the lock"
    assert "another folder" in str(remote_work.sees_root(tmp_path, name, "y"))
    assert "cannot use it" in str(remote_work.sees_root(tmp_path / "missing", name, content))
    monkeypatch.setattr("vitbench.store.file_system.fcntl.flock", lambda *_: None)
    with pytest.raises(InputError, match=r"--commit workers: .*locks do not work between node .*omit --commit"):
        dispatched(planned(), tmp_path, commit="workers")
    assert not ray.options


@pytest.mark.parametrize("error", [WorkerCrashedError, OutOfMemoryError])
def test_three_losses_leave_a_trial_missing_and_its_child_too(
    ray: StandIn, error: type[Exception], tmp_path: Path
) -> None:
    """A stage that is left missing must not block its child for ever."""
    ray.faults = dict.fromkeys(range(3), error())
    trials = planned(STAGED)
    ids, events = dispatched(trials, tmp_path)
    assert ids == []
    assert ray.num_trained == 3
    assert [event.given_up for event in events if isinstance(event, Warned)] == [None, None, trials[0].trial_id]
    assert "out of memory" in messages(events)[0]


@pytest.mark.parametrize("error", [NodeDiedError, ObjectLostError])
def test_a_lost_node_does_not_count(ray: StandIn, error: type[Exception], tmp_path: Path) -> None:
    ray.faults = dict.fromkeys(range(dispatch.MAX_NODE_LOSSES - 1), error())
    (trial,) = planned()
    ids, events = dispatched([trial], tmp_path)
    assert ids == [trial.trial_id]
    assert record(tmp_path, trial).run.attempt == dispatch.MAX_NODE_LOSSES
    assert len(messages(events)) == dispatch.MAX_NODE_LOSSES - 1


def test_twenty_lost_nodes_leave_a_trial_missing(ray: StandIn, tmp_path: Path) -> None:
    ray.faults = dict.fromkeys(range(dispatch.MAX_NODE_LOSSES), NodeDiedError())
    ids, events = dispatched(planned(), tmp_path)
    assert ids == []
    assert messages(events)[-1].endswith("20 times; left missing")


def test_memory_that_runs_out_inside_a_task_is_a_loss(
    ray: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VITBENCH_TESTING", "1")
    monkeypatch.setenv("VITBENCH_FAULT", "step.mid:1:memory")
    (trial,) = planned()
    monkeypatch.setattr("vitbench.base.fault_injection._passed", Counter())
    ids, events = dispatched([trial], tmp_path)
    assert ids == [trial.trial_id]
    assert "out of memory (planted), node" in messages(events)[0]


def test_a_lost_stack_comes_back_in_halves(ray: StandIn, tmp_path: Path) -> None:
    """Halves need less memory. A stack whose node was lost comes back whole."""
    ray.faults = {0: NodeDiedError(), **dict.fromkeys(range(1, 20), WorkerCrashedError())}
    stack, events = planned(TINY, (0, 1, 2)), list[Event]()
    with cluster_for(tmp_path) as cluster:
        cluster.open()
        work = dispatch._Dispatch([stack], options_for(tmp_path, engine="ray"), events.append, cluster)
        assert list(work.all_work()) == []
    assert [len(work.trials) for work in ray.works] == [3, 3, 1, 2, 1, 1, 1]
    assert {event.given_up for event in events if isinstance(event, Warned)} - {None} == {t.trial_id for t in stack}


def test_a_resource_that_the_cluster_lacks_ends_the_run(
    ray: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two nodes of one CPU have no room for a task of two."""
    monkeypatch.setattr(ray_cluster, "NODES_SECONDS", 0.01)
    monkeypatch.setattr(ray_cluster, "SHORTAGE_SECONDS", 0.1)
    need = r"has the 2 CPU that a trial needs \(2 nodes, the largest have 1 CPU, 0 GPU\)"
    for address in ("head:6379", "local"):
        with pytest.raises(IncompleteError, match=need):
            dispatched(planned(), tmp_path, address=address, cpus_per_trial=2)
    with pytest.raises(IncompleteError, match=r"has the 1 CPU and 0\.5 GPU that"):
        dispatched(planned(), tmp_path, gpus_per_trial=0.5)
    assert not ray.options, "nothing was submitted"


def test_nodes_that_come_within_the_time_are_used(
    ray: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray_cluster, "NODES_SECONDS", 0.0)
    nodes, calls = ray.nodes, []

    def later() -> list[dict[str, Any]]:
        calls.append(None)
        if len(calls) == 4:
            ray.resources["node-c"] = {"CPU": 2.0}
        return nodes()

    monkeypatch.setattr(ray, "nodes", later)
    ids, _ = dispatched(planned(), tmp_path, cpus_per_trial=2)
    assert len(ids) == 1


def test_every_node_is_compared_before_the_first_trial(ray: StandIn, tmp_path: Path) -> None:
    ray.software["node-b"] = {"torch": "1.0", "vitbench": "0.0.1 (sources 0)"}
    with pytest.raises(InputError, match=r"has torch 1.0 instead of \S+, vitbench 0.0.1 .* on every node"):
        dispatched(planned(), tmp_path)
    assert not ray.options


def test_a_node_that_joins_later_is_compared_too(ray: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its first task trains nothing."""
    monkeypatch.setattr(ray_cluster.RayCluster, "_check_nodes", lambda self: None)
    ray.software["node-a"] = {"python": "3.1"}
    with pytest.raises(InputError, match=r"has python 3.1 instead of 3\."):
        dispatched(planned(), tmp_path)
    assert not list(tmp_path.glob("trials/*/record.json"))


def test_a_node_without_vitbench_is_named(ray: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    error = ray_stand_in.RayError("traceback\nModuleNotFoundError: No module named 'vitbench'")
    monkeypatch.setattr(ray, "_on", lambda node, call: (_ for _ in ()).throw(error))
    with pytest.raises(InputError, match=r"node node-a cannot run vitbench \(.*No module named 'vitbench'\)"):
        dispatched(planned(), tmp_path)


def test_other_images_on_a_node_are_refused_by_its_name(ray: StandIn, tmp_path: Path) -> None:
    (trial,) = planned()
    with pytest.raises(InputError, match=r"on node \S+: fake: the images changed"):
        dispatched([replace(trial, data_fingerprint="0" * 64)], tmp_path)


def test_what_another_command_holds_or_has_finished_is_left_to_it(ray: StandIn, tmp_path: Path) -> None:
    trials = planned(TINY, (0, 1, 2))
    list(local.run(trials[:1], options_for(tmp_path), lambda event: None))
    with Store(tmp_path).lock(trials[1].trial_id) as held:
        assert held
        ids, _ = dispatched(trials, tmp_path)
    assert sorted(ids) == sorted(trial.trial_id for trial in (trials[0], trials[2]))
    assert record(tmp_path, trials[0]).run.engine == "local"


def test_a_stop_saves_cancels_and_frees_the_locks(
    ray: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The signal arrives inside a call of Ray, whose handler of SIGTERM would end the process without a word."""
    trials = planned(TINY, (0, 1, 2))

    def terminate() -> None:
        if ray.options:
            monkeypatch.setattr(ray, "before_wait", lambda: None)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ray, "before_wait", terminate)
    with stoppable(), pytest.raises(Terminated):
        dispatched(trials, tmp_path)
    assert ray.cancelled
    assert not any(ray.cancelled), "asked, not forced: all ended within the grace"
    assert ray.is_shut
    for trial in trials:
        with Store(tmp_path).lock(trial.trial_id) as free:
            assert free
    ids, _ = dispatched(trials, tmp_path)
    assert set(ids) <= {trial.trial_id for trial in trials}
    assert all(Store(tmp_path).read(trial.trial_id) for trial in trials)


def test_tasks_that_do_not_end_within_the_grace_are_forced(
    ray: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dispatch, "GRACE_SECONDS", 0.0)
    with cluster_for(tmp_path) as cluster:
        run = dispatch.run(planned(TINY, (0, 1)), options_for(tmp_path), lambda event: None, cluster)
        next(run)
        run.close()
    assert ray.cancelled == [False, True]


class Stopper:
    """A mailbox that sends this process a signal at the first reading of a trial, as `ray.cancel` does."""

    def __init__(self) -> None:
        self.put = self

    def remote(self, event: Event) -> None:
        if isinstance(event, Progress) and event.step >= 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)


def test_a_cancelled_task_saves_its_step_and_goes_on_from_it(
    staged: tuple[list[Trial], dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(remote_work, "PROGRESS_SECONDS", 0.0)
    (stage, *_), expected = staged
    work = remote_work.RemoteWork((stage,), options_for(tmp_path, 1e9), remote_work.software(), os.getcwd(), "x" * 16)
    before = signal.getsignal(signal.SIGINT)
    answer = remote_work.train(work, Stopper())
    assert answer.was_stopped
    assert not answer.results
    assert signal.getsignal(signal.SIGINT) is before
    again = remote_work.train(work, None)
    (files,) = again.results
    assert json.loads(files.record)["run"]["resumed_at_step"] >= 4
    assert files.files["checkpoints/final.safetensors"] == expected[f"{stage.trial_id}/checkpoints/final.safetensors"]


def test_a_failure_that_no_driver_took_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (trial,) = planned()
    work = remote_work.RemoteWork((trial,), options_for(tmp_path), remote_work.software(), os.getcwd(), "x" * 16)
    (ok,) = remote_work.train(work, None).results
    failed = json.loads(ok.record) | {"status": "failed", "reason": "planted", "result": {}}
    replace(ok, record=json.dumps(failed).encode(), files={}).commit(Store(scratch_folder("x" * 16)))
    (again,) = remote_work.train(work, None).results
    assert json.loads(again.record)["status"] == "ok"


def test_the_scratch_folder_is_private_and_swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    name = scratch_name(tmp_path)
    store = Store(scratch_folder(name))
    assert store.root.parent.stat().st_mode & 0o077 == 0
    for trial_id in ("a" * 16, "b" * 16):
        store.begin_attempt(trial_id)
    with store.lock("a" * 16):
        sweep(name, ())
        assert len(list(store.trials.iterdir())) == 2, "a trial is training"
    sweep(name, {"b" * 16})
    assert [path.name for path in store.trials.iterdir()] == ["b" * 16]
    sweep(name, ())
    assert not store.root.exists()
    sweep(name, ())
    assert not store.root.exists(), "a node that trained nothing keeps nothing either"
    store.root.parent.chmod(0o755)
    with pytest.raises(Exception, match="a private folder of this user is expected"):
        scratch_folder(name)


def test_ray_starts_only_when_told_and_sends_nothing_home(
    ray: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    dispatched(planned(), tmp_path, address="local", num_local_cpus=3)
    (how,) = ray.inits
    assert (how["address"], how["num_cpus"]) == ("local", 3), "an address in the environment is not joined"
    assert ray.settings["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == ray.settings["RAY_USAGE_STATS_ENABLED"] == "0"
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "1")
    with cluster_for(tmp_path, address="auto") as cluster:
        cluster.open()
    assert ray.inits[-1]["address"] == "auto"
    assert "num_cpus" not in ray.inits[-1]
    assert ray.settings["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "1", "the user's own setting holds"
    assert not dispatched([], tmp_path)[0]
    assert len(ray.inits) == 2, "without missing trials nothing is joined"


def test_a_cluster_that_is_not_there_is_one_line(ray: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def init(**how: Any) -> None:
        raise ConnectionError("long text\nCould not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(InputError, match=r"--ray-address auto: no Ray cluster can be joined \(ConnectionError: Could"):
        dispatched(planned(), tmp_path, address="auto")
    with pytest.raises(IncompleteError, match="Ray does not start on this machine"):
        dispatched(planned(), tmp_path, address="local")


def test_a_run_of_several_rounds_uses_one_cluster(ray: StandIn, tmp_path: Path) -> None:
    text = TINY + "tune: {train.lr: [1e-3, 4e-3], seeds: 1}\nseeds: 2\n"
    events: list[Event] = []
    builder = Builder(experiment(text), facts_source(data_options(None, False)))
    with cluster_for(tmp_path, num_jobs=1) as cluster:
        request = runner.RunRequest(options_for(tmp_path, engine="ray"), cluster=cluster)
        outcome = runner.run(builder, request, CHOOSER, events.append)
    assert outcome.plan.complete
    assert not outcome.missing
    assert len(ray.inits) == 1


CHOICES = {
    "ray://head:10001": "Ray Client is not supported",
    "head": "allowed are local, auto or HOST:PORT",
    "head:6379; rm": "allowed are local",
}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        *(({"ray_address": address}, why) for address, why in CHOICES.items()),
        ({"commit": "nobody"}, "allowed are driver, workers"),
        ({"gpus_per_trial": 2.0}, r"allowed are 0 \(CPU\) to 1"),
        ({"gpus_per_trial": 0.0, "device": "cuda"}, "contradicts --device cuda"),
        ({"gpus_per_trial": 0.5, "device": "cpu"}, "contradicts --device cpu"),
        ({"device": "cuda:all"}, "Ray chooses the GPU"),
        ({"engine": "auto", "ray_address": "auto"}, "--ray-address: only --engine ray"),
        ({"engine": "local", "gpus_per_trial": 0.0}, "--gpus-per-trial: only --engine ray"),
        ({"engine": "fused", "commit": "driver"}, "--commit: only --engine ray"),
    ],
)
def test_options_of_ray_are_checked(given: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitbench.engines.ray_options.find_spec", lambda name: object())
    with pytest.raises(InputError, match=why):
        choose_cluster(RunOptions(Path(), DataOptions(), **{"engine": "ray", **given}))


@pytest.mark.parametrize(
    ("given", "device", "cpus"),
    [
        ({}, "cpu", 1),
        ({"device": "cuda"}, "cuda", 1),
        ({"gpus_per_trial": 0.25, "workers": 3}, "cuda", 4),
        ({"gpus_per_trial": 0.0, "threads": 2}, "cpu", 2),
        ({"ray_address": "10.0.0.1:6379"}, "cpu", 1),
    ],
)
def test_what_a_trial_takes(given: dict[str, Any], device: str, cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitbench.engines.ray_options.find_spec", lambda name: object())
    options = choose_cluster(RunOptions(Path(), DataOptions(), engine="ray", **given))
    assert options is not None
    assert (options.device, options.cpus_per_trial, options.commit) == (device, cpus, "driver")
    assert options.num_local_cpus >= cpus


def test_the_missing_extra_is_one_line(cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("vitbench.engines.ray_options.find_spec", lambda name: None)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    answer = cli("run", path, "--results", tmp_path / "r", "--engine", "ray")
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert "the package ray is missing; install vitbench[ray]" in line
    assert importlib.util.find_spec("vitbench.engines.ray_cluster"), "which never imports ray at its top"


def test_the_command_line_runs_on_a_cluster(
    ray: StandIn, cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("vitbench.engines.ray_options.find_spec", lambda name: object())
    path, root = tmp_path / "tiny.yaml", tmp_path / "r"
    path.write_text(TINY)
    answer = cli("run", path, "--results", root, "--engine", "ray", "-j", "2")
    assert answer.code == 0, answer.err
    assert "engine: ray (a cluster started on this machine; 1 CPU per task; this command commits)" in answer.out
    assert {json.loads(p.read_text())["run"]["engine"] for p in root.glob("trials/*/record.json")} == {"ray"}
    assert ray.inits[0]["num_cpus"] == 2
    short = cli("run", path, "--results", tmp_path / "s", "--engine", "ray", "--threads", "2", "-j", "1")
    assert (short.code, "has the 2 CPU that a trial needs" in short.err) == (3, True)
