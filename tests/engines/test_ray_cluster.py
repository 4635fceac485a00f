"""`--engine ray` on Ray itself: two nodes on this machine, whose workers, node and driver are killed.

Skipped where Ray is not installed or does not start; `test_ray.py` has the same logic on a stand-in.
"""

from __future__ import annotations

import importlib.util
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitbench.store.trials import Store

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 120
PATIENCE_SECONDS = 900
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (vitbench[ray])"),
]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "RAY_worker_niceness": "0",  # Ray's 15 would leave its workers nothing of a busy machine.
}


class Nodes:
    """The process that holds the two nodes."""

    def __init__(self, log: Path) -> None:
        words = [sys.executable, str(ROOT / "tests" / "fixtures" / "ray_nodes.py")]
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True, env=ENVIRONMENT,
            start_new_session=True,
        )  # fmt: skip
        self.address = self.line(START_SECONDS)

    def line(self, seconds: float) -> str:
        """The next line that it prints; empty if it does not come."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline().strip() if ready else ""

    def tell(self, command: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.line(START_SECONDS)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    log = tmp_path_factory.mktemp("ray") / "log"
    cluster = Nodes(log)
    try:
        if not cluster.address:
            pytest.skip(f"Ray did not start within {START_SECONDS} s: {log.read_text().splitlines()[-1:]}")
        yield cluster
    finally:
        cluster.end()


def start(root: Path, nodes: Nodes, *options: str) -> subprocess.Popen[str]:
    """`vitbench run smoke --engine ray` on the two nodes."""
    words = [sys.executable, str(ROOT / "cli.py"), "run", "smoke", "--engine", "ray", "--ray-address", nodes.address]
    words += ["--results", str(root), "--checkpoint-seconds", "0.5", *options]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)


def num_records(root: Path) -> int:
    return len(list(root.glob("trials/*/record.json")))


def wait_for_records(root: Path, number: int, command: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while num_records(root) < number:
        assert time.monotonic() < end, "waited in vain"
        assert command.poll() is None, command.communicate()[0]
        time.sleep(0.1)


def assert_equal_to_local(root: Path, local: Path) -> None:
    """18 records; results, answers and weights byte for byte."""
    ids = sorted(path.name for path in (local / "trials").iterdir())
    assert sorted(path.parent.name for path in root.glob("trials/*/record.json")) == ids
    assert len(ids) == 18
    for trial_id in ids:
        record, expected = Store(root).read(trial_id), Store(local).read(trial_id)
        assert record is not None
        assert expected is not None
        assert (record.status, record.result) == (expected.status, expected.result)
        assert (record.run.engine, bool(record.run.host)) == ("ray", True)
    for pattern in ("trials/*/predictions.npz", "trials/*/checkpoints/final.safetensors"):
        files = [path.relative_to(local) for path in sorted(local.glob(pattern))]
        assert files == [path.relative_to(root) for path in sorted(root.glob(pattern))]
        assert all((root / name).read_bytes() == (local / name).read_bytes() for name in files)


@pytest.mark.parametrize("commit", ["driver", "workers"])
def test_two_workers_and_a_node_are_killed(nodes: Nodes, commit: str, smoke_root: Path, tmp_path: Path) -> None:
    command = start(tmp_path, nodes, "--commit", commit)
    for number, kill in ((3, "worker"), (6, "node"), (9, "worker")):
        wait_for_records(tmp_path, number, command)
        assert nodes.tell(kill).startswith("killed")
    out, _ = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 0, out
    assert out.count("trying again") >= 2
    assert_equal_to_local(tmp_path, smoke_root)
    assert nodes.tell("add") == "added node"


def test_a_stopped_and_a_killed_driver_go_on_with_the_same_command(
    nodes: Nodes, smoke_root: Path, tmp_path: Path
) -> None:
    command = start(tmp_path, nodes)
    wait_for_records(tmp_path, 2, command)
    command.send_signal(signal.SIGTERM)
    out, _ = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 143, out
    command = start(tmp_path, nodes)
    wait_for_records(tmp_path, 7, command)
    command.kill()
    command.communicate(timeout=PATIENCE_SECONDS)
    assert 7 <= num_records(tmp_path) < 18
    command = start(tmp_path, nodes)
    out, _ = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 0, out
    assert_equal_to_local(tmp_path, smoke_root)


def test_a_resource_that_no_node_has_ends_the_run(nodes: Nodes, tmp_path: Path) -> None:
    command = start(tmp_path, nodes, "--threads", "2")
    out, _ = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 3, out
    assert "no node of the Ray cluster has the 2 CPU that a trial needs" in out
    assert num_records(tmp_path) == 0


ENVIRONMENT_OF_A_TASK = """
import sys
from pathlib import Path
from vitbench.engines.ray_cluster import ray_cluster
from vitbench.engines.ray_options import RayOptions

with ray_cluster(RayOptions(address=sys.argv[1]), Path.cwd()) as cluster:
    cluster.open()
    import ray
    print(sorted(ray.get_runtime_context().runtime_env))
"""


@pytest.mark.skipif(shutil.which("uv") is None, reason="there is no uv")
@pytest.mark.parametrize("hook", ["0", "1"])
def test_uv_run_sends_no_folder(nodes: Nodes, hook: str, tmp_path: Path) -> None:
    """With Ray's hook, the control, it would send the folder that the command runs in."""
    (tmp_path / "script.py").write_text(ENVIRONMENT_OF_A_TASK)
    environment = {**ENVIRONMENT, **({"RAY_ENABLE_UV_RUN_RUNTIME_ENV": hook} if hook == "1" else {})}
    words = ["uv", "run", "--no-project", "--python", sys.executable, "script.py", nodes.address]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    if hook == "1":
        assert "'working_dir'" in done.stdout, done.stdout + done.stderr
    else:
        assert done.stdout.splitlines()[-1:] == ["[]"], done.stdout + done.stderr
