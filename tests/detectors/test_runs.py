"""What is told of a run without its sound: sizes and angles, and screening by them."""

from __future__ import annotations

import math

import pytest
import torch
from support.pipelines import CAPTIONS, make_pipe

from anechoic.audit.screen import LOOKS, Look, look_at, screen
from anechoic.detectors import Angle, AngleRecorder, Magnitude, RunDetector, alignment, magnitudes
from anechoic.diffusers import guard
from anechoic.errors import BadSetting, GuardError, UnsupportedPipeline
from anechoic.guidance import ClassifierFree
from anechoic.guidance.noise import NoiseLevel
from anechoic.guidance.step import Record, Step


def step(noise: NoiseLevel, x, cond, uncond) -> Step:
    return Step(
        x=x, noise=noise, cond=cond, uncond=uncond, progress=0.0, history=(),
        denoise=lambda x, condition: x, decode=lambda x0, rows=None: x0, sample_rate=16_000,
    )  # fmt: skip


def record(distance: float, ratio: float, **notes: float) -> Record:
    return Record(
        progress=0.0,
        noise=NoiseLevel.from_ratio(ratio),
        distance=torch.tensor([distance, 2 * distance]),
        scale=torch.ones(2),
        notes={name.replace("_", " "): torch.tensor([v, -v]) for name, v in notes.items()},
    )


# ------------------------------------------------------------------------------ closed forms


def test_a_size_in_x0_space_is_that_in_eps_space_by_the_noise_ratio() -> None:
    records = [record(1.0, 500.0), record(3.0, 0.5)]
    assert magnitudes(records, "eps")[:, 0].tolist() == [1.0, 3.0]
    assert magnitudes(records, "x0")[:, 0].tolist() == pytest.approx([500.0, 1.5])


def test_a_magnitude_is_the_mean_over_the_evaluations_that_were_asked_for() -> None:
    records = [record(1.0, 1.0), record(3.0, 1.0), record(8.0, 1.0)]
    for count, expected in ((1, 1.0), (2, 2.0), (None, 4.0)):
        scores = [finding.score for finding in Magnitude(count)(records)]
        assert scores == [expected, 2 * expected]


@pytest.mark.parametrize("ratio", [0.1, 3.0])
@pytest.mark.parametrize("cosine", [1.0, 0.0, -0.6])
def test_alignment_is_the_cosine_between_guidance_vector_and_score(ratio, cosine) -> None:
    """Built from noise predictions with a known angle: s = -eps / sigma, so the signs cancel."""
    noise = NoiseLevel.from_ratio(ratio)
    rng = torch.Generator().manual_seed(0)
    x, eps, other = (torch.randn(2, 3, 8, generator=rng, dtype=torch.float64) for _ in range(3))
    unit = eps / eps.flatten(1).norm(dim=1)[:, None, None]
    aside = other - (other * unit).sum((1, 2), keepdim=True) * unit
    aside = aside / aside.flatten(1).norm(dim=1)[:, None, None]
    pull = 0.3 * (cosine * unit + math.sqrt(1 - cosine**2) * aside)
    halves = [noise.to_x0(x, half, "epsilon") for half in (eps + pull, eps)]
    found = alignment(step(noise, x, *halves))
    torch.testing.assert_close(found, torch.full((2,), cosine), atol=1e-5, rtol=0)


def test_alignment_with_the_estimate_is_the_cosine_in_x0_space() -> None:
    u = torch.tensor([[[3.0, 0.0]], [[0.0, 2.0]]])
    c = u + torch.tensor([[[1.0, 1.0]], [[0.0, -1.0]]])
    found = alignment(step(NoiseLevel.from_ratio(1.0), u, c, u), "estimate")
    torch.testing.assert_close(found, torch.tensor([0.5**0.5, -1.0]))


def test_an_angle_is_the_mean_over_low_noise_alone() -> None:
    records = [record(1.0, 9.0, alignment=-1.0)] + [
        record(1.0, 0.1, alignment=value, estimate_alignment=-value) for value in (0.2, 0.4)
    ]
    for against in ("score", "estimate"):
        scores = [finding.score for finding in Angle(against=against)(records)]
        assert scores == pytest.approx([0.3, -0.3])


@pytest.mark.parametrize(
    ("detector", "records"),
    [
        (Magnitude(2), [record(1.0, 1.0)]),
        (Magnitude(None), []),
        (Magnitude(1), [record(math.nan, 1.0)]),
        (Angle(), [record(1.0, 9.0, alignment=0.1)]),
        (Angle(), [record(1.0, 0.1)]),
    ],
)
def test_records_that_do_not_hold_what_is_needed_are_refused(detector, records) -> None:
    with pytest.raises(GuardError, match=r"expected|NaN"):
        detector(records)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(Magnitude, {"evaluations": 0}), (Magnitude, {"space": "v"}), (Angle, {"against": "x"})],
)
def test_settings_that_cannot_be_are_refused(kind, settings) -> None:
    with pytest.raises(BadSetting):
        kind(**settings)


def test_names_tell_settings_apart() -> None:
    made = [Magnitude(1), Magnitude(2), Magnitude(1, "x0")]
    made += [Angle(), Angle(0.5), Angle(against="estimate")]
    assert len({detector.name for detector in made}) == len(made)
    assert all(isinstance(detector, RunDetector) for detector in made)


# ------------------------------------------------------------------------ on a real pipeline


def test_watching_a_guidance_changes_no_bit_of_what_it_makes(pipe, generate) -> None:
    plain = generate(pipe)
    with guard(pipe, AngleRecorder(ClassifierFree(7.0))) as trace:
        watched = generate(pipe)
    assert torch.equal(plain, watched)
    assert set(trace.records[-1].notes) == {"alignment", "estimate alignment"}


def test_a_guidance_that_answers_with_a_tensor_cannot_be_watched(pipe, generate) -> None:
    refused = pytest.raises(BadSetting, match="no room for notes")
    with refused, guard(pipe, AngleRecorder(lambda step: step.cond)):
        generate(pipe)


def test_the_first_look_is_the_first_record_of_a_whole_run(pipe, generate) -> None:
    with guard(pipe, ClassifierFree(7.0)) as trace:
        pipe(CAPTIONS[:2], num_inference_steps=6, guidance_scale=7.0, output_type="latent",
             generator=[torch.Generator().manual_seed(3) for _ in range(2)])  # fmt: skip
    first = look_at(pipe, CAPTIONS[:2], LOOKS["first-step"], [3], steps=6)
    assert first[:, 0].tolist() == trace.records[0].distance.tolist()


def test_a_look_costs_one_evaluation_and_leaves_the_pipeline_as_it_was(pipe, generate) -> None:
    before, scheduler, calls = generate(pipe), pipe.scheduler, []
    handle = pipe.transformer.register_forward_hook(lambda *args: calls.append(1))
    look_at(pipe, CAPTIONS[:2], LOOKS["magnitude"], [0])
    handle.remove()
    assert len(calls) == 1
    assert pipe.scheduler is scheduler
    assert torch.equal(generate(pipe), before)


def test_a_look_at_a_level_shows_pure_noise_at_that_level(pipe) -> None:
    seen: list[Step] = []

    class Spy:
        name = "spy"

        def __call__(self, records):
            seen.extend(records)
            return Magnitude(1)(records)

    look_at(pipe, CAPTIONS[:1], Look(Spy(), log_snr=-3.0), [0])
    assert seen[0].noise.log_snr == pytest.approx(-3.0, abs=1e-5)


def test_a_prompt_is_scored_alone_whatever_stands_beside_it(pipe) -> None:
    together = look_at(pipe, CAPTIONS, LOOKS["angle"], [0, 1])
    alone = torch.cat([look_at(pipe, [prompt], LOOKS["angle"], [0, 1]) for prompt in CAPTIONS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_a_run_is_looked_at_to_its_end(pipe, generate) -> None:
    look = Look(Magnitude(None), evaluations=None)
    with guard(pipe, ClassifierFree(7.0)) as trace:
        pipe(CAPTIONS[:1], num_inference_steps=6, guidance_scale=7.0, output_type="latent",
             generator=[torch.Generator().manual_seed(0)])  # fmt: skip
    whole = look_at(pipe, CAPTIONS[:1], look, [0], steps=6)
    assert whole.item() == pytest.approx(trace.column("distance").mean().item())


def test_screening_ranks_by_the_p_value_against_ordinary_prompts(pipe) -> None:
    words = ("low", "high", "cello", "flute", "note", "dog", "barks", "rain", "roof")
    pool = [f"{a} {b}" for a in words for b in words]
    scores = look_at(pipe, pool, LOOKS["magnitude"], range(2)).mean(1)
    order = scores.argsort().tolist()
    ordinary = [pool[i] for i in order[:-2:4]]  # 20 of 81, not the two highest
    asked = [pool[i] for i in (order[5], order[-1], order[-2], order[-3])]
    rows = screen(pipe, asked, ordinary=ordinary, seeds=range(2), false_positive_rate=0.1)
    assert [row.prompt for row in rows] == [asked[1], asked[2], asked[3], asked[0]]
    known = scores[[pool.index(prompt) for prompt in ordinary]]
    for row in rows:
        score = row.scores["magnitude"]
        assert score == pytest.approx(scores[pool.index(row.prompt)].item(), abs=1e-5)
        expected = (1 + int((known >= score).sum())) / (len(ordinary) + 1)
        assert row.p_values["magnitude"] == expected
        assert row.over == (expected <= 0.1)
    assert [row.over for row in rows] == [True, True, True, False]


def test_without_ordinary_prompts_nothing_is_judged(pipe) -> None:
    rows = screen(pipe, CAPTIONS[:2], looks={"first-step": LOOKS["first-step"]}, seeds=[0])
    assert all((row.over, dict(row.p_values)) == (None, {}) for row in rows)
    assert rows[0].scores["first-step"] >= rows[1].scores["first-step"]


def test_prompts_that_cannot_be_screened_are_refused(pipe) -> None:
    for prompts, ordinary, rate in (
        ([], [], 0.05),
        (["a dog", " "], [], 0.05),
        (["a dog"], ["a dog", "a cat"], 0.4),
        (["a dog"], ["a cat"] * 3, 0.05),
    ):
        with pytest.raises(BadSetting):
            screen(pipe, prompts, ordinary=ordinary, false_positive_rate=rate)


def test_a_scheduler_that_cannot_be_started_at_a_level_is_refused() -> None:
    from diffusers import DDIMScheduler

    pipe = make_pipe(DDIMScheduler(prediction_type="v_prediction"))
    with pytest.raises(UnsupportedPipeline, match="first-step"):
        look_at(pipe, CAPTIONS[:1], LOOKS["magnitude"], [0])
    assert look_at(pipe, CAPTIONS[:1], LOOKS["first-step"], [0], steps=4).isfinite().all()


def test_a_look_at_a_level_of_its_own_is_one_evaluation() -> None:
    with pytest.raises(BadSetting, match="one evaluation"):
        Look(Magnitude(2), log_snr=-3.0, evaluations=2)
