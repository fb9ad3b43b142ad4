"""The rows of diffusers in docs/reference/engines.md: every pipeline with every scheduler.

This writes them again, in some minutes:

    PYTHONPATH=tests python tests/diffusers/test_engines_page.py
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import diffusers
import pytest
from support.engines_page import Place, row, write, written
from support.pipelines import CASES, alive
from torch import Tensor

from anechoic import guard

ENGINE, VERSION = "diffusers", version("diffusers")
LATENT = (
    "DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler",
    "LCMScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


def places() -> Iterator[tuple[Place, Any]]:
    """Every pipeline that runs on a scheduler, its own first."""
    for name, case in CASES.items():
        own = type(case.make().scheduler).__name__
        others = FLOW if own.startswith("Flow") else LATENT
        for scheduler in dict.fromkeys((own, *others)):
            pipe = alive(case.make())
            if scheduler != own:
                pipe.scheduler = of_config(scheduler, pipe.scheduler.config)
            try:
                case.generate(pipe, ["a dog barks"], steps=3)
            except Exception:  # the pipeline itself does not run on it
                continue
            yield Place(ENGINE, VERSION, name, scheduler), pipe


def of_config(scheduler: str, config: Any) -> Any:
    more = {"skip_prk_steps": True} if scheduler == "PNDMScheduler" else {}
    return getattr(diffusers, scheduler).from_config(config, **more)


def of(place: Place, pipe: Any) -> str:
    case = CASES[place.model]

    def generate(guidance: Any) -> Tensor:
        made: Tensor
        if guidance is None:
            made = case.generate(pipe, ["a dog barks"], steps=3)
        else:
            with guard(pipe, guidance):
                made = case.generate(pipe, ["a dog barks"], steps=3)
        return made

    return row(place, generate, case.images)


def test_the_page_has_every_pipeline() -> None:
    assert {line.split("|")[3].strip() for line in written(ENGINE)} == {*CASES}, __doc__


def test_a_row_of_the_page_shows_what_runs() -> None:
    name, scheduler = "StableDiffusionPipeline", "HeunDiscreteScheduler"
    pipe = alive(CASES[name].make())
    pipe.scheduler = of_config(scheduler, pipe.scheduler.config)
    assert of(Place(ENGINE, VERSION, name, scheduler), pipe) in written(ENGINE), __doc__


@pytest.mark.slow
def test_the_page_shows_what_runs() -> None:
    assert written(ENGINE) == [of(*one) for one in places()], __doc__


if __name__ == "__main__":
    write([of(*one) for one in places()], ENGINE)
