"""protect() on a tiny, real pipeline: the guard as a step, batches, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.model_folder import audible_pipe
from support.pipelines import CAPTIONS, make, make_pipe
from support.sounds import RATE

from anechoic import AntiMemorization, ClassifierFree, Guidance, TrainingIndex, embedder, protect
from anechoic.diffusers import fingerprint
from anechoic.diffusers.generate import generate
from anechoic.errors import BadSetting, IndexMismatch, UnsupportedPipeline
from anechoic.guidance.step import Guided, Step
from anechoic.guidance.substitution import SUBSTITUTE
from anechoic.index.clips import Sound
from anechoic.protection import Judge
from anechoic.protection.policy import seed_of_attempt

CALL = {"num_inference_steps": 6, "guidance_scale": 7.0, "output_type": "pt"}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return audible_pipe()


def plainly(pipe: Any, prompt: str, seed: int) -> torch.Tensor:
    return generate(pipe, prompt, seed, CALL).samples[0]


@pytest.fixture(scope="module")
def judge(pipe: Any) -> Judge:
    """The index holds what the plain pipeline makes of the first caption under two seeds."""
    seeds = [seed_of_attempt(0, number) for number in range(2)]
    sounds = [plainly(pipe, CAPTIONS[0], seed) for seed in seeds]
    noise = torch.Generator().manual_seed(0)
    sounds += [0.3 * torch.randn(2, 64, generator=noise) for _ in CAPTIONS[1:3]]
    clips = [Sound(f"{i}.wav", CAPTIONS[0], wav, RATE) for i, wav in enumerate(sounds)]
    index = TrainingIndex.build(
        clips, embedder("magmel"), thresholds={"copy": 0.9999}, model=fingerprint(pipe)
    )
    return Judge.of(index, embedder("magmel"))


@pytest.fixture(scope="module")
def amg(judge: Judge) -> AntiMemorization:
    """With its gate open, at any similarity."""
    return AntiMemorization(judge.index, judge.verifier.embedder, lambda_min=-1.0, lambda_max=-1.0)


def run(pipe: Any, judge: Judge, prompts: Any, **more: Any) -> Any:
    return protect(pipe, judge, prompts, arguments=CALL, **more)


def test_a_new_seed_then_the_guard(pipe: Any, judge: Judge, amg: Guidance) -> None:
    made = run(pipe, judge, CAPTIONS[0], on_copy=("retry", "guard", "refuse"), guidance=amg)
    assert made[0].verdict == "regenerated"
    plain, again, guarded = made[0].attempts
    assert [one.status for one in made[0].attempts] == ["copy", "copy", "no copy"]
    assert (plain.guard, again.guard, guarded.guard) == ("", "", "AntiMemorization")
    assert guarded.settings["lambda_min"] == "-1.0"
    expected = generate(pipe, CAPTIONS[0], guarded.seed, CALL, amg).samples[0]
    assert torch.equal(made[0].wav, expected)


def test_the_first_attempt_is_guarded_on_demand(pipe: Any, judge: Judge, amg: Guidance) -> None:
    made = run(pipe, judge, CAPTIONS[0], on_copy="refuse", guidance=amg, guard_first=True)
    (attempt,) = made[0].attempts
    assert (made[0].verdict, attempt.guard, attempt.seed) == ("released", "AntiMemorization", 0)


def test_a_stronger_guard_acts_earlier(pipe: Any, judge: Judge, amg: Guidance) -> None:
    shut = amg.with_threshold(0.99999)
    made = run(pipe, judge, CAPTIONS[0], on_copy="stronger:2", guidance=shut, guard_first=True)
    first, stronger = made[0].attempts[:2]
    assert (first.status, first.settings["lambda_min"]) == ("copy", "0.99999")
    assert stronger.settings["lambda_min"] == "0.8999"
    with pytest.raises(BadSetting, match="guard ClassifierFree has no threshold"):
        run(pipe, judge, CAPTIONS[0], on_copy="stronger", guidance=ClassifierFree(7.0))


def test_a_batch_is_as_its_samples_are_alone(pipe: Any, judge: Judge, amg: Guidance) -> None:
    more: dict[str, Any] = {"on_copy": "retry,guard", "guidance": amg, "seed": [0, 1, 2]}
    together = run(pipe, judge, CAPTIONS[:3], batch_size=3, **more)
    alone = run(pipe, judge, CAPTIONS[:3], **more)
    assert [one.verdict for one in together] == ["regenerated", "released", "released"]
    for one, other in zip(together, alone, strict=True):
        assert [a.seed for a in one.attempts] == [a.seed for a in other.attempts]
        assert torch.allclose(one.wav, other.wav, atol=1e-4)


class RaisesAt(Guidance):
    """A guard that fails for one prompt alone, and guides plainly otherwise."""

    def __init__(self, batch: int):
        self.batch = batch

    def __call__(self, step: Step) -> Guided:
        if step.batch >= self.batch:
            raise RuntimeError("no memory left")
        return Guided(7.0)


def test_a_guard_that_raises_lets_nothing_out(pipe: Any, judge: Judge) -> None:
    made = run(pipe, judge, CAPTIONS[0], on_copy="guard", guidance=RaisesAt(1))
    assert (made[0].verdict, made[0].wav) == ("refused", None)
    assert [one.status for one in made[0].attempts] == ["copy", "not judged"]
    assert "no memory left" in made[0].attempts[1].judgement.reason
    assert torch.equal(plainly(pipe, CAPTIONS[1], 3), plainly(audible_pipe(), CAPTIONS[1], 3))


def test_a_batch_that_fails_is_made_one_by_one(pipe: Any, judge: Judge) -> None:
    more: dict[str, Any] = {"on_copy": "refuse", "guard_first": True, "batch_size": 2}
    made = run(pipe, judge, CAPTIONS[1:3], guidance=RaisesAt(2), **more)
    assert [one.verdict for one in made] == ["released", "released"]
    assert torch.equal(made[0].wav, plainly(pipe, CAPTIONS[1], 0))


class Substitutes(Guidance):
    """Guides plainly, and says that the second sample was guided by the caption of a clip."""

    def __init__(self, index: TrainingIndex):
        self.index = index

    def indexes(self) -> Any:
        return (self.index,)

    def __call__(self, step: Step) -> Guided:
        rows = torch.tensor([-1, 2])[: step.batch]
        return Guided(7.0, notes={SUBSTITUTE: rows})


def test_the_records_name_the_caption_that_took_the_place_of_the_prompt(
    pipe: Any, judge: Judge, tmp_path: Path
) -> None:
    more: dict[str, Any] = {"guidance": Substitutes(judge.index), "guard_first": True,
                            "batch_size": 2, "on_copy": "refuse"}  # fmt: skip
    for kept in ("clear", "hashed"):
        log = tmp_path / f"{kept}.jsonl"
        made = run(pipe, judge, CAPTIONS[1:3], log=log, log_prompts=kept, **more)
        found = [one.attempts[0].to_dict().get("substitute") for one in made]
        assert found == [None, CAPTIONS[0]]
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert [line.get("substitute") for line in lines] == (
            [None, CAPTIONS[0]] if kept == "clear" else [None, None]
        )


def test_what_a_model_cannot_do_is_refused_before_it_runs(judge: Judge) -> None:
    other = make_pipe(seed=1)
    with pytest.raises(IndexMismatch, match="holds the training clips of model"):
        protect(other, judge, CAPTIONS[0])
    with pytest.raises(UnsupportedPipeline, match="makes images"):
        protect(make("StableDiffusionPipeline"), judge, CAPTIONS[0])
    with pytest.raises(BadSetting, match="a pipeline knows the rate"):
        protect(other, judge, CAPTIONS[0], sample_rate=RATE)
