"""What may stand in the place of a guidance, and what a method says of those inside it."""

from dataclasses import dataclass

import pytest
from support.amg_toy import XS, Toy
from support.pipelines import CASES, make
from support.pool import Pool

from anechoic import guard
from anechoic.errors import BadSetting, IndexMismatch, UnsupportedPipeline
from anechoic.guidance import (
    AntiMemorization,
    ClassifierFree,
    Guidance,
    Sequence,
    TransitionPoint,
    as_guidance,
)
from anechoic.guidance.step import Guided


@dataclass(frozen=True)
class OddlyNamed(Guidance):
    """A method of another package: its methods stand under names of its own, and in a list."""

    the_one: Guidance
    more: list[Guidance]

    def children(self):
        return (self.the_one, *self.more)

    def __call__(self, step):
        return Guided(7.0)


def amg(index, **settings):
    return AntiMemorization(index, index, **settings)


def plain(step):
    return step.cond


class Duck:
    def needs(self, info):
        return "cond"

    def __call__(self, step):
        return Guided(1.0)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            "amg",
            "expected a guidance, got the name 'amg'; build it, as in AntiMemorization(index, "
            "embedder), or use anechoic.guidance.registry.build",
        ),
        (
            None,
            "expected a guidance, got None; to generate without a guard, call the pipeline "
            "outside of `guard`",
        ),
        (
            7.0,
            "expected a guidance, got the number 7.0; for classifier-free guidance of that "
            "scale, use ClassifierFree(7.0)",
        ),
        (
            AntiMemorization,
            "expected a guidance, got the class AntiMemorization; make an instance: "
            "AntiMemorization(...)",
        ),
        (
            [ClassifierFree()],
            "expected a guidance, got an object of type list; use a method of "
            "anechoic.guidance, or a function of a Step",
        ),
        (
            Duck(),
            "expected a guidance, got an object of type Duck; it defines 'needs', so inherit "
            "anechoic.guidance.base.Guidance",
        ),
        (
            lambda: None,
            "expected a guidance, got the function <lambda>(); give a function of a Step alone",
        ),
    ],
    ids=["a name", "nothing", "a number", "a class", "a list", "a duck", "no step"],
)
def test_what_is_not_a_guidance_gets_one_sentence_at_once(given, sentence, pipe):
    for door in (lambda: guard(pipe, given).__enter__(), lambda: Sequence(given, plain, 0.5)):
        with pytest.raises(BadSetting) as error:
            door()
        assert str(error.value) == sentence
    with guard(pipe, ClassifierFree()):  # the pipeline was left as it was
        pipe("a dog barks", num_inference_steps=1, output_type="latent")


def test_a_plain_function_is_a_method_that_needs_both_halves():
    method = as_guidance(plain)
    step = Toy().step(XS, 1.0)
    assert method(step) is step.cond
    assert (method.label(), method.needs(step), method.requires_uncond()) == ("plain", "both", True)
    assert method.looks_back()
    assert as_guidance(method) is method


def test_a_method_speaks_for_those_inside_it_whatever_their_fields_are_called():
    first, second = Toy(), Toy()
    near = amg(second, gradient="x0")
    nested = OddlyNamed(TransitionPoint(), [amg(first, c3=0.0), Sequence(near, plain, 0.5)])
    assert nested.indexes() == nested.embedders() == (first, second)
    assert nested.gradient_reach() == "decoder"
    assert OddlyNamed(nested, [amg(first)]).gradient_reach() == "network"
    assert OddlyNamed(TransitionPoint(), [ClassifierFree()]).indexes() == ()


def test_an_index_of_another_model_is_refused_at_any_depth(pipe):
    index = Pool()
    index.model = "0" * 16
    method = OddlyNamed(ClassifierFree(), [OddlyNamed(amg(index), [])])
    with pytest.raises(IndexMismatch, match="of model '0000000000000000'"), guard(pipe, method):
        pass


def test_every_training_set_of_a_composition_is_looked_at(pipe):
    own, others = Pool(), Pool()
    others.model = "0" * 16
    for pair in ((own, others), (others, own)):
        method = Sequence(*map(amg, pair), 0.5)
        with pytest.raises(IndexMismatch), guard(pipe, method):
            pass


def test_an_embedder_of_the_other_kind_is_refused_at_any_depth():
    name = next(name for name, case in CASES.items() if case.images)
    method = OddlyNamed(ClassifierFree(), [Sequence(ClassifierFree(), amg(Pool()), 0.5)])
    with pytest.raises(UnsupportedPipeline, match="makes images"), guard(make(name), method):
        pass
