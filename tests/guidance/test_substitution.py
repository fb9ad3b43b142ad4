"""Caption substitution: a caption that leads to a training clip gives way to another."""

import math
from dataclasses import replace

import pytest
import torch
from support.amg_toy import Identity, gaussian_mixture_step

from anechoic.errors import BadSetting, GuardError
from anechoic.guidance import CaptionSubstitution, ClassifierFree
from anechoic.guidance.noise import NoiseLevel
from anechoic.guidance.similarity import read_off
from anechoic.guidance.step import Prompt, Record
from anechoic.guidance.substitution import BESIDE, SUBSTITUTE, substitutes
from anechoic.guidance.triggers import LogSNR

POINTS = torch.tensor(
    [[2.0, 1.0], [1.2, 1.8], [1.0, 2.2], [-2.0, 0.4], [0.5, -2.0]], dtype=torch.float64
)
CAPTIONS = ["low cello note", "low viola note", "a dog barks", "rain", "low cello"]
BLUR = torch.tensor([1.0, -0.1], dtype=torch.float64)  # near no training point


class Store(Identity):
    """Training points with captions."""

    def __init__(self):
        super().__init__(POINTS)
        self.captions = CAPTIONS

    def nearest_others(self):
        return torch.tensor([0.5, 0.9])


def step_of(cond, estimates, uncond=None):
    """A step whose conditional estimates are given, and those under other captions, too."""
    step = gaussian_mixture_step(POINTS, torch.zeros(len(cond), 2).double(), sigma=10.0)
    uncond = torch.zeros_like(cond) if uncond is None else uncond
    asked = []

    def denoise(x, captions, rows=None):
        asked.extend(captions)
        return torch.stack([estimates.get(caption, BLUR) for caption in captions])

    return replace(step, cond=cond, uncond=uncond, denoise=denoise), asked


def method(captions=CAPTIONS, **settings):
    store = Store()
    store.captions = captions
    return CaptionSubstitution(store, store, 3.0, **{"opens": 0.97, **settings})


def test_a_caption_that_leads_to_no_clip_is_classifier_free_guidance_bit_for_bit():
    step, asked = step_of(BLUR[None].clone(), {})
    answer = method()(step)
    assert (answer.delta, asked) == (None, [])
    assert torch.equal(answer.x0(step), ClassifierFree(3.0)(step).x0(step))
    assert not answer.notes["gate"].any()


def test_a_memorized_caption_gives_way_to_the_one_with_most_words_in_common():
    step, asked = step_of(POINTS[:1].clone(), {})
    answer = method()(step)
    assert asked == ["low cello"]  # of a clip farther away than that of the dog
    assert answer.notes[SUBSTITUTE].tolist() == [4]
    torch.testing.assert_close(answer.x0(step), 3.0 * BLUR[None])  # guided by its estimate


def test_a_caption_that_leads_to_a_clip_itself_is_passed_over():
    step, asked = step_of(POINTS[:1].clone(), {"low cello": POINTS[4]})
    answer = method()(step)
    assert asked == ["low cello", "low viola note"]
    assert answer.notes[SUBSTITUTE].tolist() == [1]


def test_near_duplicates_of_the_clip_are_no_candidates():
    step, asked = step_of(POINTS[1:2].clone(), {})  # the dog's clip has a cosine of .995 to it
    method()(step)
    assert "a dog barks" not in asked


def test_without_captions_the_prompt_is_tried_without_some_of_its_words():
    step, asked = step_of(POINTS[:1].clone(), {"low cello": POINTS[0]})
    step = replace(step, texts=lambda: ["low cello note"])
    guidance = method(captions=[""] * 5)
    answer = guidance(step)
    assert asked == ["low cello", "cello note"]
    assert answer.notes[SUBSTITUTE].tolist() == [-3]
    record = Record(0.0, step.noise, step.distance, torch.ones(1), notes=answer.notes)
    assert substitutes([record], guidance, ["low cello note"]) == ["cello note"]
    torch.testing.assert_close(answer.x0(step), 3.0 * BLUR[None])


def test_without_any_other_prompt_it_says_that_it_cannot_act():
    step, _ = step_of(POINTS[:1].clone(), {})
    with pytest.raises(GuardError, match="not given as text"):
        method(captions=[""] * 5)(step)


def test_it_needs_no_unconditional_half():
    cond = POINTS[:1].clone()
    step, _ = step_of(cond, {}, cond * torch.nan)
    answer = method()(step)
    torch.testing.assert_close(step.guided(3.0) + answer.delta, BLUR[None])


def test_each_sample_stands_for_itself():
    cond = torch.stack([POINTS[0], BLUR])
    both = method()(step_of(cond, {})[0])
    for row in range(2):
        alone = method()(step_of(cond[row : row + 1], {})[0])
        assert alone.notes[SUBSTITUTE] == both.notes[SUBSTITUTE][row]
    assert torch.equal(both.delta[1], torch.zeros(2).double())


def test_comparisons_are_spaced_by_noise_level():
    step, _ = step_of(POINTS[:1].clone(), {})
    first = method()(step)
    record = Record(0.0, step.noise, step.distance, torch.ones(1), notes=first.notes)
    soon = replace(step, history=(record,), memory=first.memory, noise=NoiseLevel.from_ratio(9.0))
    assert method()(soon).notes["similarity"].isnan().all()
    assert method()(soon).notes[SUBSTITUTE].tolist() == [4]  # and the caption stays
    later = replace(soon, noise=NoiseLevel.from_ratio(2.0), cond=BLUR[None])
    answer = method()(later)
    assert not answer.notes["similarity"].isnan().any()
    assert answer.notes[SUBSTITUTE].tolist() == [4]


def test_the_substitute_is_encoded_in_place_of_the_prompt():
    encoded = torch.zeros(2, 3, 4)
    seen = []

    def encode(texts):
        seen.extend(texts)
        return torch.ones(2, 3, 4)

    parts = dict.fromkeys(("mask", "x", "noise", "progress", "first", "denoise"))
    prompt = Prompt(
        encoded=encoded, texts=["a", "b"], seeds=(), encode=encode, words=list,
        memory={SUBSTITUTE: torch.tensor([0, 5])}, **parts,
    )  # fmt: skip
    changed = method().condition(prompt)
    assert torch.equal(changed, torch.stack([encoded[0], torch.ones(3, 4)]))
    assert seen == ["a", "low cello"]
    assert method().condition(replace(prompt, memory={})) is encoded


def test_its_threshold_is_read_off_the_index():
    store = Store()
    assert CaptionSubstitution(store, store).opens == pytest.approx(read_off(store, 0.95)[0])
    assert method().with_threshold(0.6).opens == 0.6


def compared(levels, estimate, **settings):
    """At which of these log-SNRs the conditional estimate is compared."""
    history, found = [], []
    for level in levels:
        noise = NoiseLevel.from_ratio(math.exp(-level / 2))
        step, _ = step_of(estimate[None].clone(), dict.fromkeys(CAPTIONS, POINTS[0]))
        step = replace(step, noise=noise, history=tuple(history))
        notes = method(**settings)(step).notes
        found += [] if notes["similarity"].isnan().any() else [level]
        nothing = torch.zeros(1)
        history.append(Record(0.0, noise, nothing, nothing, notes=notes))
    return found


def test_comparisons_are_dense_in_noise_and_end_where_signal_prevails():
    assert compared(range(-12, 13), BLUR, start=None) == [-12, -10, -8, -6, -4, -2, 1]
    assert compared([6, 7, 9, 12], BLUR) == [6]


def test_nothing_is_compared_before_the_start():
    assert compared(range(-12, 13), BLUR) == [-5, -3, -1]
    assert compared(range(-12, 13), POINTS[0], start=LogSNR(-8.0))[0] == -8


def test_a_run_that_ends_before_the_start_is_refused():
    step, _ = step_of(POINTS[:1].clone(), {})
    guidance = method(start=LogSNR(-2.0))
    record = Record(0.0, step.noise, step.distance, torch.ones(1), notes=guidance(step).notes)
    assert "choose an earlier one, or more steps" in guidance.idle([record])


# ------------------------------------------------------------------- a second sample beside the run

FAR = {"low viola note": torch.tensor([0.2, -1.0]).double(), "uncond": 0.8 * BLUR}
LEVELS = [NoiseLevel.from_ratio(ratio) for ratio in (1.5, 0.8, 0.4, 0.1)]


def drawn_by(x, caption, noise):
    """The toy's network: a sample that holds much of the first clip is drawn to it by every
    caption, and any other to a sound that depends on the caption, and a little on the sample."""
    estimate = FAR.get(caption, BLUR) + 0.1 * x
    held = x @ POINTS[0] > noise.alpha * 4.0
    return torch.where(held[:, None], POINTS[0], estimate)


def late_run(xs):
    """The answers of a run that first compares when the samples `xs` [b, 2] are formed."""
    guidance, answers, history, memory = method(watch=0.3), [], (), {}
    own = "low cello note"
    for noise in LEVELS:
        x = noise.alpha * POINTS[0] + noise.sigma * xs

        def denoise(x, condition, rows=None, noise=noise, memory=memory):
            if condition == "cond":
                found = memory[SUBSTITUTE][rows if rows is not None else slice(None)] - 1
                condition = [CAPTIONS[row] for row in found.tolist()]
            named = [condition] * len(x) if isinstance(condition, str) else condition
            return torch.cat([drawn_by(x[[i]], one, noise) for i, one in enumerate(named)])

        step = replace(
            gaussian_mixture_step(POINTS, x, sigma=1.0), noise=noise, denoise=denoise,
            cond=drawn_by(x, own, noise), uncond=drawn_by(x, "uncond", noise),
            history=history, memory=memory,
        )  # fmt: skip
        answers.append((step, guidance(step)))
        memory = answers[-1][1].memory
        history += (Record(0.0, noise, step.distance, torch.ones(len(xs)),
                           notes=answers[-1][1].notes),)  # fmt: skip
    return answers


def test_a_sample_that_holds_the_clip_starts_again_from_its_noise():
    noise = torch.tensor([[0.3, -0.9]], dtype=torch.float64)
    (step, answer), *_ = late_run(noise)
    assert answer.notes[BESIDE].tolist() == [True]
    assert answer.exact.tolist() == [True]
    level = step.noise
    pure = noise / noise.square().mean().sqrt()  # of unit variance, as this level's inputs are
    x = level.alpha * drawn_by(pure, "low cello", level) + level.sigma * noise
    cond, uncond = drawn_by(x, "low cello", level), drawn_by(x, "uncond", level)
    torch.testing.assert_close(answer.x0(step), uncond + 3.0 * (cond - uncond))


def test_the_second_sample_goes_on_by_ddim_under_its_caption():
    run = late_run(torch.tensor([[0.3, -0.9]], dtype=torch.float64))
    step, answer = run[0]
    estimate, eps = answer.x0(step), answer.memory["noise"]
    for step, answer in run[1:]:
        x = step.noise.alpha * estimate + step.noise.sigma * eps
        cond, uncond = (drawn_by(x, caption, step.noise) for caption in ("low cello", "uncond"))
        estimate = uncond + 3.0 * (cond - uncond)
        eps = (x - step.noise.alpha * estimate) / step.noise.sigma
        torch.testing.assert_close(answer.x0(step), estimate)
        assert answer.notes["similarity"].item() < 0.97  # of what it follows; compared to the end


def test_a_second_sample_does_not_touch_the_others_of_its_batch():
    near = torch.tensor([0.3, -0.9], dtype=torch.float64)
    away = -20 * POINTS[0]  # this one holds nothing of the clip
    both = late_run(torch.stack([near, away]))
    for row, noise in enumerate((near, away)):
        for (step, answer), (alone, own) in zip(both, late_run(noise[None]), strict=True):
            torch.testing.assert_close(answer.x0(step)[row], own.x0(alone)[0])
            assert answer.notes[BESIDE][row] == own.notes[BESIDE][0] == (row == 0)
    step, answer = both[-1]
    plain = ClassifierFree(3.0)(step).x0(step)
    assert torch.equal(answer.x0(step)[1], plain[1])


def test_where_all_captions_lead_to_a_clip_the_least_near_is_taken():
    led = {"low cello": POINTS[4], "low viola note": torch.tensor([1.1, 2.0]).double()}
    step, _ = step_of(POINTS[:1].clone(), dict.fromkeys(CAPTIONS, POINTS[0]) | led)
    answer = method(opens=0.5)(step)
    assert answer.notes[SUBSTITUTE].tolist() == [CAPTIONS.index("low cello")]


@pytest.mark.parametrize(
    "settings",
    [{"opens": 1.0}, {"start": 1.0}, {"watch": -1.0}, {"candidates": 0}, {"pool": 0}],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(BadSetting, match=next(iter(settings))):
        method(**settings)
