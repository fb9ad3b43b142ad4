"""Shared fixtures. No test reaches for the network."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings
from support.browser import browser, tab
from support.certified import certified_index, signers
from support.commands import command
from support.pipelines import make_pipe
from support.wheels import core_wheel, lab_wheel

__all__ = [
    "browser", "certified_index", "command", "core_wheel", "generate", "lab_wheel", "pipe",
    "signers", "tab",
]  # fmt: skip

# a busy machine is not a failure
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(2)


def pytest_collection_finish():
    """What is imported by now stays, so nothing has to look through it for garbage again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk():
    """No test takes the power from the disk, not even one that kills a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture
def pipe():
    return make_pipe()


@pytest.fixture
def generate():
    """Call a pipeline with fixed seeds."""

    def call(pipe, prompt=("low cello note", "a dog barks"), scale=7.0, steps=6, seed=0, **kwargs):
        prompt = list(prompt) if isinstance(prompt, tuple) else prompt
        count = len(prompt) if isinstance(prompt, list) else 1
        generator = [torch.Generator().manual_seed(seed + i) for i in range(count)]
        return pipe(
            prompt,
            num_inference_steps=steps,
            guidance_scale=scale,
            generator=generator,
            **{"output_type": "latent", **kwargs},
        ).audios

    return call
