"""A run of a generation on an engine in pure torch: what holds on every engine."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from anechoic_lab.guidance import CADS, EmbeddingNoise, PromptOptimization, PromptPerturbation
from support.pool import Pool
from support.tiny_engine import LENGTH, TinyModel, drawn, generate, levels, stacked

from anechoic.engine.run import guarding
from anechoic.errors import GuardError, IndexMismatch, UnsupportedPipeline
from anechoic.guidance import (
    AntiMemorization,
    CaptionSubstitution,
    ClassifierFree,
    DynamicTransition,
    GramVolume,
    Interval,
    LogSNR,
    TransitionPoint,
)
from anechoic.guidance.step import Guided

TEXTS = ["dog in the rain", "soft flute"]
X = drawn(5, 2, 1, LENGTH)
ONE, OTHER = levels(6, 4.0), levels(6, 1.5)
OPEN = {"lambda_min": -1.0, "lambda_max": -1.0}
METHODS = {
    "plain": lambda: ClassifierFree(3.0),
    "amg": lambda: AntiMemorization(Pool(), Pool(), 3.0, 1.0, 1.0, 5.0, **OPEN),
    "amg-x0": lambda: AntiMemorization(Pool(), Pool(), 3.0, 1.0, 1.0, 5.0, gradient="x0", **OPEN),
    "amg-half-open": lambda: AntiMemorization(Pool(), Pool(), 3.0, 1.0, 1.0, 5.0, 0.0, 0.3),
    "volume": lambda: GramVolume(Pool(), Pool(), 3.0, threshold=-1.0),
    "static": lambda: TransitionPoint(3.0, before=0.0, at=LogSNR(-0.5)),
    "dynamic": lambda: DynamicTransition(3.0, before=-1.0, fall=0.9),
    "interval": lambda: Interval(3.0, LogSNR(-2.0), LogSNR(1.0)),
    "substitution": lambda: CaptionSubstitution(Pool(), Pool(), 3.0, opens=-0.2, watch=0.5),
    "function": lambda: lambda step: step.uncond + 2.0 * (step.cond - step.uncond),
    "noise": lambda: EmbeddingNoise(3.0, std=0.3),
    "perturb": lambda: PromptPerturbation(3.0, "word", 2),
    "optimize": lambda: PromptOptimization(3.0, share=0.5, iterations=3),
    "cads": lambda: CADS(3.0, tau1=0.3, tau2=0.9),
}


def guarded_run(method, x=X, texts=TEXTS, schedule=ONE, **settings):
    model = TinyModel()
    with guarding(model, method) as guarded:
        made = generate(model, guarded, x, texts, schedule, **settings)
    return made, guarded.trace, model


@pytest.mark.parametrize("name", METHODS)
def test_every_method_guards_it(name):
    made, trace, _ = guarded_run(METHODS[name]())
    assert torch.isfinite(made).all()
    assert len(trace.records) == len(ONE)
    plain = generate(TinyModel(), None, X, TEXTS, ONE)
    assert torch.equal(made, plain) == (name == "plain")


@pytest.mark.parametrize("name", METHODS)
def test_rows_at_levels_of_their_own_are_what_each_is_alone(name):
    both, trace, _ = guarded_run(METHODS[name](), schedule=stacked(ONE, OTHER))
    for row, schedule in enumerate((ONE, OTHER)):
        alone, own, _ = guarded_run(
            METHODS[name](), X[row : row + 1], TEXTS[row : row + 1], schedule
        )
        torch.testing.assert_close(both[row], alone[0], rtol=1e-4, atol=1e-5)
        for record, expected in zip(trace.records, own.records, strict=True):
            one = record.of(torch.tensor([row]))
            assert one.noise == expected.noise
            torch.testing.assert_close(one.scale, expected.scale, equal_nan=True)
            for note in expected.notes:
                torch.testing.assert_close(one.notes[note], expected.notes[note], atol=1e-4, rtol=0)


def test_levels_of_each_row_that_are_equal_are_one_level():
    """Samples at one level are guided in one call, however the engine says it."""
    seen = []

    def method(step):
        seen.append(step.batch)
        return Guided(3.0)

    made, *_ = guarded_run(method, schedule=stacked(ONE, ONE))
    assert seen == [2] * len(ONE)
    torch.testing.assert_close(made, generate(TinyModel(), None, X, TEXTS, ONE))


def test_the_engines_own_guidance_sees_the_latents_the_noise_and_the_rows():
    """Adaptive projected guidance needs the estimates, and the seconds of each sample."""
    seconds, projects = torch.tensor([4.0, 1.5]), {"projects": True}
    plain = generate(TinyModel(), None, X, TEXTS, ONE, seconds=seconds, **projects)
    made, *_ = guarded_run(ClassifierFree(3.0), seconds=seconds, **projects)
    assert torch.equal(made, plain)
    assert not torch.equal(made, generate(TinyModel(), None, X, TEXTS, ONE))
    scales = torch.tensor([3.0, 5.0])
    each, *_ = guarded_run(lambda step: Guided(scales), seconds=seconds, **projects)
    own_levels, *_ = guarded_run(
        lambda step: Guided(3.0), schedule=stacked(ONE, OTHER), seconds=seconds, **projects
    )
    for row in range(2):
        one = slice(row, row + 1)
        alone = generate(TinyModel(), None, X[one], TEXTS[one], ONE, seconds=seconds[one],
                         scale=scales[row].item(), **projects)  # fmt: skip
        torch.testing.assert_close(each[one], alone, rtol=1e-4, atol=1e-5)
        alone = generate(TinyModel(), None, X[one], TEXTS[one], (ONE, OTHER)[row],
                         seconds=seconds[one], **projects)  # fmt: skip
        torch.testing.assert_close(own_levels[one], alone, rtol=1e-4, atol=1e-5)


def test_exact_samples_get_no_additions_of_the_engine():
    """An estimate that replaces the run's own must not be mixed with what was made of that."""
    settings = {"projects": True, "seconds": torch.tensor([4.0, 4.0])}
    some = torch.tensor([True, False])
    made, *_ = guarded_run(lambda step: Guided(3.0, exact=some), **settings)
    projected = generate(TinyModel(), None, X, TEXTS, ONE, **settings)
    plain = generate(TinyModel(), None, X, TEXTS, ONE)
    torch.testing.assert_close(made[0], plain[0])
    assert torch.equal(made[1], projected[1])
    assert not torch.equal(plain[0], projected[0])


@pytest.mark.parametrize("schedule", [ONE, stacked(ONE, OTHER)], ids=["one level", "two levels"])
def test_a_sample_is_decoded_at_its_own_length(schedule):
    lengths = set()

    def method(step):
        for row in range(step.batch):
            part = step.of(torch.tensor([row]))
            lengths.add(part.decode(part.cond).shape[-1])
        return Guided(3.0)

    guarded_run(method, schedule=schedule, seconds=torch.tensor([4.0, 1.5]))
    assert lengths == {64, 24}


def test_a_half_that_is_not_needed_is_not_computed():
    *_, model = guarded_run(TransitionPoint(3.0, before=0.0, at=0.5))
    assert model.evaluated == [2, 2, 2, 4, 4, 4]
    *_, trace, model = guarded_run(TransitionPoint(3.0, before=0.0, at=LogSNR(0.0)),
                                   schedule=stacked(ONE, OTHER))  # fmt: skip
    passes = [record.passes for record in trace.records]
    assert passes == [rows / 2 for rows in model.evaluated]


def test_what_cannot_be_guarded_is_refused_in_a_sentence():
    with pytest.raises(GuardError, match=r"no unconditional half.*generate with uncond=True"):
        guarded_run(ClassifierFree(3.0), guided=False)
    with pytest.raises(UnsupportedPipeline, match="TinyModel makes sound, and embedder 'picture"):
        guarded_run(AntiMemorization(Pool(images=True), Pool(images=True)))
    foreign = Pool()
    foreign.model = "another"
    with pytest.raises(IndexMismatch, match="clips of model 'another', but this model is 'tiny'"):
        guarded_run(AntiMemorization(foreign, foreign))
    with pytest.raises(GuardError, match=r"NaN or infinity at log-SNR -2\.77"):
        guarded_run(lambda step: Guided(float("inf")))
    with (
        pytest.raises(GuardError, match="nothing was generated"),
        guarding(TinyModel(), METHODS["plain"]()),
    ):
        pass
    model = TinyModel()
    with (
        pytest.raises(GuardError, match="guarded already"),
        guarding(model, ClassifierFree()),
        guarding(model, ClassifierFree()),
    ):
        pass


def test_the_engine_room_loads_no_engine():
    code = "import sys, anechoic.engine.run; print('diffusers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_trace_says_in_a_few_words_what_the_guard_did():
    _, trace, _ = guarded_run(METHODS["amg-half-open"]())
    opened, near = trace.column("gate").any(1).sum(), trace.column("similarity").max()
    assert trace.summary() == (
        f"{len(ONE)} evaluations, near a training clip at {opened}, highest similarity to a "
        f"training clip {near:.3f}"
    )
    assert guarded_run(METHODS["static"]())[1].summary() == (
        f"{len(ONE)} evaluations, transition at number 4"
    )
