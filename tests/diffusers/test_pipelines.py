"""The contract that every pipeline of the table is held to, on tiny ones of the real classes."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from support.pipelines import CASES, make
from support.pool import CAPTIONS, Pool

from anechoic import guard
from anechoic.diffusers.adapters import ADAPTERS
from anechoic.diffusers.pipelines import adapter_for
from anechoic.errors import UnsupportedPipeline
from anechoic.guidance import AntiMemorization, ClassifierFree, TransitionPoint
from anechoic.guidance.base import Guidance
from anechoic.guidance.step import Guided

PROMPTS = ("low cello note", "a dog barks")
pipe_of = cache(make)


@cache
def plain(name, scale=7.0):
    return CASES[name].generate(pipe_of(name), scale=scale)


def amg(case, **settings):
    store = Pool(case.images)
    open_gate = {"c1": 1.0, "c2": 1.0, "c3": 5.0, "lambda_min": -1.0, "lambda_max": -1.0}
    return AntiMemorization(store, store, 7.0, **{**open_gate, **settings})


def test_every_row_of_the_table_is_under_contract():
    assert CASES.keys() == ADAPTERS.keys()


@pytest.mark.parametrize("name", CASES)
class TestEveryPipeline:
    @pytest.mark.parametrize("scale", [7.0, 3.3])
    def test_plain_guidance_is_the_pipelines_own_bit_for_bit(self, name, scale):
        case, pipe = CASES[name], pipe_of(name)
        expected = plain(name, scale)
        with guard(pipe, ClassifierFree(scale)) as trace:
            guarded = case.generate(pipe, scale=2.0)  # the guidance owns the scale
        assert torch.equal(guarded, expected)
        assert [record.progress for record in trace.records] == [0.0, 1 / 3, 2 / 3]
        assert {record.passes for record in trace.records} == {2.0}
        assert not torch.equal(plain(name, 7.0), plain(name, 3.3))

    def test_the_pipeline_is_as_before(self, name):
        case, pipe = CASES[name], make(name)
        before = set(vars(pipe))
        with guard(pipe, ClassifierFree()):
            case.generate(pipe, steps=2)
        assert {key for key in set(vars(pipe)) - before if not key.startswith("_")} == set()
        assert torch.equal(case.generate(pipe), plain(name))

    def test_a_negative_prompt_keeps_working(self, name):
        case, pipe = CASES[name], pipe_of(name)
        if not case.negative:
            pytest.skip("it takes no negative prompt")
        negative = {"negative_prompt": ["rain on a roof", "high flute note"]}
        expected = case.generate(pipe, **negative)
        assert not torch.equal(expected, plain(name))
        seen, under_captions = [], []

        def watch(step):
            seen.append((step.denoise(step.x, "uncond"), step.uncond))
            if not step.history:  # a caption in the prompt's place is no matter of the negative one
                under_captions.append(step.denoise(step.x, list(CAPTIONS)))
            return Guided(7.0)

        with guard(pipe, watch):
            assert torch.equal(case.generate(pipe, **negative), expected)
            case.generate(pipe, steps=3)
        for again, first in seen:
            torch.testing.assert_close(again, first, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(*under_captions, rtol=1e-4, atol=1e-4)

    def test_several_outputs_a_prompt(self, name):
        case, pipe = CASES[name], pipe_of(name)
        if case.several is None:
            pytest.skip("it makes one")
        arguments = {"steps": 2, "count": 4, case.several: 2}
        expected = case.generate(pipe, **arguments)
        with guard(pipe, ClassifierFree(7.0)):
            assert torch.equal(case.generate(pipe, **arguments), expected)
        assert len(expected) == 4
        with guard(pipe, amg(case, gradient="x0")):
            together = case.generate(pipe, **arguments)
            for i, prompt in enumerate(PROMPTS):  # two samples of each, by their own prompt
                alone = {**arguments, "count": 2, "seed": 2 * i}
                torch.testing.assert_close(
                    together[2 * i : 2 * i + 2], case.generate(pipe, prompt, **alone),
                    rtol=1e-3, atol=1e-3,
                )  # fmt: skip

    def test_another_length_in_the_same_block_is_guarded_at_its_own(self, name):
        """No pipeline takes several lengths at once; what is encoded for one is not left over."""
        case, pipe = CASES[name], pipe_of(name)
        if case.images:
            pytest.skip("it makes images")
        length = adapter_for(pipe).adapter.sound.seconds
        shorter = {length: case.arguments[length] / 2, "steps": 2}
        with guard(pipe, amg(case, gradient="x0")):
            expected = case.generate(pipe, **shorter)
        with guard(pipe, amg(case, gradient="x0")) as trace:
            longer = case.generate(pipe, steps=2)
            made = case.generate(pipe, **shorter)
            assert torch.equal(case.generate(pipe, steps=2), longer)
        assert torch.equal(made, expected)
        assert len(trace.runs) == 3
        assert not torch.equal(made, case.generate(pipe, **shorter))

    def test_extra_passes_repeat_both_halves(self, name):
        case, pipe = CASES[name], pipe_of(name)
        seen = []

        def watch(step):
            seen.append((step.denoise(step.x, "cond"), step.cond))
            seen.append((step.denoise(step.x, "uncond"), step.uncond))
            return Guided(7.0)

        with guard(pipe, watch) as trace:
            case.generate(pipe, steps=2)
        for again, first in seen:
            torch.testing.assert_close(again, first, rtol=1e-4, atol=1e-4)
        assert {record.passes for record in trace.records} == {4.0}

    def test_a_caption_is_encoded_as_the_pipeline_itself_would(self, name):
        """The estimate under another caption is that of a generation with it, from the same noise,
        of the same length, with the same lyrics."""
        case, pipe = CASES[name], pipe_of(name)
        other, own = [], []

        def under_captions(step):
            if not step.history:
                other.append(step.denoise(step.x, list(CAPTIONS)))
            return Guided(7.0)

        def watch(step):
            if not step.history:
                own.append(step.cond)
            return Guided(7.0)

        with guard(pipe, under_captions):
            case.generate(pipe, PROMPTS, steps=1)
        for i, caption in enumerate(CAPTIONS):
            more = {"lyrics": [case.lyrics[i]]} if case.lyrics else {}
            with guard(pipe, watch):
                case.generate(pipe, [caption], steps=1, seed=i, **more)
        torch.testing.assert_close(other[0], torch.cat(own), rtol=1e-4, atol=1e-4)

    def test_changed_words_are_encoded_as_the_pipeline_itself_would(self, name):
        case, pipe = CASES[name], pipe_of(name)
        texts, seen = [], []

        class Changed(Guidance):
            changes_prompt = True

            def condition(self, prompt):
                texts.append(prompt.texts)
                return prompt.encode(list(CAPTIONS)).to(prompt.encoded)

            def __call__(self, step):
                seen.append(step.cond)
                return Guided(7.0)

        with guard(pipe, Changed()):
            case.generate(pipe, PROMPTS, steps=1)
        with guard(pipe, lambda step: seen.append(step.cond) or Guided(7.0)):
            case.generate(pipe, CAPTIONS, steps=1)
        assert texts == [list(PROMPTS)]
        torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-4)

    def test_each_sample_is_guided_by_itself_and_reproduces(self, name):
        case, pipe = CASES[name], pipe_of(name)
        with guard(pipe, amg(case, gradient="x0")):
            together = case.generate(pipe, PROMPTS, steps=2)
            assert torch.equal(case.generate(pipe, PROMPTS, steps=2), together)
            for i, prompt in enumerate(PROMPTS):
                more = {"lyrics": [case.lyrics[i]]} if case.lyrics else {}
                alone = case.generate(pipe, [prompt], steps=2, seed=i, **more)
                if case.lyrics:  # lyrics of another length: the pipeline itself encodes them so
                    assert torch.isfinite(alone).all()
                else:
                    torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-3)

    def test_the_decoder_hears_what_the_pipeline_returns(self, name):
        case, pipe = CASES[name], make(name)
        heard, kept = [], []

        def watch(step):
            kept.append(step)
            return Guided(7.0)

        with guard(pipe, watch):
            latents = case.generate(pipe, steps=2)
            heard.append(kept[-1].decode(latents))
        made = case.generate(pipe, steps=2, output_type="pt")
        (decoded,) = heard
        if not case.images and made.ndim == 2:
            made = made[:, None]
        assert decoded.shape == made.shape
        if name == "AceStepPipeline":  # which sets the level at the end
            decoded = decoded / decoded.abs().amax((1, 2), keepdim=True)
            made = made / made.abs().amax((1, 2), keepdim=True)
        if name == "StableAudio3Pipeline":
            decoded = decoded.clamp(-1, 1)
        torch.testing.assert_close(decoded, made, rtol=1e-3, atol=1e-4)

    def test_bf16(self, name):
        case, pipe = CASES[name], make(name).to(torch.bfloat16)
        expected = case.generate(pipe, steps=2)
        with guard(pipe, ClassifierFree(7.0)):
            assert torch.equal(case.generate(pipe, steps=2), expected)
        with guard(pipe, TransitionPoint(7.0, before=0.0, at=0.5)):
            held = case.generate(pipe, steps=2)
        assert held.dtype == expected.dtype
        assert torch.isfinite(held).all()
        assert not torch.equal(held, expected)

    def test_an_embedder_of_another_sense_is_refused(self, name):
        case, pipe = CASES[name], pipe_of(name)
        store = Pool(not case.images)
        method = AntiMemorization(store, store)
        with pytest.raises(UnsupportedPipeline, match="use an index and an embedder of"):
            guard(pipe, method).__enter__()

    def test_it_knows_its_length(self, name):
        sound = adapter_for(pipe_of(name)).adapter.sound
        assert (sound is None) == CASES[name].images
        if sound is not None:
            assert sound.longest_s(pipe_of(name)) > 0
            assert sound.sample_rate(pipe_of(name)) > 0
