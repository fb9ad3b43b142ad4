"""Every method on every pipeline: it acts, or it is refused in a sentence before the first step.

docs/reference/pipelines.md shows the outcome. This writes its tables again:

    PYTHONPATH=tests python tests/diffusers/test_methods.py
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.methods import DISSIMILARITY, METHODS, method
from support.pipelines import (
    CASES,
    Case,
    alive,
    make_ace_step,
    make_stable_audio_3,
    make_stable_diffusion,
)

from anechoic import guard
from anechoic.diffusers.pipelines import adapter_for
from anechoic.errors import AnechoicError

PAGE = Path(__file__).parents[2] / "docs/reference/pipelines.md"


def make_lcm() -> Any:
    from diffusers import LCMScheduler

    pipe = make_stable_diffusion(time_cond_proj_dim=8)
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    return pipe


DISTILLED = {
    "StableAudio3Pipeline": ("distilled", lambda: make_stable_audio_3(stochastic=True), 1.0),
    "AceStepPipeline": ("turbo", lambda: make_ace_step(is_turbo=True), 7.0),
    "StableDiffusionPipeline": ("LCM", make_lcm, 7.0),
}
COLUMNS: dict[str, tuple[Case, Callable[[], Any], float]] = {
    name: (case, case.make, 7.0) for name, case in CASES.items()
} | {
    f"{name}, {what}": (CASES[name], make, scale) for name, (what, make, scale) in DISTILLED.items()
}


@cache
def column(name: str) -> Any:
    """The pipeline, and what it makes without a guard."""
    case, make, scale = COLUMNS[name]
    pipe = alive(make())
    return pipe, case.generate(pipe, ["a dog barks"], scale=scale, steps=2)


@cache
def outcome(pipeline: str, name: str) -> str:
    """What became of a generation: "works", or why it was refused."""
    case, _, scale = COLUMNS[pipeline]
    pipe, plain = column(pipeline)
    evaluations: list[int] = []
    handle = pipe.scheduler.step
    try:
        pipe.scheduler.step = _counting(handle, evaluations)
        with guard(pipe, method(name, case.images)) as trace:
            made = case.generate(pipe, ["a dog barks"], scale=scale, steps=2)
    except AnechoicError as refused:
        assert evaluations == [], "refused after the first step"
        return str(refused)
    finally:
        del pipe.scheduler.step
    assert torch.isfinite(made).all()
    assert len(trace.records) == len(evaluations)
    assert torch.equal(made, plain) == (name == "cfg"), "it does not act"
    return "works"


def _counting(step: Callable[..., Any], evaluations: list[int]) -> Callable[..., Any]:
    from functools import wraps

    @wraps(step)  # pipelines look at its signature
    def counted(*args: Any, **kwargs: Any) -> Any:
        evaluations.append(1)
        return step(*args, **kwargs)

    return counted


ROWS = [*METHODS, DISSIMILARITY]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("pipeline", CASES)
def test_a_method_works_on_a_pipeline_with_both_halves(pipeline: str, name: str) -> None:
    assert outcome(pipeline, name) == "works"


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("pipeline", [name for name in COLUMNS if name not in CASES])
def test_a_method_on_a_distilled_model_works_or_says_why_not(pipeline: str, name: str) -> None:
    works = (DISSIMILARITY, "auto", "substitution", "projection", "repellency", "volume", "noise",
             "cads", "perturb")  # fmt: skip
    if name in works:
        assert outcome(pipeline, name) == "works"
    else:
        assert "no unconditional half" in outcome(pipeline, name)


# ---------------------------------------------------------------------------------- the page


def table() -> str:
    """The table of docs/reference/pipelines.md, from what runs."""
    reasons: list[str] = []
    lines = []
    for pipeline in COLUMNS:
        cells = []
        for name in ROWS:
            said = outcome(pipeline, name)
            if said != "works":
                general = re.sub(r"and \w+ acts through it", "and the method acts through it", said)
                if general not in reasons:
                    reasons.append(general)
                said = f"no [{reasons.index(general) + 1}]"
            cells.append("yes" if said == "works" else said)
        lines.append(f"| {pipeline.replace('Pipeline', '')} | {' | '.join(cells)} |")
    head = ["", *(f"`{name}`" if name in METHODS else name for name in ROWS)]
    rule = "|" + "---|" * len(head)
    notes = [f"[{i}] {reason[0].upper()}{reason[1:]}." for i, reason in enumerate(reasons, 1)]
    return "\n".join([f"| {' | '.join(head)} |", rule, *lines, "", *notes])


def pipelines() -> str:
    """The list of pipelines, from the table of adapters."""
    lines = [
        "| pipeline | makes | order of the predictions | argument for the length | "
        "argument for several outputs | negative prompt |",
        "|---|---|---|---|---|---|",
    ]
    for name, case in CASES.items():
        adapter = adapter_for(column(name)[0]).adapter
        length = f"`{adapter.sound.seconds}`" if adapter.sound else "not applicable"
        lines.append(
            f"| `{name}` | {'images' if case.images else 'sound'} | {adapter.halves} | {length} | "
            f"{f'`{case.several}`' if case.several else 'not applicable'} | "
            f"{'yes' if case.negative else 'not applicable'} |"
        )
    return "\n".join(lines)


def page(text: str) -> str:
    """The page with its tables as they are today."""
    for name, made in (("pipelines", pipelines()), ("methods", table())):
        start, end = f"<!-- {name}: by tests/diffusers/test_methods.py -->", f"<!-- /{name} -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n\n{made}\n\n{end}{rest.split(end)[1]}"
    return text


def test_the_page_shows_what_runs() -> None:
    written = PAGE.read_text()
    assert page(written) == written, "run: PYTHONPATH=tests python tests/diffusers/test_methods.py"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
