"""docs/project/threat-model.md is true: each way around the guard has its test, and what a guard
cannot see is shown here."""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from support.pipelines import CASES, make
from support.pool import Pool

from anechoic import guard
from anechoic.errors import GuardError
from anechoic.guidance import AntiMemorization, ClassifierFree, TransitionPoint

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/project/threat-model.md"
SD = CASES["StableDiffusionPipeline"]
HELD_BACK = TransitionPoint(7.0, before=-3.0, at=0.5)


def ways() -> list[tuple[str, str, list[str]]]:
    """Number, outcome and tests of each row."""
    rows = re.findall(r"^\| (\d+) \| .* \| ([a-z ]+) \| (.*) \|$", PAGE.read_text(), re.M)
    return [(number, outcome, re.findall(r"`(.*?)`", tests)) for number, outcome, tests in rows]


def defined(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_there_are_forty_ways_and_each_has_an_outcome() -> None:
    assert [int(number) for number, *_ in ways()] == list(range(1, len(ways()) + 1))
    assert len(ways()) >= 40
    assert {outcome for _, outcome, _ in ways()} == {"refused", "guarded", "cannot be seen"}


@pytest.mark.parametrize(("number", "outcome", "tests"), ways())
def test_each_way_names_a_test_that_exists(number: str, outcome: str, tests: list[str]) -> None:
    file, *names = tests
    assert names, f"way {number} names a file and a test in it"
    assert set(names) <= defined(ROOT / "tests" / file)


# ------------------------------------------------------------------------ what cannot be seen


def plain_and_guarded(pipe, **more):
    plain = SD.generate(pipe)
    with guard(pipe, HELD_BACK):
        return plain, SD.generate(pipe, **more)


def test_a_callback_that_writes_the_last_latents_is_not_seen():
    pipe = make(SD.name)
    kept = SD.generate(pipe)

    def write(pipe, index, t, inputs):
        return {"latents": kept} if index == 2 else {}

    plain, made = plain_and_guarded(pipe, callback_on_step_end=write)
    assert torch.equal(made, plain)


def test_a_callback_that_writes_earlier_latents_is_guarded_from_there_on():
    pipe, other = make(SD.name), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(9))

    def write(pipe, index, t, inputs):
        return {"latents": other} if index == 0 else {}

    with guard(pipe, ClassifierFree(7.0)) as trace:
        SD.generate(pipe, callback_on_step_end=write)
    assert len(trace.records) == 3


def test_a_scheduler_whose_class_was_patched_is_not_seen(monkeypatch):
    pipe = make(SD.name)
    kept = SD.generate(pipe)
    step = type(pipe.scheduler).step

    def patched(self, prediction, t, *args, **kwargs):
        made = step(self, prediction, t, *args, **kwargs)
        return (kept, *made[1:]) if t == self.timesteps[-1] else made

    monkeypatch.setattr(type(pipe.scheduler), "step", patched)
    with guard(pipe, HELD_BACK):
        assert torch.equal(SD.generate(pipe), kept)


def test_a_pipeline_called_after_or_before_the_block_is_not_guarded():
    pipe = make(SD.name)
    plain = SD.generate(pipe)
    with guard(pipe, HELD_BACK):
        assert not torch.equal(SD.generate(pipe), plain)
    assert torch.equal(SD.generate(pipe), plain)


def test_a_pipeline_of_other_parts_inside_the_block_is_not_guarded():
    pipe, other = make(SD.name), make(SD.name)
    plain = SD.generate(other)
    with guard(pipe, HELD_BACK):
        SD.generate(pipe)
        assert torch.equal(SD.generate(other), plain)


def test_a_function_that_guides_plainly_is_not_seen():
    from anechoic.guidance.step import Guided

    pipe = make(SD.name)
    plain = SD.generate(pipe)
    with guard(pipe, lambda step: Guided(7.0)):
        assert torch.equal(SD.generate(pipe), plain)


def test_a_training_set_that_lacks_the_clip_is_not_seen():
    pipe, store = make(SD.name), Pool(images=True)
    plain = SD.generate(pipe)
    with guard(pipe, AntiMemorization(store, store, lambda_min=0.999, lambda_max=0.999)) as trace:
        assert torch.equal(SD.generate(pipe), plain)
    assert not trace.column("gate").any()


def test_hooks_taken_off_by_hand_are_noticed_at_the_first_step():
    pipe = make(SD.name)

    def strip(pipe, index, t, inputs):
        pipe.unet._forward_pre_hooks.clear()
        pipe.unet._forward_hooks.clear()
        return {}

    with (
        pytest.raises(GuardError, match="called past its hooks"),
        guard(pipe, ClassifierFree()),
    ):
        SD.generate(pipe, callback_on_step_end=strip)


def test_a_decoder_put_in_inside_the_block_is_the_one_that_is_compared():
    pipe, store = make(SD.name), Pool(images=True)
    pipe.vae, seen = make(SD.name).vae, []
    decode = pipe.vae.decode
    pipe.vae.decode = lambda *args, **kwargs: seen.append(1) or decode(*args, **kwargs)
    with guard(pipe, AntiMemorization(store, store, lambda_min=0.999, lambda_max=0.999)):
        SD.generate(pipe)
    assert len(seen) == 3


def test_an_error_that_is_caught_inside_the_block_does_not_hide_an_unguarded_generation():
    pipe = make(SD.name)
    with (
        pytest.raises(GuardError, match="nothing was generated"),
        guard(pipe, ClassifierFree()),
        suppress(GuardError),
    ):
        SD.generate(pipe, scale=1.0)
