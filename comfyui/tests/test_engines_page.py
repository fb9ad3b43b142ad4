"""The rows of ComfyUI in docs/reference/engines.md, of the stand-in for it.

This writes them again:

    PYTHONPATH=tests:comfyui python comfyui/tests/test_engines_page.py
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfyui_anechoic.guard import guarded
from support import comfy
from support.engines_page import Place, row, write, written
from torch import Tensor

ENGINE, VERSION = "ComfyUI", "stand-in"
MODELS = {"v": "v", "rectified_flow": "flow"}
SAMPLERS = (comfy.euler, comfy.heun)


def rows() -> list[str]:
    with torch.inference_mode():
        return [_row(objective, sampler) for objective in MODELS for sampler in SAMPLERS]


def _row(objective: str, sampler: Any) -> str:
    model, clip, vae = comfy.ModelPatcher(comfy.Model(objective)), comfy.CLIP(), comfy.VAE()
    noise = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(5))

    def generate(guidance: Any) -> Tensor:
        used = model if guidance is None else guarded(model, lambda scale: guidance, clip, vae)
        made: Tensor = comfy.sample(used, clip, ["a dog barks"], noise, sampler=sampler, steps=3)
        return made

    return row(Place(ENGINE, VERSION, MODELS[objective], sampler.__name__), generate)


def test_the_page_shows_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    comfy.install(monkeypatch)
    assert written(ENGINE) == rows(), __doc__


if __name__ == "__main__":
    comfy.install(pytest.MonkeyPatch())
    write(rows(), ENGINE)
