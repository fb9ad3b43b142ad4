"""Methods made of methods, on the toy network of the reference cases."""

from dataclasses import replace

import pytest
import torch
from anechoic_lab.guidance import EmbeddingNoise
from support.amg_toy import REFERENCE, Toy

from anechoic.errors import BadSetting
from anechoic.guidance import (
    AntiMemorization,
    BasinEdge,
    ClassifierFree,
    During,
    Interval,
    LogSNR,
    Progress,
    Prompted,
    Sequence,
    Timestep,
    TransitionPoint,
)
from anechoic.guidance.registry import build
from anechoic.guidance.step import Guided, Record

RATIOS = (500.0, 14.6, 4.0, 1.0, 0.3)
XS = torch.cat([torch.tensor(case["x"], dtype=torch.float64) for case in REFERENCE["cases"][:3]])


def steps(toy, xs=XS, ratios=RATIOS):
    """The evaluations of a run, each with the records of those before."""
    history = ()
    for k, ratio in enumerate(ratios):
        step = toy.step(xs * (1 + ratio), ratio)
        step = replace(step, history=history, progress=k / len(ratios))
        yield step
        history += (Record(step.progress, step.noise, step.distance, torch.ones(len(xs))),)


def amg(toy, **settings):
    return AntiMemorization(toy, toy, lambda_min=-1.0, lambda_max=-1.0, **settings)


def refuse(step):
    raise AssertionError("computed, though no sample asked for it")


@pytest.mark.parametrize("at", [Progress(0.4), LogSNR(-3.0), Timestep(500), 0.4])
def test_sequence_of_two_scales_is_a_transition_point(at):
    together = Sequence(TransitionPoint(7.0, -2.0, at=1.0), ClassifierFree(7.0), at)
    paper = TransitionPoint(7.0, -2.0, at)
    for step in steps(Toy()):
        assert torch.equal(together(step).x0(step), paper(step).x0(step))


def test_sequence_computes_only_the_method_that_is_on():
    toy = Toy()
    method = Sequence(refuse, amg(toy), 0.4)
    later = [step for step in steps(toy) if step.progress >= 0.4]
    assert all(torch.equal(method(s).x0(s), amg(toy)(s).x0(s)) for s in later)
    method = Sequence(ClassifierFree(7.0), refuse, 0.4)
    for step in steps(toy):
        if step.progress < 0.4:
            assert method(step).scale == 7.0


def test_sequence_switches_each_sample_at_its_own_edge():
    toy = Toy()
    first, then, edge = ClassifierFree(3.0), amg(toy), BasinEdge(0.9)
    seen = set()
    for step in steps(toy):
        after = torch.tensor(edge.reached(step))
        seen |= {tuple(after.tolist())}
        guided = Sequence(first, then, edge)(step).x0(step)
        expected = torch.where(after[:, None, None], then(step).x0(step), first(step).x0(step))
        torch.testing.assert_close(guided, expected)
        alone = [
            Sequence(first, then, edge)(s).x0(s)
            for s in (list(steps(toy, x))[round(step.progress * 5)] for x in XS.split(1))
        ]
        torch.testing.assert_close(guided, torch.cat(alone))
    assert any(0 < sum(mask) < len(XS) for mask in seen)  # they do differ


def test_interval_is_the_scale_inside_and_the_conditional_estimate_outside():
    toy = Toy()
    method = Interval(7.0, LogSNR(-3.0), LogSNR(1.0))
    same = During(ClassifierFree(7.0), LogSNR(-3.0), LogSNR(1.0))
    for step in steps(toy):
        inside = -3.0 <= step.noise.log_snr < 1.0
        expected = Guided(7.0).x0(step) if inside else step.cond
        torch.testing.assert_close(method(step).x0(step), expected)
        torch.testing.assert_close(same(step).x0(step), expected)


def test_interval_over_everything_is_classifier_free_guidance():
    for step in steps(Toy()):
        assert torch.equal(Interval(7.0, 0.0, 1.0)(step).x0(step), Guided(7.0).x0(step))


@pytest.mark.parametrize(
    ("start", "stop"), [(LogSNR(1), LogSNR(1)), (0.6, 0.5), (Timestep(200), Timestep(700))]
)
def test_an_empty_interval_is_refused(start, stop):
    with pytest.raises(BadSetting, match="swap them"):
        Interval(7.0, start, stop)


def test_the_training_set_of_a_part_is_the_wholes():
    toy = Toy()
    assert Sequence(ClassifierFree(), amg(toy), 0.5).indexes() == (toy,)
    assert During(amg(toy)).indexes() == (toy,)
    assert Prompted(EmbeddingNoise(), Sequence(amg(toy), ClassifierFree(), 0.5)).embedders() == (
        toy,
    )
    assert Sequence(ClassifierFree(), ClassifierFree(), 0.5).indexes() == ()


def test_what_changes_the_prompt_goes_around_a_sequence_not_into_it():
    with pytest.raises(BadSetting, match="Prompted"):
        Sequence(EmbeddingNoise(), ClassifierFree(), 0.5)
    with pytest.raises(BadSetting, match="changes the prompt"):
        Prompted(EmbeddingNoise(), EmbeddingNoise())
    with pytest.raises(BadSetting, match="does not"):
        Prompted(ClassifierFree(), ClassifierFree())


def test_a_composition_is_built_from_a_table():
    toy = Toy()
    table = {
        "first": {"guard": "static", "before": -2.0, "at": 1.0},
        "then": {"guard": "amg", "c3": 10, "gradient": "x0"},
        "at": "BasinEdge:0.5",
    }
    made = build("sequence", table, {"index": toy, "embedder": toy, "scale": 5.0})
    assert made == Sequence(
        TransitionPoint(5.0, -2.0, 1.0),
        AntiMemorization(toy, toy, 5.0, c3=10.0, gradient="x0"),
        BasinEdge(0.5),
    )
    with pytest.raises(BadSetting, match="no setting 'frist'"):
        build("sequence", {"frist": {"guard": "cfg"}})
    with pytest.raises(BadSetting, match="without a 'guard'"):
        build("sequence", {"first": {"before": 1}, "then": {"guard": "cfg"}, "at": 0.5})
