"""The diffusion transformer with adaLN-Zero against diffusers' DiT, with copied weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_specs import made, resolved

from vitbench.model.diffusion_transformer import DiffusionTransformer
from vitbench.spec.trial import ModelSpec, ObjectiveSpec

MODEL: ModelSpec = resolved(
    {
        "family": "vit", "img_size": 16, "in_chans": 1, "num_classes": 10, "patch_size": 2, "embed_dim": 64,
        "depth": 2, "num_heads": 4, "mlp_ratio": 4.0, "global_pool": "avg", "pos_embed": "sincos_2d",
        "channel_mixer": "mlp(approximate=true)",
    }
)  # fmt: skip


def theirs() -> Any:
    """diffusers' DiT in the published code's form: its own time embedding divides by 127, and its norms differ."""
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=16, in_channels=1, out_channels=1, num_layers=2, sample_size=16,
        patch_size=2, num_embeds_ada_norm=10,
    )  # fmt: skip
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm3.eps = 1e-6
    return model.eval()


def copied(module: DiffusionTransformer) -> dict[str, torch.Tensor]:
    """Our weights under diffusers' names, in which each block has a copy of the embeddings."""
    state, out = module.state_dict(), {}
    for kind in ("weight", "bias"):
        out[f"pos_embed.proj.{kind}"] = state[f"patch_embed.proj.{kind}"]
        out[f"proj_out_1.{kind}"] = state[f"final_layer.modulation.{kind}"]
        out[f"proj_out_2.{kind}"] = state[f"final_layer.linear.{kind}"]
        for layer in range(2):
            block = f"transformer_blocks.{layer}"
            for number in (1, 2):
                embedder = f"{block}.norm1.emb.timestep_embedder.linear_{number}.{kind}"
                out[embedder] = state[f"t_embedder.fc{number}.{kind}"]
            qkv = state[f"blocks.{layer}.attn.qkv.{kind}"].chunk(3)
            out |= {f"{block}.attn1.to_{name}.{kind}": part for name, part in zip("qkv", qkv, strict=True)}
            out[f"{block}.attn1.to_out.0.{kind}"] = state[f"blocks.{layer}.attn.proj.{kind}"]
            out[f"{block}.norm1.linear.{kind}"] = state[f"conditioning.{layer}.modulation.{kind}"]
            out[f"{block}.ff.net.0.proj.{kind}"] = state[f"blocks.{layer}.mlp.fc1.{kind}"]
            out[f"{block}.ff.net.2.{kind}"] = state[f"blocks.{layer}.mlp.fc2.{kind}"]
    for layer in range(2):
        table = f"transformer_blocks.{layer}.norm1.emb.class_embedder.embedding_table.weight"
        out[table] = state["y_embedder.weight"]
    return out


def noisy() -> DiffusionTransformer:
    """Weights far from the first ones, which predict 0 everywhere."""
    module = made(MODEL, ObjectiveSpec(name="diffuse"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    assert isinstance(module, DiffusionTransformer)
    return module.eval()


@torch.no_grad()
def test_noise_is_diffusers_noise() -> None:
    other, ours = theirs(), noisy()
    missing, unexpected = other.load_state_dict(copied(ours), strict=False)
    assert (missing, unexpected) in (([], []), (["pos_embed.pos_embed"], []))
    images = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    timestep, label = torch.tensor([0, 3, 500, 999]), torch.tensor([0, 4, 9, 10])  # 10: no class
    expected = other(images, timestep=timestep, class_labels=label).sample
    predicted = ours(images, timestep, label)
    assert expected.std() > 0.1
    torch.testing.assert_close(predicted, expected, rtol=0, atol=1e-5)
    other.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift = 1
    assert (other(images, timestep=timestep, class_labels=label).sample - predicted).abs().max() > 1e-3
