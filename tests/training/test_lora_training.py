"""A LoRA is trained by peft on two sounds, under the monitor, which stops it as it copies."""

from __future__ import annotations

import math

import pytest
import torch
from support.memorizing import latents, verifier
from support.pipelines import CAPTIONS, make_pipe

from anechoic.diffusers.latents import decode
from anechoic.training import FromPipeline, Monitor, Panel

peft = pytest.importorskip("peft", reason="pip install peft, which the extra 'dev' has")
BATCH, SECONDS = 8, 16.0


def test_a_lora_training_is_stopped_as_it_begins_to_copy(tmp_path) -> None:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    pipe, clips = make_pipe(), latents(16)[:2]
    for module in (pipe.transformer, pipe.text_encoder, pipe.vae, pipe.projection_model):
        module.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    others = decode(pipe, torch.randn(16, 3, 16, generator=generator), SECONDS)
    known = verifier(decode(pipe, clips, SECONDS), CAPTIONS[:2], others, 4, 0.7)
    peft.inject_adapter_in_model(
        peft.LoraConfig(r=16, lora_alpha=16, target_modules="all-linear"), pipe.transformer
    )
    trained = [weight for weight in pipe.transformer.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, 1e-2)
    with torch.no_grad():
        start, end = pipe.encode_duration(0.0, SECONDS, "cpu", False, 2)
        words = pipe.encode_prompt(CAPTIONS[:2], "cpu", False)
    cross, durations = torch.cat([words, start, end], 1), torch.cat([start, end], 2)
    rotary = get_1d_rotary_pos_embed(
        pipe.rotary_embed_dim, 17, use_real=True, repeat_interleave_real=False
    )
    monitor = Monitor(
        FromPipeline(pipe, steps=12, scale=2.0), known, Panel(tuple(CAPTIONS[:2])), tmp_path,
        every=25, share=None, limit=0.15, track=[],
    )  # fmt: skip
    rows = torch.arange(BATCH) % 2
    for step in range(1, 151):
        strata = torch.randperm(BATCH, generator=generator) + torch.rand(BATCH, generator=generator)
        t = 0.17 + 0.83 * strata / BATCH
        cos, sin = (wave(t * math.pi / 2)[:, None, None] for wave in (torch.cos, torch.sin))
        noise = torch.randn(BATCH, 3, 16, generator=generator)
        kept = (torch.rand(BATCH, 1, 1, generator=generator) > 0.1).float()
        v = pipe.transformer(
            cos * clips[rows] + sin * noise, t, encoder_hidden_states=cross[rows] * kept,
            global_hidden_states=durations[rows], rotary_embedding=rotary, return_dict=False,
        )[0]  # fmt: skip
        optimizer.zero_grad()
        (v - (cos * noise - sin * clips[rows])).square().mean().backward()
        optimizer.step()
        if monitor(step):
            break
    assert step < 150
    rates = [found.copies().value for found in monitor.observations]
    assert rates[-1] == 1.0
    assert all(rate < 1.0 for rate in rates[:-1])
    assert monitor.look(step).copies().value == 1.0
    assert pipe.transformer.proj_in.base_layer.weight.requires_grad is False
