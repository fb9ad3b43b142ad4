"""Steps held to their ordinary size: the clamp itself, its statistics, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from anechoic_lab.guidance import StepClamp, StepStatistics, measure_steps
from anechoic_lab.guidance.clamp import step_norm
from support.amg_toy import gaussian_mixture_step
from support.pipelines import require_alone_as_together

from anechoic import guard
from anechoic.diffusers.pipelines import call_arguments
from anechoic.errors import BadSetting, GuardError
from anechoic.guidance import ClassifierFree
from anechoic.guidance.step import Guided

POINTS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
X = torch.tensor([[0.4, 0.1], [-0.3, -0.6]], dtype=torch.float64)
STEP = gaussian_mixture_step(POINTS, X, 0.7)
SNR = STEP.noise.log_snr
FIRST = StepStatistics((SNR, SNR + 5), (1.0, 1.0), (0.1, 0.1), 1.0, 7.0, 2)  # STEP is not the last


def test_a_step_is_held_to_the_mean_and_its_deviations():
    norms = step_norm(STEP, STEP.cond)
    known = replace(FIRST, mean=(norms[0].item(), 1.0), std=(0.01, 0.1))
    guided = StepClamp(known, gamma=2.0)(STEP)
    held = step_norm(STEP, guided.x0(STEP))
    bound = norms[0] + 0.02 * (norms[1] - norms[0]).sign()
    torch.testing.assert_close(held, torch.stack([norms[0], bound]))
    assert guided.notes["clamped"].tolist() == [False, True]
    away, before = (X / STEP.noise.alpha - x0 for x0 in (guided.x0(STEP), STEP.cond))
    torch.testing.assert_close(torch.cosine_similarity(away, before), torch.ones(2).double())


def test_steps_within_their_deviations_are_plain_guidance():
    guided = StepClamp(replace(FIRST, std=(100.0, 100.0)))(STEP)
    assert guided.delta is None
    assert guided.scale == 7.0


def test_the_last_estimate_has_the_ordinary_norm():
    known = StepStatistics((SNR,), (1.0,), (100.0,), 3.0, 7.0, 2)
    x0 = StepClamp(known)(STEP).x0(STEP)
    torch.testing.assert_close(x0.norm(dim=1), torch.full((2,), 3.0).double())
    torch.testing.assert_close(torch.cosine_similarity(x0, STEP.cond), torch.ones(2).double())


@pytest.fixture
def measured(pipe):
    arguments = call_arguments(pipe, 7.0, 6) | {"output_type": "latent"}
    return measure_steps(pipe, ["low cello note", "rain on a roof"], arguments, 7.0, seeds=(0, 1))


def test_the_measured_mean_is_that_of_plain_generations(pipe, measured):
    norms = []

    def seen(step):
        norms.append(step_norm(step, Guided(7.0).x0(step)))
        return Guided(7.0)

    for prompt in ("low cello note", "rain on a roof"):
        for seed in (0, 1):
            with guard(pipe, seen):
                pipe(prompt, num_inference_steps=6, output_type="latent",
                     generator=torch.Generator().manual_seed(seed))  # fmt: skip
    table = torch.stack(norms).reshape(4, 6)
    assert measured.mean == pytest.approx(table.mean(0).tolist(), rel=1e-3)
    assert measured.std == pytest.approx(table.std(0).tolist(), rel=1e-2, abs=1e-3)
    assert measured.samples == 4


def test_a_file_keeps_them(measured, tmp_path):
    measured.save(tmp_path / "steps.json")
    assert StepStatistics.load(tmp_path / "steps.json") == measured
    assert StepClamp(str(tmp_path / "steps.json")) == StepClamp(measured)


def test_a_generation_is_held_and_each_sample_by_itself(pipe, generate, measured):
    with guard(pipe, ClassifierFree(7.0)):
        plain = generate(pipe)
    method = StepClamp(measured, gamma=0.1)
    with guard(pipe, method) as trace:
        assert not torch.equal(generate(pipe), plain)
    assert trace.column("clamped").any()
    require_alone_as_together(method, pipe, generate)


def test_another_schedule_is_refused(pipe, generate, measured):
    with pytest.raises(GuardError, match="no evaluation at log-SNR"), guard(
        pipe, StepClamp(measured)
    ):  # fmt: skip
        generate(pipe, steps=5)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "expected statistics of steps"),
        ("[", "expected statistics of steps"),
        (
            '{"log_snr": [1], "mean": [], "std": [1], "final": 1, "scale": 7, "samples": 2}',
            "different lengths",
        ),
    ],
)
def test_a_file_of_something_else_is_refused(content, says, tmp_path):
    (tmp_path / "steps.json").write_text(content)
    with pytest.raises(BadSetting, match=says):
        StepClamp(str(tmp_path / "steps.json"))


def test_what_cannot_be_is_refused(pipe, tmp_path):
    with pytest.raises(BadSetting, match="gamma above 0"):
        StepClamp(FIRST, gamma=0.0)
    with pytest.raises(BadSetting, match="the scale of the statistics"):
        StepClamp(FIRST, scale=3.0)
    with pytest.raises(BadSetting, match="expected statistics"):
        StepClamp(str(tmp_path / "none.json"))
    with pytest.raises(BadSetting, match="two samples"):
        measure_steps(pipe, ["a dog barks"], {}, 7.0)
