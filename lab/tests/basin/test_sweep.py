"""The sweep of attraction basins: its closed forms on a tiny, real pipeline, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from anechoic_lab.basin.claims import basin_end, claims, curve, fall_width, sentence
from anechoic_lab.basin.plot import plot
from anechoic_lab.basin.sweep import (
    FALL,
    Course,
    ScoredBatch,
    Scorer,
    Sweep,
    SweptSample,
    spaced,
    sweep,
)
from anechoic_lab.bench import BenchPrompt
from diffusers import CosineDPMSolverMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st
from support.pipelines import CAPTIONS, make_pipe

from anechoic import guard
from anechoic.errors import BadSetting, OutputExists
from anechoic.guidance import DynamicTransition
from anechoic.guidance.base import Guidance
from anechoic.guidance.step import Guided, Step
from anechoic.guidance.triggers import first_fall, first_minimum
from anechoic.verdict import Rule

STEPS = 6
PROMPTS = [
    BenchPrompt(CAPTIONS[0], CAPTIONS[0], "memorized"),
    BenchPrompt(CAPTIONS[1], CAPTIONS[1], "memorized"),
    BenchPrompt(CAPTIONS[2], CAPTIONS[2], "ordinary"),
]


class Tiny:
    """Generates latents with the tiny pipeline; their score is their mean."""

    def __init__(self, pipe=None, steps: int = STEPS) -> None:
        self.pipe, self.steps = pipe or make_pipe(), steps
        self.calls = 0

    def call(self, captions: Sequence[str], seed: int) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for _ in captions]
        return self.pipe(
            list(captions), num_inference_steps=self.steps, guidance_scale=7.0,
            generator=generators, output_type="latent",
        ).audios  # fmt: skip

    def __call__(self, captions: Sequence[str], seed: int, guidance: Guidance) -> ScoredBatch:
        self.calls += 1
        with guard(self.pipe, guidance) as trace:
            made = self.call(captions, seed)
        return ScoredBatch([{"mean": one.mean().item()} for one in made], trace.records)


def swept(tiny: Tiny, **settings) -> Sweep:
    return sweep(tiny, PROMPTS, (0, 1), **{"scale": 7.0, "points": 4, "batch": 3} | settings)


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="module")
def found(tiny: Tiny) -> Sweep:
    return swept(tiny)


# ------------------------------------------------------------------------------------- the sweep


def test_guidance_from_step_0_is_the_plain_pipeline_bit_for_bit(tiny: Tiny, found: Sweep) -> None:
    captions = [p.caption for p in PROMPTS]
    plain = tiny.call(captions, 0)
    for before in (0.0, -1.0):
        first = [t.scores for t in found.takes if (t.seed, t.before, t.step) == (0, before, 0)]
        assert first == [{"mean": one.mean().item()} for one in plain]


@pytest.mark.parametrize("before", [0.0, -1.0])
def test_guidance_that_never_starts_is_the_one_before_it_all_along(
    tiny: Tiny, found: Sweep, before: float
) -> None:
    captions = [p.caption for p in PROMPTS]
    held = tiny(captions, 1, lambda step: Guided(before)).scores
    last = [t.scores for t in found.takes if (t.seed, t.before, t.step) == (1, before, STEPS)]
    assert last == held


def test_each_step_starts_guidance_at_that_evaluation(tiny: Tiny, found: Sweep) -> None:
    """By hand: guidance -1 at the first k evaluations, and 7 at the others."""
    captions = [p.caption for p in PROMPTS]
    for k in found.steps:
        by_hand = tiny(captions, 0, lambda step, k=k: Guided(7.0 if len(step.history) >= k else -1))
        takes = [t.scores for t in found.takes if (t.seed, t.before, t.step) == (0, -1.0, k)]
        assert takes == by_hand.scores


def test_a_sweep_is_deterministic_and_tells_its_progress(found: Sweep) -> None:
    told: list[tuple[int, int]] = []
    assert found == swept(Tiny(), progress=lambda done, total: told.append((done, total)))
    assert found.steps == [0, 2, 4, 6]
    # 3 prompts, 2 seeds: one plain run, and three more under each of two guidances
    assert told == [(done, 42) for done in range(3, 43, 3)]
    assert len(found.takes) == 3 * 2 * 2 * 4
    assert len(found.courses) == 3 * 2 * 3


def test_what_stands_beside_a_prompt_in_the_batch_does_not_change_it(
    tiny: Tiny, found: Sweep
) -> None:
    def by_key(sweep: Sweep) -> dict:
        return {(t.prompt, t.seed, t.before, t.step): t.scores["mean"] for t in sweep.takes}

    alone = by_key(swept(tiny, batch=1, points=2))
    together = {key: value for key, value in by_key(found).items() if key in alone}
    # the network's own sums differ in their last bits with the size of a batch
    assert together == pytest.approx(alone, rel=1e-4, abs=1e-6)


def test_the_norm_along_a_run_is_that_of_c_minus_u(tiny: Tiny, found: Sweep) -> None:
    seen = []

    def watched(step: Step) -> Guided:
        seen.append((step.cond - step.uncond).flatten(1).norm(dim=1))
        return Guided(7.0)

    tiny([p.caption for p in PROMPTS], 0, watched)
    plain = [c for c in found.courses if (c.guidance, c.seed) == (7.0, 0)]
    norms = torch.tensor([course.norm for course in plain]).T
    assert torch.allclose(norms, torch.stack(seen), rtol=1e-5)
    eps = norms[0] / 500  # the schedule starts at sigma/alpha = 500
    assert torch.allclose(torch.tensor([c.distance[0] for c in plain]), eps, rtol=1e-5)


def test_a_courses_edges_are_where_the_dynamic_transition_switches() -> None:
    # a schedule on which this network's runs have edges, and some have none
    scheduler = CosineDPMSolverMultistepScheduler(
        sigma_min=0.3, sigma_max=3, sigma_data=1.0, sigma_schedule="exponential",
        prediction_type="v_prediction", solver_order=2,
    )  # fmt: skip
    tiny = Tiny(make_pipe(scheduler), steps=8)
    courses = [c for c in swept(tiny, points=2).courses if c.guidance == 0.0]
    for name, fall in (("fall", 0.5), ("minimum", None)):
        wanted: list[int | None] = []
        for seed in (0, 1):
            with guard(tiny.pipe, DynamicTransition(7.0, before=0.0, fall=fall)) as trace:
                tiny.call([p.caption for p in PROMPTS], seed)
            rows = trace.column("switched").T
            wanted += [int(row.int().argmax()) if row.any() else None for row in rows]
        assert [getattr(course, name) for course in courses] == wanted
        assert len(set(wanted)) > 1


def test_no_edge_is_none() -> None:
    assert first_minimum([3.0, 2.0, 2.0, 1.0]) is None
    assert first_fall([3.0, 2.0, 1.6], 0.5) is None


@given(st.integers(1, 200), st.integers(2, 60))
def test_sampled_steps_go_from_first_to_last_evenly(evaluations: int, points: int) -> None:
    steps = spaced(evaluations, points)
    assert (steps[0], steps[-1]) == (0, evaluations)
    assert len(steps) == min(points, evaluations + 1)
    gaps = {b - a for a, b in pairwise(steps)}
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    "settings",
    [
        {"befores": (0.0, 7.0)},
        {"befores": (0.0, 0.0)},
        {"befores": ()},
        {"points": 1},
        {"batch": 0},
        {"scale": 1.0, "befores": (0.0,)},
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_before_work(tiny: Tiny, settings) -> None:
    before = tiny.calls
    with pytest.raises(BadSetting, match="got"):
        swept(tiny, **settings)
    assert tiny.calls == before


@pytest.mark.parametrize("prompts", [PROMPTS[2:], PROMPTS[:1] * 2, [BenchPrompt("a", "a", "x")]])
def test_prompts_that_cannot_be_swept_are_refused(tiny: Tiny, prompts) -> None:
    with pytest.raises(BadSetting, match="got"):
        sweep(tiny, prompts, (0,), scale=7.0)


# -------------------------------------------------------------------------------- what it says


def judge_at(threshold: float | None) -> Scorer:
    rule = None if threshold is None else Rule("mel", threshold, "it was given")
    return Scorer("mel", "to the own clip", rule)


JUDGE = judge_at(0.9)
EVALUATIONS = 10


def made(
    similarity: Callable[[str, float, int], float],
    norm: Callable[[str, float, int], float],
    prompts: int = 4,
) -> Sweep:
    """A sweep whose similarity and ||c - u|| are given, of group, guidance and step."""
    log_snr = [float(k - 5) for k in range(EVALUATIONS)]
    asked = [BenchPrompt(f"{g}{i}", f"{g}{i}", g) for g in ("memorized", "ordinary")
             for i in range(prompts)]  # fmt: skip
    steps = list(range(EVALUATIONS + 1))
    takes = [
        SweptSample(p.id, p.group, 0, before, k, {"mel": similarity(p.group, before, k)})
        for p in asked for before in (0.0, -1.0) for k in steps
    ]  # fmt: skip
    courses = []
    for p in asked:
        for guidance in (2.0, 0.0, -1.0):
            # a hair apart, as prompts are
            norms = [norm(p.group, guidance, k) + 0.001 * int(p.id[-1]) for k in range(EVALUATIONS)]
            edges = (first_minimum(norms), first_fall(norms, FALL))
            courses.append(Course(p.id, p.group, 0, guidance, norms, norms, *edges))
    return Sweep(2.0, (0.0, -1.0), steps, log_snr, [0], asked, takes, courses)


def basin(group: str, guidance: float) -> int:
    """As the paper says: a memorized prompt's ends at step 6, under opposite guidance at 4."""
    return 4 if guidance < 0 else 6


@cache
def as_the_paper_says() -> Sweep:
    return made(
        lambda group, before, k: 0.99 if group == "memorized" and k < basin(group, before) else 0.3,
        lambda group, guidance, k: (
            (50.0 if k < basin(group, guidance) else 5.0)
            if group == "memorized"
            else 20.0 - 1.9 * k
        ),
    )


def test_where_all_is_as_the_paper_says_its_claims_are_reproduced() -> None:
    assert [claim.verdict for claim in claims(as_the_paper_says(), JUDGE)] == ["reproduced"] * 3


def test_where_memorized_prompts_are_like_others_no_claim_is_reproduced() -> None:
    flat = made(lambda group, before, k: 0.95, lambda group, guidance, k: 20.0 - 1.9 * k)
    assert [c.verdict for c in claims(flat, JUDGE)] == ["not reproduced"] * 3


def test_few_prompts_tell_of_no_claim() -> None:
    few = made(lambda *_: 0.95, lambda group, guidance, k: 20.0 - 1.9 * k, prompts=3)
    assert {c.verdict for c in claims(few, JUDGE)} == {"too few prompts to tell"}


def test_without_a_threshold_or_a_copy_replication_cannot_be_tested() -> None:
    found = as_the_paper_says()
    no_copy = made(lambda *_: 0.3, lambda group, guidance, k: 20.0 - 1.9 * k)
    assert claims(found, judge_at(None))[1].verdict == "not testable here"
    assert claims(no_copy, JUDGE)[1].verdict == "not testable here"


def test_a_basin_ends_at_the_first_step_from_which_on_nothing_is_a_copy() -> None:
    found = as_the_paper_says()
    assert [basin_end(found, JUDGE, before) for before in (0.0, -1.0)] == [6, 4]
    back = made(lambda g, b, k: 0.95 if k in (0, 1, 7) else 0.5, lambda *_: 1.0)
    assert basin_end(back, JUDGE, 0.0) == 8  # not 2: a later start returned it again
    assert basin_end(back, judge_at(0.2), 0.0) is None
    assert basin_end(back, judge_at(0.99), 0.0) == 0


def test_the_sentence_says_where_by_the_data() -> None:
    found = as_the_paper_says()
    text = sentence(found, JUDGE, 0.0)
    for part in (
        "zero CFG",
        "0.99 under plain CFG",
        "step 6 (log-SNR 1.0)",
        "before, 5, it is 0.99",
    ):
        assert part in text
    nowhere = sentence(found, judge_at(1.0), 0.0)
    assert nowhere.endswith("wherever CFG starts. No single generation is a copy.")
    assert "even if CFG starts at step 10" in sentence(found, judge_at(0.1), 0.0)
    never = made(lambda g, b, k: 0.95 if k < EVALUATIONS else 0.5, lambda *_: 1.0)
    assert "only if CFG never starts" in sentence(never, JUDGE, 0.0)
    unjudged = sentence(found, judge_at(None), -1.0)
    assert "no calibrated threshold" in unjudged
    assert "from 0.99 to 0.30, as the start of CFG moves from step 3" in unjudged


def test_a_curve_is_the_mean_over_prompts_and_seeds() -> None:
    found = as_the_paper_says()
    takes = [replace(t, scores={"mel": float(t.prompt[-1])}) for t in found.takes]
    points = curve(replace(found, takes=takes), "mel", "memorized", 0.0)
    assert [point.mean for point in points] == [1.5] * 11  # of 0, 1, 2 and 3
    assert (points[0].low, points[0].high) == pytest.approx((0.3, 2.7))


@given(st.floats(0.01, 100))
def test_the_width_of_a_fall_does_not_depend_on_its_height(factor: float) -> None:
    course = as_the_paper_says().courses[-1]
    scaled = replace(course, norm=[factor * value for value in course.norm])
    log_snr = [float(k) for k in range(EVALUATIONS)]
    assert fall_width(scaled, log_snr) == fall_width(course, log_snr)


# ----------------------------------------------------------------------------------- the figure


def test_the_figure_is_the_same_for_the_same_sweep_and_not_replaced(tmp_path: Path) -> None:
    found = as_the_paper_says()
    one, two = (plot(tmp_path / name, found, [JUDGE]) for name in ("one.svg", "two.svg"))
    assert one.read_bytes() == two.read_bytes()
    with pytest.raises(OutputExists):
        plot(one, found, [JUDGE])
    with pytest.raises(BadSetting, match="known format"):
        plot(tmp_path / "figure.jpg", found, [JUDGE])
