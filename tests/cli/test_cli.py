"""The command line as a user meets it: exit codes, one clear line for bad input, and an experiment that learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitbench.base.errors import InputError
from vitbench.cli.commands.device import choose_device, choose_num_jobs

TINY = """
name: tiny
base:
  data: {name: fake, val_fraction: 0.2}
  model: {patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2, mlp_ratio: 2.0}
  train: {steps: 12, batch_size: 16, lr: 4e-3}
factors: {model.global_pool: [token, avg]}
seeds: 2
"""
CHANCE_PERCENT = 25.0


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def image(path: Path, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), len(path.name), np.uint8)).save(path)


def folder(root: Path, kind: str) -> Path:
    """A folder of images with one fault."""
    root.mkdir()
    if kind in ("corrupt", "cut"):
        for split in ("train", "test"):
            for label in "ab":
                for number in range(10):
                    image(root / split / label / f"{number}.png")
        bad = root / "train" / "b" / "3.png"
        bad.write_bytes(b"no image at all" if kind == "corrupt" else bad.read_bytes()[:40])
    if kind == "loose":
        image(root / "one.png")
    return root


def file(directory: Path, text: str) -> str:
    path = directory / f"tiny{len(list(directory.glob('tiny*.yaml')))}.yaml"
    path.write_text(text)
    return str(path)


def words(what: str, directory: Path) -> list[str]:
    """A command line that cannot hold."""
    good = file(directory, TINY)
    match what:
        case "unknown key":
            return [file(directory, TINY.replace("seeds: 2", "sedes: 2"))]
        case "misspelt level":
            return [file(directory, TINY.replace("[token, avg]", "[token, averge]"))]
        case "lr: fast":
            return [file(directory, TINY.replace("lr: 4e-3", "lr: fast"))]
        case "empty folder" | "loose images" | "corrupt image" | "cut image":
            kind = what.split()[0]
            return [good, "--data", f"folder:{folder(directory / 'images', kind)}", "--set", "data.img_size=8"]
        case "hybrid without a map":
            return [file(directory, TINY.replace("patch_size: 4,", "name: R26x1+Mu/32,"))]
        case "no labels":
            import pyarrow
            from pyarrow import parquet

            table = pyarrow.table({"image": [{"bytes": b"x", "path": "x"}]})
            parquet.write_table(table, directory / "train-0.parquet")
            return [good, "--data", f"parquet:{directory}"]
        case _:
            return [good, *what.split()]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("unknown key", "unknown key. Did you mean 'seeds'?"),
        ("misspelt level", "'averge' is not allowed; allowed: avg, map, token. Did you mean 'avg'?"),
        ("lr: fast", "base.train.lr: needs a number, not 'fast'"),
        ("--set model.patch_size=5", "model.patch_size: 5 does not divide images of 8 px; 1, 2, 4, 8 do"),
        ("--set train.lr=fast", "needs a number, not 'fast'"),
        ("--set model.global_pol=avg", "Did you mean 'model.global_pool'"),
        ("--set model.global_pool=avg", "is a factor of tiny"),
        ("empty folder", "no images"),
        ("loose images", "in no class folder, so without labels"),
        ("corrupt image", "3.png"),
        ("cut image", "3.png"),
        ("no labels", "no label column (label or labels)"),
        ("--data digitz", "Did you mean 'digits'"),
        ("--device cuda", "torch sees no CUDA device here; try --device cpu"),
        ("--device gpu", "allowed are auto, cpu, cuda, cuda:N, cuda:N,M, cuda:all, mps"),
        ("--set data.train_fraction=0.001", "data.train_fraction: 0.001 of the"),
        ("--set train.train_flops=1e6", "needs at least 50"),
        ("hybrid without a map", "the feature map is empty: images of 8 px"),
        ("--seeds many", "needs a number of seeds (5), a range (0-4) or a list (0,3,7)"),
        ("--keep some", "allowed are all, final, none"),
        ("--jobs 0", "at least 1"),
        ("--as ../up", "letters, digits"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(what: str, said: str, cli: Any, tmp_path: Path) -> None:
    """Exit code 2, nothing but the line, and nothing created."""
    if what == "--device cuda":
        import torch

        if torch.cuda.is_available():
            pytest.skip("a CUDA device is here")
    before = words(what, tmp_path)
    answer = cli("run", *before, "--results", tmp_path / "results")
    assert answer.code == 2
    assert said in answer.err
    assert len(set(answer.err.splitlines())) <= 2, "a line for each of the two arms at most"
    assert all(line.startswith("error: ") for line in answer.err.splitlines())
    assert "Traceback" not in answer.out + answer.err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("command", ["run", "plan", "show"])
def test_an_experiment_that_does_not_exist(command: str, cli: Any) -> None:
    answer = cli(command, "smoky")
    assert answer.code == 2
    assert answer.err.startswith("error: no experiment 'smoky'")
    assert "Did you mean 'smoke'?" in answer.err


@pytest.mark.parametrize("bad", [["run"], ["run", "smoke", "--limit", "0"], ["run", "smoke", "--nope"], ["rum"]])
def test_usage_errors_are_exit_code_2(bad: list[str], cli: Any) -> None:
    assert cli(*bad).code == 2


def test_every_bad_cell_is_named_before_the_first_trial(cli: Any, tmp_path: Path) -> None:
    text = TINY.replace("{model.global_pool: [token, avg]}", "{model.patch_size: [2, 3, 4, 5]}")
    answer = cli("run", file(tmp_path, text.replace("patch_size: 4, ", "")), "--results", tmp_path / "results")
    assert answer.code == 2
    assert [line.split(":")[1] for line in answer.err.splitlines()] == [" tiny, arm 3", " tiny, arm 5"]
    assert not (tmp_path / "results").exists()


def test_results_that_cannot_be_written_are_exit_code_5(cli: Any, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    answer = cli("run", tiny, "--results", tmp_path / "results", "-j", 1)
    assert answer.code == 5
    assert "cannot write" in answer.err


def test_a_full_disk_is_exit_code_6(cli: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.link", full)
    answer = cli("run", tiny, "--results", tmp_path / "results", "-j", 1)
    assert answer.code == 6
    assert "no space left" in answer.err
    monkeypatch.undo()
    assert cli("run", tiny, "--results", tmp_path / "results", "-j", 1).code == 0


@pytest.mark.slow
def test_a_limit_is_exit_code_3_and_the_same_command_goes_on(cli: Any, tiny: Path, tmp_path: Path) -> None:
    common = ["run", tiny, "--results", tmp_path / "results", "-j", 1]
    first = cli(*common, "--limit", 1)
    assert first.code == 3
    assert "3 trials missing; run the same command again to resume" in first.out
    status = json.loads(cli("status", "--results", tmp_path / "results", "--json").out)
    assert [(s["done"], s["missing"], s["complete"]) for s in status] == [(1, 3, False)]
    assert cli("report", "--results", tmp_path / "results").code == 0, "an incomplete folder is reported all the same"
    assert cli(*common).code == 0
    done = json.loads(cli(*common, "--json").out)
    assert done["exit_code"] == 0
    assert done["runs"][0]["missing"] == 0


def test_a_lost_reporting_trial_is_exit_code_1_every_time(cli: Any, tmp_path: Path) -> None:
    text = TINY.replace("factors: {model.global_pool: [token, avg]}", "factors: {train.lr: [4e-3, 1e30]}")
    wild = file(tmp_path, text.replace("batch_size: 16", "batch_size: 16, clip_grad: null"))
    for _ in range(2):
        answer = cli("run", wild, "--results", tmp_path / "results", "-j", 1)
        assert answer.code == 1
    rows = [json.loads(line) for line in (tmp_path / "results" / "tiny" / "records.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["ok", "ok", "diverged", "diverged"]
    assert "diverged" in answer.out


def test_an_arm_without_an_eligible_setting_is_exit_code_1(cli: Any, tmp_path: Path) -> None:
    text = TINY.replace("factors: {model.global_pool: [token, avg]}", "tune: {train.lr: [1e29, 1e30], seeds: 1}")
    wild = file(tmp_path, text.replace("batch_size: 16", "batch_size: 16, clip_grad: null"))
    answer = cli("run", wild, "--results", tmp_path / "results", "-j", 1)
    assert answer.code == 1
    assert "no eligible setting: baseline" in answer.out


def test_a_dry_run_and_a_plan_train_nothing_and_create_nothing(cli: Any, tiny: Path, tmp_path: Path) -> None:
    for command in (["run", tiny, "--dry-run"], ["plan", tiny], ["show", tiny]):
        assert cli(*command, *([] if command[0] == "show" else ["--results", tmp_path / "results"])).code == 0
        assert not (tmp_path / "results").exists()
    (plan,) = json.loads(cli("plan", tiny, "--results", tmp_path / "results", "--json").out)
    assert (plan["trials_now"], plan["done"], plan["reporting_seeds"]) == (4, 0, [0, 1])
    assert [arm["arm"] for arm in plan["arms"]] == ["token", "avg"]


def test_plan_lists_every_difference_of_two_arms(cli: Any, tiny: Path) -> None:
    answer = cli("plan", tiny, "--diff", "token", "avg")
    assert answer.code == 0
    assert all(word in answer.out for word in ("model.global_pool", "cls_token", "pos_embed", "parameters"))


@pytest.mark.slow
def test_runs_are_named_after_their_overrides(cli: Any, tiny: Path, tmp_path: Path) -> None:
    root = ["--results", tmp_path / "results", "-j", 1, "--quiet", "--limit", 1]
    for extra in ([], ["--set", "train.lr=1e-3"], ["--data", "fake_colour"], ["--as", "mine"]):
        assert cli("run", tiny, *root, *extra).code == 3
    names = sorted(path.name for path in (tmp_path / "results").iterdir() if path.name != "trials")
    assert names[:3] == ["mine", "tiny", "tiny-fake_colour"] or names[0] == "mine"
    assert len(names) == 4
    assert sum(name.startswith("tiny-") and len(name) == len("tiny-") + 6 for name in names) == 1


def test_list_names_every_experiment(cli: Any) -> None:
    found = {item["name"]: item for item in json.loads(cli("list", "--json").out)}
    assert found["smoke"]["kind"] == "experiment"
    assert all(item["question"] for item in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", [path.stem for path in sorted(Path("experiments").glob("*.yaml"))])
def test_every_shipped_experiment_can_be_planned(name: str, cli: Any, tmp_path: Path) -> None:
    answer = cli("plan", name, "--results", tmp_path / "results", "--json")
    assert answer.code == 0, answer.err
    assert all(arm["params"] > 0 for run in json.loads(answer.out) for arm in run["arms"])


def reported(root: Path) -> list[float]:
    """Test accuracies of the reporting trials of the root's one run."""
    (path,) = root.glob("*/records.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [row["result"]["test_top1_percent"] for row in rows if row["role"] == "reporting"]


@pytest.mark.slow
def test_smoke_learns_and_an_untrained_model_does_not(cli: Any, smoke_root: Path, tmp_path: Path) -> None:
    """15 points above chance; the same arms after one step at a rate of nearly 0 fail this."""
    untrained = ["--set", "transfer.train.steps=1", "--set", "transfer.train.lr=1e-12", "-j", 1, "--quiet"]
    answer = cli("run", "smoke", *untrained, "--results", tmp_path / "results")
    assert answer.code == 0, answer.err
    lows, highs = (reported(root) for root in (tmp_path / "results", smoke_root))
    assert len(lows) == len(highs) == 16
    assert min(highs) > CHANCE_PERCENT + 15 > max(lows)


@pytest.mark.slow
def test_status_and_report_of_a_finished_run(cli: Any, smoke_root: Path) -> None:
    (status,) = json.loads(cli("status", "--results", smoke_root, "--json").out)
    assert (status["done"], status["missing"], status["complete"]) == (18, 0, True)
    answer = cli("report", "smoke", "--results", smoke_root)
    assert answer.code == 0
    assert {"table.csv", "table.md", "table.tex", "index.html"} <= {
        path.name for path in (smoke_root / "smoke").iterdir()
    }
    assert cli("report", "nothing", "--results", smoke_root).code == 2


@pytest.mark.parametrize(
    ("asked", "device"), [("cpu", "cpu"), ("cuda:x", None), ("tpu", None), ("mps:1", None), ("", None)]
)
def test_devices(asked: str, device: str | None) -> None:
    if device is not None:
        assert choose_device(asked) == device
        return
    with pytest.raises(InputError, match="allowed are auto, cpu, cuda, cuda:N, cuda:N,M, cuda:all, mps"):
        choose_device(asked)


def test_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitbench.cli.commands.device.num_cores", lambda: 8)
    assert choose_num_jobs(None, "cpu", 1) == 8
    assert choose_num_jobs(None, "cpu", 3) == 2
    assert choose_num_jobs(None, "cuda", 1) == 1
    assert choose_num_jobs(5, "cuda", 1) == 5


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_rows_keeps_its_seal(cli: Any, tiny: Path, tmp_path: Path) -> None:
    """Rows are written between rounds; a new seal would say that every trial was there before the claims."""
    root = tmp_path / "results"
    assert cli("run", tiny, "--results", root).code == 0
    (seal,) = root.glob("*/sealed.json")
    before = seal.read_bytes()
    (seal.parent / "records.jsonl").unlink()
    assert cli("run", tiny, "--results", root).code == 0
    assert seal.read_bytes() == before
