"""A blind listening test: can people tell a generation from the training clip it is most like?

Each trial is an ABX test: A and B are the two, X is one of them again, and the listener says which.
Whoever is right about half of the time cannot tell them apart, so what was generated is a copy to
the ear. Neither the order nor the level gives an answer away, and methods are mixed.

Source: ITU-R BS.1116 (levels, blind order); Munson and Gardner, 1950 (ABX).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from anechoic.audit.html.media import data_uri, flac
from anechoic.audit.html.report import environment
from anechoic.errors import BadSetting
from anechoic.storage import write_whole
from anechoic_lab.bench.plan import Method, Plan
from anechoic_lab.bench.task import MEMORIZED, BenchPrompt, Request

if TYPE_CHECKING:
    from jinja2 import Environment

TRIALS = 24
LEVEL = 0.1  # rms of what is played; quieter where it would clip


@dataclass(frozen=True, eq=False)
class Pair:
    """A generation and the training clip that it is most like, [c, t] each, from where they are
    alike."""

    made: Tensor
    clip: Tensor
    sample_rate: int  # in Hz
    id: str  # of the training clip


@runtime_checkable
class AudibleTask(Protocol):
    """A task whose generations can be heard beside its training clips."""

    def pairs(self, request: Request) -> Sequence[Pair]:
        """Generate one clip for each prompt, each with its nearest training clip.

        Raises:
            BadSetting: a training clip cannot be read.
        """
        ...


@dataclass(frozen=True, eq=False)
class Trial:
    """One question to a listener."""

    method: str
    prompt: BenchPrompt
    seed: int
    pair: Pair
    made_first: bool  # A is what was generated, B the training clip
    x_is_a: bool


def trials(task: object, plan: Plan, count: int = TRIALS) -> list[Trial]:
    """The trials of a plan: all methods on the same memorized prompts, in random order.

    The prompts are as many as `count` allows, at least one, of the first scenario and seed. A
    subject without memorized prompts gives others. The order is that of the plan's first seed.

    Raises:
        BadSetting: a task whose generations cannot be heard, or fewer than one trial for each
            method.
    """
    if not isinstance(task, AudibleTask):
        raise BadSetting(
            f"a listening test needs sound, and the task '{getattr(task, 'name', task)}' has no "
            "method 'pairs' that gives it (anechoic_lab.bench.listening.AudibleTask)"
        )
    each = count // len(plan.methods)
    if each < 1:
        raise BadSetting(
            f"expected at least one trial for each of {len(plan.methods)} methods, got {count}"
        )
    scenario = next(iter(plan.scenarios or task.scenarios))  # type: ignore[attr-defined]
    found = list(task.prompts(scenario, plan.split))  # type: ignore[attr-defined]
    prompts = [one for one in found if one.group == MEMORIZED] or found
    rng, seed = np.random.default_rng(plan.seeds[0]), plan.seeds[0]
    prompts = [prompts[i] for i in rng.permutation(len(prompts))[:each]]
    made = [
        Trial(method.label, prompt, seed, pair, bool(rng.integers(2)), bool(rng.integers(2)))
        for method in plan.methods
        for prompt, pair in _pairs(task, plan, method, scenario, prompts)
    ]
    return [made[i] for i in rng.permutation(len(made))]


def _pairs(
    task: AudibleTask, plan: Plan, method: Method, scenario: str, prompts: Sequence[BenchPrompt]
) -> list[tuple[BenchPrompt, Pair]]:
    found: list[tuple[BenchPrompt, Pair]] = []
    for at in range(0, len(prompts), plan.batch):
        some = prompts[at : at + plan.batch]
        request = Request(scenario, some, plan.seeds[0], method, plan.steps)
        found += zip(some, task.pairs(request), strict=True)
    return found


def write_page(path: Path, found: Sequence[Trial], title: str) -> None:
    """Write the test as one page, which needs no other file and no network.

    The page holds the answers, encoded but not secret: it keeps an honest listener blind.
    """
    content = base64.b64encode(json.dumps([_content(one) for one in found]).encode()).decode()
    page = _templates().get_template("listening.html")
    text = page.render(title=title, count=len(found), content=content)
    write_whole(path, text.encode())


def _content(trial: Trial) -> dict[str, object]:
    pair = trial.pair
    seconds = min(pair.made.shape[-1], pair.clip.shape[-1])  # the length gives nothing away
    made, clip = (_playable(wav[..., :seconds], pair.sample_rate) for wav in (pair.made, pair.clip))
    return {
        "method": trial.method, "prompt": trial.prompt.caption, "id": trial.prompt.id,
        "seed": trial.seed, "clip": pair.id, "generated": "A" if trial.made_first else "B",
        "x": "A" if trial.x_is_a else "B",
        "sound": [made, clip] if trial.made_first else [clip, made],
    }  # fmt: skip


def _playable(wav: Tensor, sample_rate: int) -> str:
    """Sound at the level of all, as an address."""
    sound = wav.double().numpy()
    rms, peak = float(np.sqrt(np.mean(sound**2))), float(np.abs(sound).max())
    if peak > 0:
        sound = sound * min(LEVEL / rms, 1 / peak)
    return data_uri("audio/flac", flac(sound.T, sample_rate))


@cache
def _templates() -> Environment:
    from jinja2 import ChoiceLoader, PackageLoader

    shared = environment()
    assert shared.loader is not None
    own = PackageLoader("anechoic_lab.bench", "html")
    return shared.overlay(loader=ChoiceLoader([own, shared.loader]))
