"""Screening: plain guidance where the prompt does not pull, the method inside where it does."""

from dataclasses import replace

import pytest
import torch
from anechoic_lab.guidance import EmbeddingNoise
from support.amg_toy import RATIOS, XS, Toy, run_amg
from support.pipelines import make_pipe
from support.pool import Pool

from anechoic import guard
from anechoic.errors import BadSetting
from anechoic.guidance import (
    AntiMemorization,
    ClassifierFree,
    Progress,
    Screened,
    TransitionPoint,
)
from anechoic.guidance.step import Guided, Record

PROMPTS = ["low cello note", "a dog barks"]


def made(pipe, guidance):
    with guard(pipe, guidance) as trace:
        latents = pipe(
            PROMPTS,
            num_inference_steps=4,
            guidance_scale=7.0,
            generator=[torch.Generator().manual_seed(0) for _ in PROMPTS],
            output_type="latent",
        ).audios
    return latents, trace


def test_the_screen_is_the_norm_on_pure_noise_and_asks_once():
    toy, asked = Toy(), []
    plain = toy.step(XS, 2.0)

    def denoise(x, condition, rows=None):
        asked.append((x, condition))
        return plain.denoise(x, condition)

    step = replace(plain, denoise=denoise, progress=0.5)
    method = Screened(TransitionPoint(before=0.0, at=1.0), over=0.0, at=0.5, seed=3)
    answer = method(step)
    (z, first), (again, second) = asked
    assert (first, second) == ("cond", "uncond")
    assert torch.equal(z, again)
    expected = torch.randn(XS.shape[1:], generator=torch.Generator().manual_seed(3))
    assert torch.equal(z, expected.to(z).expand_as(z))  # pure noise, of unit variance here
    pull = plain.denoise(z, "cond") - plain.denoise(z, "uncond")
    d = pull.flatten(1).norm(dim=1) / step.noise.ratio
    for over, suspected in ((d.min().item() * 0.99, True), (d.max().item() * 1.01, False)):
        told = Screened(ClassifierFree(), over, at=0.5, seed=3)(step).notes["suspected"]
        assert told.tolist() == [suspected] * len(XS)
    asked.clear()
    record = Record(0.5, step.noise, step.distance, answer.scales(len(XS)), notes=answer.notes)
    later = replace(step, progress=0.6, history=(record,))
    assert torch.equal(method(later).notes["suspected"], answer.notes["suspected"])
    assert asked == []


def test_nobody_suspected_is_plain_guidance_and_everybody_the_method_inside():
    toy = Toy()
    amg = AntiMemorization(toy, toy, lambda_min=0.3, lambda_max=0.3, every=2)
    nobody = run_amg(Unscreened(Screened(amg, over=1e9, at=0.0)), toy, XS)[0]
    plain = torch.stack([ClassifierFree()(s).x0(s) for s in steps(toy)])
    assert torch.equal(nobody, plain)
    everybody = run_amg(Screened(amg, over=0.0, at=0.0), toy, XS)
    for screened, own in zip(everybody, run_amg(amg, toy, XS), strict=True):
        torch.testing.assert_close(screened, own, equal_nan=True)


class Unscreened:
    """With the notes that `run` looks for, where nobody was compared."""

    def __init__(self, method):
        self.method = method

    def __call__(self, step):
        answer, none = self.method(step), torch.zeros(len(step.x))
        empty = {"similarity": none * torch.nan, "gate": none.bool()}
        return Guided(answer.scale, answer.delta, {**empty, **answer.notes})


def steps(toy):
    for k, ratio in enumerate(RATIOS):
        step = toy.step(XS * (1 + ratio), ratio)
        yield replace(step, progress=k / len(RATIOS))


def test_each_sample_of_a_generation_is_screened_and_guided_by_itself():
    """Between the two prompts' norms one is suspected; it is guided as if it were alone, with its
    own history, and the other is left as it was."""
    pool, pulls = Pool(), []
    inside = AntiMemorization(pool, pool, lambda_min=-1.0, lambda_max=-1.0, gradient="x0")
    plain, _ = made(make_pipe(), ClassifierFree())

    class Spy(Screened):
        def _suspected(self, step):
            if not pulls:
                z = torch.randn(step.x.shape[1:], generator=torch.Generator().manual_seed(0))
                z = z.expand_as(step.x)
                pull = step.denoise(z, "cond") - step.denoise(z, "uncond")
                pulls.extend((pull.flatten(1).norm(dim=1) / step.noise.ratio).tolist())
            return super()._suspected(step)

    everybody, _ = made(make_pipe(), Spy(inside, over=0.0, at=Progress(0.5)))
    between = sum(pulls) / 2
    one, trace = made(make_pipe(), Screened(inside, over=between, at=Progress(0.5)))
    suspected = [pull > between for pull in pulls]
    assert sorted(suspected) == [False, True]
    assert trace.column("suspected").tolist() == [[False] * 2] * 2 + [suspected] * 2
    for i, told in enumerate(suspected):
        expected = (everybody if told else plain)[i]
        torch.testing.assert_close(one[i], expected, rtol=1e-3, atol=1e-4)
    assert [record.passes for record in trace.records] == [2.0, 2.0, 4.5, 2.5]


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"over": -1.0}, "expected over, a norm"), ({"over": float("nan")}, "expected over, a norm"),
     ({"over": 1.0, "guidance": EmbeddingNoise()}, "changes the prompt")],
)  # fmt: skip
def test_a_setting_out_of_range_is_refused(settings, says):
    with pytest.raises(BadSetting, match=says):
        Screened(**{"guidance": ClassifierFree(), **settings})
