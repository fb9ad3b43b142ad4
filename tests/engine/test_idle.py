"""A guard that cannot have acted says so: when it is put on, at its first evaluation, or after."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from support.pool import Pool
from support.tiny_engine import LENGTH, TinyModel, drawn, generate, levels, stacked

from anechoic.engine.run import guarding
from anechoic.errors import BadSetting, GuardError
from anechoic.guidance import (
    AntiMemorization,
    ClassifierFree,
    During,
    GramVolume,
    Interval,
    LogSNR,
    Progress,
    Screened,
    Sequence,
    TransitionPoint,
)
from anechoic.guidance.step import Guided
from anechoic.guidance.triggers import BasinEdge

TEXTS = ["dog in the rain", "soft flute"]
X = drawn(5, 2, 1, LENGTH)
SCHEDULE = levels(6, 4.0)
OPEN = {"lambda_min": -1.0, "lambda_max": -1.0}


def amg(embedder=None, **settings):
    embedder = embedder or Pool()
    return AntiMemorization(embedder, embedder, 3.0, 1.0, 1.0, 5.0, **{**OPEN, **settings})


def run(method, schedule=SCHEDULE, **settings):
    model = TinyModel()
    with guarding(model, method) as guarded:
        generate(model, guarded, X, TEXTS, schedule, **settings)
    return guarded.trace


class Made(Pool):
    """An embedder that gives what it is made to, whatever the sound is."""

    def __init__(self, make, images=False):
        super().__init__(images)
        self.make = make

    def __call__(self, wav, sample_rate):
        return self.make(super().__call__(wav, sample_rate))


LATE = LogSNR(1000.0)
NEVER_COMPARED = "compared no estimate with the training set"


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (lambda: amg(start=Progress(0.999)), NEVER_COMPARED),
        (lambda: amg(start=LATE), NEVER_COMPARED),
        (lambda: GramVolume(Pool(), Pool(), 3.0, threshold=-1.0, start=LATE), NEVER_COMPARED),
        (lambda: Interval(3.0, start=LATE, stop=Progress(1.0)), "no step was inside"),
        (lambda: Interval(3.0, start=0.0, stop=LATE), "every step was inside"),
        (lambda: During(amg(), start=Progress(0.999)), "no step was inside"),
        (lambda: During(amg(start=LATE)), NEVER_COMPARED),
        (lambda: During(ClassifierFree(3.0), stop=LATE), "every step was inside"),
        (lambda: During(ClassifierFree(3.0), 0.5, 0.6, outside=amg(start=LATE)), NEVER_COMPARED),
        (lambda: Sequence(ClassifierFree(3.0), amg(), LATE), "its 'then' guided no step"),
        (
            lambda: Sequence(amg(), ClassifierFree(3.0), LogSNR(-1000.0)),
            "its 'first' guided no step",
        ),
        (lambda: Sequence(ClassifierFree(3.0), amg(start=LATE), 0.5), NEVER_COMPARED),
        (lambda: Sequence(amg(start=LATE), ClassifierFree(3.0), BasinEdge(0.9)), NEVER_COMPARED),
        (lambda: Screened(amg(), over=0.0, scale=3.0, at=LATE), "screened no sample"),
        (lambda: Screened(amg(start=LATE), over=0.0, scale=3.0, at=0.0), NEVER_COMPARED),
    ],
)
def test_a_guard_that_never_acted_is_an_error_at_the_end_of_the_block(method, says):
    with pytest.raises(GuardError, match=f"generation 1 of 1 .* was not protected by .*{says}"):
        run(method())


@pytest.mark.parametrize(
    "method",
    [
        amg(start=0.5),
        amg(every=4),
        Interval(3.0, start=0.5, stop=LATE),
        During(amg()),
        Sequence(TransitionPoint(3.0, -1.0, at=1.0), amg(), BasinEdge(1e-6)),  # no edge is reached
        Screened(amg(start=LATE), over=1e9, scale=3.0, at=0.0),  # nobody is suspected
        TransitionPoint(3.0, at=Progress(0.01)),
    ],
    ids=lambda method: method.label(),
)
def test_a_guard_that_acted_or_could_have_is_none(method):
    assert len(run(method).records) == len(SCHEDULE)


@contextmanager
def _begun_after(guarded):
    yield
    guarded.begin()


def test_each_generation_of_a_block_has_to_be_guarded():
    model, says = TinyModel(), r"generation 2 of 2 .* its network was never evaluated"
    with (
        pytest.raises(GuardError, match=says),
        guarding(model, ClassifierFree(3.0)) as guarded,
        _begun_after(guarded),
    ):
        generate(model, guarded, X, TEXTS, SCHEDULE)


def test_samples_at_levels_of_their_own_are_looked_at_one_by_one():
    start = LogSNR(max(level.log_snr for level in levels(6, 4.0)) - 0.01)
    shorter = [*levels(5, 40.0), levels(6, 4.0)[0]]
    run(amg(start=start), schedule=SCHEDULE)
    with pytest.raises(GuardError, match=NEVER_COMPARED):
        run(amg(start=start), schedule=stacked(SCHEDULE, shorter))


@pytest.mark.parametrize("at", [LogSNR(-1000.0), LogSNR(SCHEDULE[0].log_snr)])
def test_a_transition_at_the_first_evaluation_is_refused_there(at):
    seen = []
    method = TransitionPoint(3.0, at=at)
    with pytest.raises(GuardError, match="transition at the first evaluation"):
        run(lambda step: (seen.append(step), method(step))[1])
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (lambda: TransitionPoint(3.0, at=0.0), "start of the schedule"),
        (lambda: TransitionPoint(3.0, before=3.0), "below the one after it, 3.0"),
        (lambda: LogSNR(float("inf")), "expected a finite log-SNR"),
        (lambda: LogSNR(float("nan")), "expected a finite log-SNR"),
        (lambda: Screened(ClassifierFree(), over=float("inf")), "expected over, a norm"),
    ],
)
def test_settings_that_can_never_act_are_refused_before_the_block(method, says):
    with pytest.raises(BadSetting, match=says):
        method()


@pytest.mark.parametrize("gradient", ["x0", "denoiser"])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda emb: emb * 0, "an embedding of length 0"),
        (lambda emb: emb * torch.tensor([[1.0], [0.0]]), "an embedding of length 0"),
        (lambda emb: emb[0], r"got \(16,\); fix the embedder"),
        (lambda emb: emb.detach(), "has no gradient"),
        (lambda emb: torch.eye(16)[:2], "has no gradient"),
        (lambda emb: torch.eye(16)[:2] + 0 * emb, "gradient of the similarity is zero"),
    ],
)
def test_an_embedder_without_a_direction_is_refused(make, says, gradient):
    with pytest.raises(GuardError, match=says):
        run(amg(Made(make), gradient=gradient))


def test_an_embedder_that_says_the_same_of_everything_is_refused_behind_a_shut_gate_too():
    same = Made(lambda emb: torch.eye(16)[:1].expand(len(emb), -1))
    with pytest.raises(GuardError, match="every estimate the same similarity"):
        run(amg(same, lambda_min=0.999, lambda_max=0.999))


def test_an_embedder_that_gives_the_mean_of_a_centred_index_is_refused():
    pool = Pool()
    mean = torch.nn.functional.normalize(torch.ones(1, 16), dim=1)
    pool.project = lambda emb: torch.nn.functional.normalize(emb - mean, dim=1)
    made = Made(lambda emb: mean.expand_as(emb) + 0 * emb)
    with pytest.raises(GuardError, match="the mean of the training set"):
        run(AntiMemorization(pool, made, 3.0, **OPEN))


def test_a_similarity_that_is_not_finite_is_refused():
    pool = Pool()
    pool.rows = pool.rows * float("nan")
    with pytest.raises(GuardError, match="gave a similarity that is not finite"):
        run(amg(pool))


# ------------------------------------------------------------------------- what it answers


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda step: None, "returned None; expected an x0 estimate"),
        (lambda step: 7.0, "an object of type float"),
        (lambda step: step.cond[:, :, :1], r"a tensor \(2, 1, 1\)"),
        (lambda step: step.cond[:1], r"a tensor \(1, 1, 64\)"),
        (lambda step: Guided(None), "Guided with scale of another"),
        (lambda step: Guided(torch.ones(2, 1)), "Guided with scale of another"),
        (lambda step: Guided(torch.ones(3)), "Guided with scale of another"),
        (lambda step: Guided(3.0, step.cond[:, :, :1]), "Guided with delta of another"),
        (lambda step: Guided(3.0, notes={"gate": True}), "Guided with gate of another"),
    ],
)
@pytest.mark.parametrize(
    "around", [lambda method: method, lambda method: During(method, 0.0, 0.5, ClassifierFree(3.0)),
               lambda method: Screened(method, over=0.0, scale=3.0, at=0.0)],
    ids=["alone", "during", "screened"],
)  # fmt: skip
def test_an_answer_of_another_shape_or_type_is_refused(answer, says, around):
    with pytest.raises(GuardError, match=says):
        run(around(answer))


# -------------------------------------------------------------------------- inference_mode


def test_a_gradient_in_inference_mode_is_refused_before_the_first_step():
    with torch.inference_mode(), pytest.raises(GuardError, match=r"outside of inference_mode"):
        run(amg())
    with torch.inference_mode():
        assert len(run(ClassifierFree(3.0)).records) == len(SCHEDULE)
    with torch.no_grad():
        assert len(run(amg()).records) == len(SCHEDULE)


@pytest.mark.parametrize("gradient", ["x0", "denoiser"])
def test_an_embedder_read_in_inference_mode_is_refused_in_a_sentence(gradient):
    with torch.inference_mode():
        weight = torch.eye(16)
    with pytest.raises(GuardError, match=r"outside of inference_mode"):
        run(amg(Made(lambda emb: emb @ weight), gradient=gradient))
