"""Looking inside changes no logits, reads what is there, refuses the rest in one line, and its numbers reach claims."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Cli
from PIL import Image
from torch import Tensor, nn

from vitbench.base.errors import InputError
from vitbench.data import DataOptions, facts
from vitbench.inspection import attention, catalogue, layerwise, masked, robustness, structure
from vitbench.inspection.export import export
from vitbench.inspection.hooks import attention_seen, tokens_of, watch_attention
from vitbench.inspection.measures import attention_distance
from vitbench.inspection.network import Subject, load_subject, of_timm
from vitbench.inspection.results import Shown
from vitbench.inspection.sample_images import choose_pictures
from vitbench.model.build import build, initialise
from vitbench.plan.resolve import resolve
from vitbench.plan.trial_id import trial_id
from vitbench.spec.trial import DataSpec, ModelSpec, ObjectiveSpec, TrainSpec, TrialSpec
from vitbench.store.record import Record, Result, Run
from vitbench.store.trials import Store
from vitbench.train.checkpoint import pack, weights_sha256

FAKE = DataOptions()
VIT: dict[str, Any] = {"patch_size": 2, "embed_dim": 16, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0}
RESNET: dict[str, Any] = {"family": "resnet", "layers": (1, 1), "width_factor": 0.25}
HYBRID: dict[str, Any] = {**VIT, "family": "hybrid", "layers": (1, 1), "width_factor": 0.25, "patch_size": 1}
ARMS: dict[str, dict[str, Any]] = {
    "learned_1d": VIT,
    "learned_2d, average": {**VIT, "pos_embed": "learned_2d", "global_pool": "avg"},
    "attention pooling, every layer": {**VIT, "global_pool": "map", "pos_placement": "every_layer"},
    "relative_1d": {**VIT, "pos_embed": "relative_1d"},
    "relative_2d": {**VIT, "pos_embed": "relative_2d"},
    "sincos_2d": {**VIT, "pos_embed": "sincos_2d"},
    "rope_2d": {**VIT, "pos_embed": "rope_2d", "embed_dim": 16},
    "none": {**VIT, "pos_embed": "none"},
    "hybrid": HYBRID,
}


def resolved(fields: dict[str, Any], objective: ObjectiveSpec | None = None) -> TrialSpec:
    train = TrainSpec(steps=1, objective=objective or ObjectiveSpec())
    return resolve(TrialSpec(model=ModelSpec(**fields), data=DataSpec(name="fake"), train=train), facts("fake", FAKE))


def commit(root: Path, spec: TrialSpec, seed: int = 0, trial_id: str = "0123456789abcdef", keep: bool = True) -> Record:
    """A trial that ended with noisy weights, no zero among them, so that heads and positions do something."""
    module = build(spec.model, spec.train.objective)
    initialise(module, spec.model, spec.train.objective, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.3)
    store = Store(root)
    record = Record(
        trial_id=trial_id, status="ok", seed=seed, data_fingerprint=facts("fake", FAKE).fingerprint,
        spec=spec.model_dump(mode="json", exclude_defaults=True), run=Run(),
        result=Result(test_top1_percent=50.0, num_test_images=256, weights_sha256=weights_sha256(module.state_dict())),
    )  # fmt: skip
    files = {"checkpoints/final.safetensors": pack(module.state_dict())} if keep else {}
    store.commit(record, store.begin_attempt(trial_id), files)
    return record


def subject_of(root: Path, fields: dict[str, Any], objective: ObjectiveSpec | None = None) -> Subject:
    return load_subject(commit(root, resolved(fields, objective)).trial_id, root, FAKE)


def timm_vit(**arguments: Any) -> nn.Module:
    import timm

    torch.manual_seed(0)
    made: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=4, **arguments
    )
    made.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}  # type: ignore[assignment]
    return made


def unit(subject: Subject, num: int = 5) -> Tensor:
    shape = (num, subject.in_chans, subject.img_size, subject.img_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ARMS)
def test_attention_is_the_models_own_and_logits_stay_bit_equal(name: str, tmp_path: Path) -> None:
    subject = subject_of(tmp_path, ARMS[name])
    images, maps = unit(subject), list[Tensor]()
    with torch.no_grad():
        before = subject.logits(images)
        watch_attention(subject, images, lambda _, found: maps.append(found))
        with attention_seen(subject.blocks(), lambda *_: None):
            during = subject.logits(images)
        assert torch.equal(during, before)
        assert torch.equal(subject.logits(images), before)
        expected = subject.module.attention(subject.standardise(images))  # type: ignore[operator]
    assert torch.equal(torch.stack(maps), expected)
    assert float(torch.stack(maps).std()) > 1e-4


@pytest.mark.parametrize("arguments", [{}, {"qk_norm": True}, {"class_token": False, "global_pool": "avg"}])
@pytest.mark.parametrize("fused", [True, False])
def test_timms_attention_is_what_its_slow_path_multiplies_by(arguments: dict[str, Any], fused: bool) -> None:
    """timm's own slow path hands its attention to a dropout that does nothing: seen there, it is the same."""
    module: Any = timm_vit(**arguments)
    subject = of_timm("timm:tiny", module, None)
    own: list[Tensor] = []
    for block in module.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, args, out: own.append(out))
    images, maps = unit(subject), list[Tensor]()
    with torch.no_grad():
        subject.logits(images)
        for block in module.blocks:
            block.attn.fused_attn = fused
        before = subject.logits(images)
        watch_attention(subject, images, lambda _, found: maps.append(found))
        assert torch.equal(subject.logits(images), before)
    assert len(maps) == 2
    for ours, theirs in zip(maps, own, strict=False):
        torch.testing.assert_close(ours, theirs)


def test_batches_are_bounded_and_change_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(tmp_path, VIT)
    pictures = choose_pictures(subject, None, 10, FAKE)
    whole = attention.distances_px(subject, pictures)
    monkeypatch.setattr(attention, "MAP_BYTES", 3 * 8 * 2 * 17**2)
    assert attention.batch_size(subject) == 3
    assert attention.distances_px(subject, pictures) == pytest.approx(whole, rel=1e-5)
    big = of_timm("timm:b16", timm_vit(), None)
    assert attention.batch_size(big) <= attention.MOST_IMAGES


def test_known_heads_are_recognised_in_a_network(tmp_path: Path) -> None:
    """Queries and keys of one head are the place itself, sharp; those of the other are 0: local, and uniform."""
    subject = subject_of(tmp_path, {**VIT, "global_pool": "avg", "embed_dim": 32, "depth": 1})
    module: Any = subject.module
    with torch.no_grad():
        module.pos_embed.copy_(torch.eye(16, 32)[None] * 100)
        module.patch_embed.proj.weight.zero_()
        module.patch_embed.proj.bias.zero_()
        qkv = module.blocks[0].attn.qkv
        qkv.weight.zero_()
        qkv.bias.zero_()
        qkv.weight[:16, :16] = qkv.weight[32:48, :16] = 10 * torch.eye(16)
    found = attention.distances_px(subject, choose_pictures(subject, None, 4, FAKE))
    assert found[:, 0, 0] == pytest.approx(0.0, abs=1e-3)
    assert found[:, 0, 1] == pytest.approx(attention_distance.uniform_distance(4, 2.0), rel=1e-4)


def test_untrained_twin_is_the_first_weights(tmp_path: Path) -> None:
    spec = resolved(VIT)
    subject = load_subject(commit(tmp_path, spec, seed=7).trial_id, tmp_path, FAKE)
    first = build(spec.model, spec.train.objective)
    initialise(first, spec.model, spec.train.objective, seed=7)
    before = subject.before()
    assert before is not None
    assert weights_sha256(before.module.state_dict()) == weights_sha256(first.state_dict()) != subject.sha256


@pytest.mark.parametrize("name", ["learned_1d", "learned_2d, average", "relative_1d", "relative_2d", "rope_2d"])
def test_every_kind_of_position_has_a_map(name: str, tmp_path: Path) -> None:
    maps = structure.position_map(subject_of(tmp_path, ARMS[name]))
    assert maps.shape == (16, 16)
    assert np.diag(maps) == pytest.approx(1.0)
    assert maps.std() > 0.01


@pytest.mark.slow
def test_all_looks_of_a_vit_a_resnet_and_a_hybrid(tmp_path: Path) -> None:
    wants: dict[str, tuple[dict[str, Any], set[str]]] = {
        "vit": (VIT, {"filters", "positions", "distance", "rollout", "layers", "robustness"}),
        "resnet": (RESNET, {"layers", "robustness"}),
        "hybrid": (HYBRID, {"positions", "distance", "rollout", "layers", "robustness"}),
    }
    for number, (fields, expected) in enumerate(wants.values()):
        record = commit(tmp_path, resolved(fields), trial_id=f"{number:016x}")
        subject = load_subject(record.trial_id, tmp_path, FAKE)
        shown, found = Shown(subject, None, 24, FAKE), set()
        for name, analysis in catalogue.ANALYSES.items():
            if name not in expected:
                with pytest.raises(InputError, match=r"^trial [^\n]+$"):
                    analysis.look(subject, shown)
                continue
            one = analysis.look(subject, shown)
            found.add(name)
            assert all(np.isfinite(value) for value in one.metrics.values()), name
            assert one.metrics
        assert found == expected


@pytest.mark.parametrize("target", ["mean_colour", "downsampled", "pixels"])
def test_reconstructions_of_every_target(target: str, tmp_path: Path) -> None:
    fields = {**VIT, "patch_size": 4}
    objective = ObjectiveSpec.model_validate({"name": "masked_patch", "target": target})
    subject = subject_of(tmp_path, fields, objective)
    found = masked.reconstruction(subject, Shown(subject, None, 12, FAKE))
    image, hidden, filled = (found.arrays[key] for key in ("images", "hidden", "filled"))
    same = (hidden == image).all(axis=1)
    assert 0.4 < same.mean() < 0.6
    assert (filled.swapaxes(1, -1)[same.swapaxes(1, 2)] == image.swapaxes(1, -1)[same.swapaxes(1, 2)]).all()
    with pytest.raises(InputError, match="no classes"):
        robustness.robustness(subject, Shown(subject, None, 12, FAKE))


def test_no_positions_and_pooling_do_not_see_a_shuffle_of_patches(tmp_path: Path) -> None:
    """Cells that are patches: the answers are the same image by image; with positions they are not."""
    for fields, equal in (({**VIT, "pos_embed": "none", "global_pool": "avg"}, True), (VIT, False)):
        root = tmp_path / str(equal)
        subject = subject_of(root, fields)
        pictures = choose_pictures(subject, None, 64, FAKE)
        images, damage = pictures.pixels.float() / 255, robustness.damages(pictures, subject)["shuffle_4"]
        with torch.no_grad():
            near = torch.allclose(subject.logits(damage(images, 0)), subject.logits(images), atol=1e-4)
        assert near is equal


def test_damage_is_the_same_for_every_network(tmp_path: Path) -> None:
    pairs = []
    for number, fields in enumerate((VIT, RESNET)):
        record = commit(tmp_path, resolved(fields), trial_id=f"{number:016x}")
        subject = load_subject(record.trial_id, tmp_path, FAKE)
        pictures = choose_pictures(subject, None, 20, FAKE)
        images = pictures.pixels.float() / 255
        pairs.append({name: damage(images, 0) for name, damage in robustness.damages(pictures, subject).items()})
    for name, first in pairs[0].items():
        assert torch.equal(first, pairs[1][name]), name


def test_tokens_are_the_models_features(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, {**VIT, "final_norm": "none"})
    images = unit(subject)
    found = tokens_of(subject, images)
    assert [tuple(x.shape) for x in found] == [(5, 17, 16)] * 4
    with torch.no_grad():
        assert torch.equal(found[-1], subject.module.forward_features(subject.standardise(images)))  # type: ignore[operator]


def test_few_images_where_layers_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(tmp_path, VIT)
    monkeypatch.setattr(layerwise, "MOST_VALUES", 9 * 4 * 17 * 16)
    found = layerwise.layers(subject, Shown(subject, None, 50, FAKE))
    assert {row["num_images"] for row in found.rows} == {9}


@pytest.fixture
def ones_answer(tmp_path: Path, cli: Cli) -> Callable[..., str]:
    """What `inspect` says where it refuses: one line, exit code 2."""

    def ask(*words: str) -> str:
        answer = cli("inspect", *words, "--results", tmp_path)
        assert answer.code == 2
        assert len(answer.err.strip().splitlines()) == 1
        return answer.err

    return ask


def test_bad_input_is_refused_in_one_line(tmp_path: Path, ones_answer: Callable[..., str]) -> None:
    commit(tmp_path, resolved(VIT), trial_id="aaaa000000000000", keep=False)
    commit(tmp_path, resolved(RESNET), trial_id="bbbb000000000000")
    commit(tmp_path, resolved(VIT), trial_id="cccc000000000000")
    for label in ("a", "b"):
        for part in ("train", "test"):
            folder = tmp_path / "photos" / part / label
            folder.mkdir(parents=True)
            for number in range(2):
                Image.fromarray(np.full((12, 12, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
    assert "weights were not kept" in ones_answer("aaaa")
    assert "no attention" in ones_answer("bbbb", "--what", "distance")
    assert "of 12 x 12 pixels" in ones_answer("cccc", "--images", f"folder:{tmp_path / 'photos'}")
    assert "Did you mean" in ones_answer("cccc", "--what", "distanse")
    assert "at least 1 image" in ones_answer("cccc", "--limit", "0")
    assert "none of the 3 trials" in ones_answer("dddd")
    assert "no config.json" in ones_answer(str(tmp_path / "photos"))
    assert "no such run" in ones_answer("position_encoding")


@pytest.mark.slow
def test_an_exported_folder_is_looked_into(tmp_path: Path, cli: Cli) -> None:
    record = commit(tmp_path, resolved(VIT))
    export(record, Store(tmp_path), tmp_path / "out", FAKE)
    words = ("--results", str(tmp_path), "--images", "fake", "--limit", "20", "--what", "distance,positions")
    assert cli("inspect", tmp_path / "out", *words, "--to", tmp_path / "a").code == 0
    assert cli("inspect", record.trial_id, *words, "--to", tmp_path / "b").code == 0
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert {f"distance.{kind}" for kind in ("svg", "png", "csv", "md")} <= names
    assert (tmp_path / "a/distance.csv").read_text()[:60] == (tmp_path / "b/distance.csv").read_text()[:60]


def run_folder(root: Path, num_seeds: int) -> Path:
    """A run of two arms with a claim on a number that only an analysis gives."""
    folder = root / "inside"
    folder.mkdir()
    arms = {"vit": VIT, "resnet": RESNET}
    rows = []
    for arm, fields in arms.items():
        for seed in range(num_seeds):
            spec = resolved(fields)
            identity = trial_id(spec, seed, facts("fake", FAKE).fingerprint, None)
            record = commit(root, spec, seed=seed, trial_id=identity)
            rows.append({
                "arm": arm, "levels": {"arm": arm}, "setting": {}, "role": "reporting", "chosen": True, "seed": seed,
                "trial_id": record.trial_id, "status": "ok", "data": "fake", "num_classes": 4,
                "data_fingerprint": record.data_fingerprint, "spec": record.spec, "depth": 3, "grid_side": 4,
                "result": record.result.model_dump(mode="json"), "run": record.run.model_dump(mode="json"),
            })  # fmt: skip
    (folder / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arms_of = "[{metric: pos_distance_spearman}, {metric: pos_distance_spearman_untrained}]"
    (folder / "experiment.yaml").write_text(
        "name: inside\nbase: {data: {name: fake}, train: {steps: 1}}\n"
        "arms: {vit: {model.name: Mu/2}, resnet: {model.family: resnet}}\n"
        f"seeds: {num_seeds}\nclaims:\n"
        f"  - {{id: POS-10, form: statistic, arms: {arms_of}, above_points: 0.0}}\n"
    )
    return folder


@pytest.mark.slow
def test_numbers_of_a_run_reach_its_claims_and_records_stay(tmp_path: Path, cli: Cli) -> None:
    folder = run_folder(tmp_path, 5)
    before = (folder / "records.jsonl").read_bytes()
    untested = cli("verdict", "--results", tmp_path)
    assert "untested" in untested.out
    answer = cli("inspect", "inside", "--results", tmp_path, "--limit", "12", "--what", "positions,distance,rollout")
    assert answer.code == 0, answer.err
    said = cli("verdict", "--results", tmp_path).out
    assert "untested" not in said
    assert "n = 5" in said
    assert (folder / "records.jsonl").read_bytes() == before
    assert len((folder / "analysis.jsonl").read_text().splitlines()) == 5
    caption = (folder / "analysis/distance.md").read_text()
    assert "vit 5" in caption
    assert "Left out: resnet, seed 0" in caption
    table = (folder / "analysis/distance.csv").read_text()
    assert "n = 5: 100.00" in table
    assert "rollout.png" in (folder / "assets/SHA256SUMS").read_text()
    assert '"box_area_percent": 25.0' in (folder / "analysis.jsonl").read_text()
    shutil.rmtree(folder / "analysis")
    (folder / "analysis.jsonl").unlink()
    assert "untested" in cli("verdict", "--results", tmp_path).out
