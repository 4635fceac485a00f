"""The options of `--engine ray`, and their check: no import of Ray, so that every refusal comes at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec

from vitbench.base.errors import InputError

RAY_ENGINE = "ray"
COMMITTERS = ("driver", "workers")


@dataclass(frozen=True)
class RayOptions:
    """The cluster, what a trial takes of it, and who commits.

    `address` is `local` (start Ray on this machine), `auto` (join the cluster of this machine) or HOST:PORT.
    """

    address: str = "local"
    gpus_per_trial: float = 0.0
    cpus_per_trial: int = 1
    commit: str = "driver"
    num_jobs: int | None = None
    """Most trials or stacks at the same time; None: as many as the cluster has room for."""
    num_local_cpus: int = 1
    """CPUs of a cluster that starts on this machine."""

    def words(self) -> str:
        """Where trials run and who commits, in one line for people."""
        places = {"local": "started on this machine", "auto": "that this machine belongs to"}
        place = places.get(self.address, f"at {self.address}")
        takes = f"{self.gpus_per_trial:g} GPU" if self.gpus_per_trial else f"{self.cpus_per_trial} CPU"
        commits = "this command commits" if self.driver_commits else "nodes commit in the shared results folder"
        return f"a cluster {place}; {takes} per task; {commits}"

    @property
    def device(self) -> str:
        """The device of a trial. Ray shows each task its own GPU only."""
        return "cuda" if self.gpus_per_trial else "cpu"

    @property
    def driver_commits(self) -> bool:
        """True if nodes return their results and the command commits them; False if they share the results root."""
        return self.commit == "driver"


def check_address(address: str) -> str:
    """Raise InputError for an address that Ray would understand in another way, or not at all."""
    if address.startswith("ray://"):
        raise InputError(
            f"--ray-address {address}: Ray Client is not supported; start vitbench on a node of the cluster with "
            "--ray-address auto"
        )
    if address not in ("local", "auto") and not re.fullmatch(r"[^\s/:]+:\d{1,5}", address):
        raise InputError(f"--ray-address {address}: allowed are local, auto or HOST:PORT")
    return address


def check_commit(commit: str) -> str:
    """Raise InputError for an unknown committer."""
    if commit not in COMMITTERS:
        raise InputError(f"--commit {commit}: allowed are {', '.join(COMMITTERS)}")
    return commit


def gpus_of(gpus_per_trial: float | None, device: str) -> float:
    """GPUs of one trial, from --gpus-per-trial and --device; 0 is a trial on the CPU. Raises InputError."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {device}: --engine ray allows auto, cpu and cuda; Ray chooses the GPU")
    if gpus_per_trial is None:
        return 1.0 if device == "cuda" else 0.0
    if not 0 <= gpus_per_trial <= 1:
        raise InputError(f"--gpus-per-trial {gpus_per_trial:g}: allowed are 0 (CPU) to 1; a trial uses one GPU at most")
    if (gpus_per_trial == 0) == (device == "cuda") and device != "auto":
        raise InputError(f"--gpus-per-trial {gpus_per_trial:g} contradicts --device {device}; omit one of them")
    return gpus_per_trial


def require_ray() -> None:
    """Raise InputError if the package is missing."""
    if find_spec("ray") is None:
        raise InputError("--engine ray: the package ray is missing; install vitbench[ray], or omit --engine ray")


def refuse_without_ray(address: str | None, gpus_per_trial: float | None, commit: str | None) -> None:
    """Raise InputError for an option that only `--engine ray` reads."""
    given = {"--ray-address": address, "--gpus-per-trial": gpus_per_trial, "--commit": commit}
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name}: only --engine ray has this option")
