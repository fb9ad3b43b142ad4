"""protect(): what leaves, what is tried before it leaves, and what does not leave."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.audits import CLIPS, training_set
from support.protection import PROMPT, SEEDS, Memorizes, not_a_number
from support.sounds import RATE, tune
from torch import Tensor

from anechoic import audio, embedder, protect
from anechoic.detectors import Calibration, Correlation
from anechoic.errors import BadSetting, NotReleased, OutputExists
from anechoic.protection import Judge, Protection


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.of(training_set(0.95), embedder("magmel"))


def only(made: Protection):
    (sound,) = made
    return sound


def test_what_is_no_copy_leaves_as_it_was_made(judge: Judge) -> None:
    function = Memorizes(0)
    made = protect(function, judge, PROMPT)
    sound = only(made)
    assert (sound.verdict, made.exit_code, function.seeds) == ("released", 0, [0])
    assert torch.equal(sound.wav, function(PROMPT, 0)[0])
    assert sound.sample_rate == RATE


@pytest.mark.parametrize("copies", [1, 2, 3])
def test_a_copy_is_made_again_from_new_seeds(judge: Judge, copies: int) -> None:
    function = Memorizes(copies)
    made = protect(function, judge, PROMPT, on_copy=("retry:3", "refuse"))
    sound = only(made)
    assert (sound.verdict, made.exit_code) == ("regenerated", 0)
    assert function.seeds == SEEDS[: copies + 1]
    assert [one.seed for one in sound.attempts] == function.seeds
    assert [one.status for one in sound.attempts] == ["copy"] * copies + ["no copy"]
    assert judge(sound.wav, RATE).status == "no copy"


def test_an_attempt_can_be_made_again_from_its_record(judge: Judge) -> None:
    sound = only(protect(Memorizes(2), judge, PROMPT, on_copy="retry:3"))
    assert torch.equal(Memorizes(0)(PROMPT, sound.attempts[-1].seed)[0], sound.wav)


def test_what_stays_a_copy_is_refused(judge: Judge) -> None:
    function = Memorizes(4)
    made = protect(function, judge, PROMPT, on_copy="retry:2,refuse")
    sound = only(made)
    assert (sound.verdict, sound.wav, made.exit_code) == ("refused", None, 1)
    assert sound.reason == "3 of 3 attempts were copies, and none may leave"
    assert function.seeds == SEEDS[:3]


def test_a_function_without_a_seed_has_one_attempt(judge: Judge) -> None:
    function = Memorizes(4)
    function.seeded = False
    made = protect(function, judge, PROMPT)
    assert (only(made).verdict, function.seeds) == ("refused", [0])
    assert [one.seed for one in only(made).attempts] == [None]
    assert made.notes[-1] == "each sound has one attempt: the generator takes no seed"
    with pytest.raises(BadSetting, match="takes no seed, so another attempt may make the same"):
        protect(function, judge, PROMPT, on_copy="retry")


def test_each_prompt_stands_for_itself(judge: Judge) -> None:
    def memorizes(prompt: str, seed: int) -> tuple[Tensor, int]:
        return tune(2 if prompt == PROMPT else 1000 + seed), RATE

    made = protect(memorizes, judge, ["a", PROMPT, "b"], seed=[5, 6, 7], on_copy="refuse")
    assert [one.verdict for one in made] == ["released", "refused", "released"]
    assert [one.attempts[0].seed for one in made] == [5, 6, 7]
    assert torch.equal(made[2].wav, tune(1007))


def test_raise_raises_and_report_lets_the_copy_out_and_promises_nothing(judge: Judge) -> None:
    with pytest.raises(NotReleased, match="sound 1: 2 of 2 attempts were copies"):
        protect(Memorizes(4), judge, PROMPT, on_copy=("retry", "raise"))
    made = protect(Memorizes(4), judge, PROMPT, on_copy="report")
    assert (only(made).verdict, made.exit_code) == ("reported", 1)
    assert torch.equal(only(made).wav, 0.5 * tune(2))
    assert made.promise.startswith("Nothing is promised")


def test_the_promise_names_detectors_limits_and_index(judge: Judge) -> None:
    promise = protect(Memorizes(0), judge, PROMPT).promise
    assert promise.startswith("No output above the limit leaves, under these detectors")
    assert "nearest stretch (magmel, whole clips) (limit 0.95)" in promise
    assert judge.index.content[:12] in promise
    assert "It is not promised that the model has not learnt" in promise


# --------------------------------------------------------------------------- nothing can be judged


def test_without_a_limit_nothing_is_even_generated() -> None:
    function = Memorizes(0)
    judge = Judge.of(training_set(None), embedder("magmel"))
    made = protect(function, judge, PROMPT)
    sound = only(made)
    assert (sound.verdict, sound.wav, made.exit_code) == ("not judged", None, 3)
    assert sound.reason.endswith("has neither a calibration nor a threshold")
    assert function.seeds == []


def test_what_cannot_be_judged_leaves_only_by_name() -> None:
    judge = Judge.of(training_set(None), embedder("magmel"))
    made = protect(Memorizes(0), judge, PROMPT, allow_unjudged=True)
    sound = only(made)
    assert (sound.verdict, made.exit_code) == ("not judged", 3)
    assert torch.equal(sound.wav, Memorizes(0)(PROMPT, 0)[0])
    assert "what could not be judged does" in made.promise


def failing(error: Exception) -> Callable[[str, int], tuple[Tensor, int]]:
    def function(prompt: str, seed: int) -> tuple[Tensor, int]:
        raise error

    return function


UNUSABLE: dict[str, tuple[Callable[[str, int], object], str]] = {
    "NaN": (not_a_number, "NaN or infinite"),
    "silence": (lambda prompt, seed: (torch.zeros(1, RATE), RATE), "it is silent"),
    "no samples": (lambda prompt, seed: (torch.zeros(1, 0), RATE), "has no samples"),
    "no sound": (lambda prompt, seed: ("noise", RATE), "a generator returns sound"),
    "an error": (failing(RuntimeError("out of memory")), "RuntimeError: out of memory"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_is_no_usable_sound_does_not_leave(judge: Judge, kind: str) -> None:
    function, reason = UNUSABLE[kind]
    made = protect(function, judge, PROMPT, on_copy="retry")
    sound = only(made)
    assert (sound.verdict, sound.wav, made.exit_code) == ("not judged", None, 3)
    assert reason in sound.reason
    assert len(sound.attempts) == 2
    allowed = only(protect(function, judge, PROMPT, on_copy="retry", allow_unjudged=True))
    assert allowed.released == (kind == "silence")


# -------------------------------------------------------------------------------------- detectors


def null(name: str, top: float) -> Calibration:
    return Calibration(name, tuple(top * i / 99 for i in range(100)))


class Fails:
    """A detector that cannot."""

    name = "fails"

    def __init__(self, score: float | None = None):
        self.score = score

    def __call__(self, wav: Tensor, sample_rate: int):
        from anechoic.types import Match

        if self.score is None:
            raise RuntimeError("no memory left")
        return [Match(self.score, 0)]


def with_detectors(*detectors, top: float = 0.9) -> Judge:
    known = {detector.name: null(detector.name, top) for detector in detectors}
    return Judge.of(training_set(0.95), embedder("magmel"), known, detectors=detectors)


@pytest.mark.parametrize(
    ("score", "status"),
    [(None, "not judged"), (math.nan, "not judged"), (math.inf, "not judged"),
     (-math.inf, "not judged"), (0.95, "copy"), (0.5, "no copy")],
)  # fmt: skip
def test_every_detector_has_to_say_that_it_is_no_copy(score: float | None, status: str) -> None:
    judge = with_detectors(Fails(score))
    assert judge(tune(1000), RATE).status == status
    assert only(protect(Memorizes(0), judge, PROMPT)).released == (status == "no copy")


def test_a_copy_for_one_detector_is_a_copy_although_another_fails() -> None:
    judgement = with_detectors(Fails())(tune(2), RATE)
    assert judgement.status == "copy"
    assert judgement.verdicts["fails"].reason == "RuntimeError: no memory left"


def test_a_detector_that_finds_what_the_nearest_stretch_does_not_decides() -> None:
    detector = Correlation.fit([training_set().sound(number) for number in range(CLIPS)])
    judge = with_detectors(detector)
    mixed = tune(2) + torch.roll(tune(700), 5000, 1)  # the clip under another tune
    assert [v.status for v in judge(mixed, RATE).verdicts.values()] == ["no copy", "copy"]
    assert not only(protect(lambda prompt, seed: (mixed, RATE), judge, PROMPT)).released


def test_calibrations_and_detectors_come_together() -> None:
    with pytest.raises(BadSetting, match="'fails' is not calibrated"):
        Judge.of(training_set(0.95), embedder("magmel"), detectors=[Fails()])
    with pytest.raises(BadSetting, match="calibration of 'fails' is here, but not the detector"):
        Judge.of(training_set(0.95), embedder("magmel"), {"fails": null("fails", 0.9)})


# ------------------------------------------------------------------------------------------ files


def test_a_file_is_written_once_it_may_leave_and_holds_what_was_judged(
    judge: Judge, tmp_path: Path
) -> None:
    file = tmp_path / "new/out.flac"
    sound = only(protect(Memorizes(1), judge, PROMPT, on_copy="retry", files=[file]))
    assert (sound.verdict, sound.file) == ("regenerated", file)
    assert [path.name for path in file.parent.iterdir()] == ["out.flac"]
    wav, rate = audio.read(file)
    assert torch.equal(wav, sound.wav)
    assert (rate, judge(wav, rate).status) == (RATE, "no copy")


def test_of_what_is_refused_no_file_is_left(judge: Judge, tmp_path: Path) -> None:
    protect(Memorizes(4), judge, PROMPT, on_copy="retry", files=[tmp_path / "out.wav"])
    assert list(tmp_path.iterdir()) == []


def test_files_are_refused_before_anything_is_generated(judge: Judge, tmp_path: Path) -> None:
    function, file = Memorizes(0), tmp_path / "out.wav"
    file.write_text("precious")
    with pytest.raises(OutputExists):
        protect(function, judge, PROMPT, files=[file])
    with pytest.raises(BadSetting, match="no known sound format"):
        protect(function, judge, PROMPT, files=[tmp_path / "out.xyz"])
    with pytest.raises(BadSetting, match="expected a file for each of 2 prompts, got 1"):
        protect(function, judge, ["a", "b"], files=[tmp_path / "b.wav"])
    assert (function.seeds, file.read_text()) == ([], "precious")
    assert only(protect(function, judge, PROMPT, files=[file], overwrite=True)).file == file
    assert audio.read(file)[1] == RATE


# -------------------------------------------------------------------------------- what is refused


def test_a_function_has_no_guard(judge: Judge) -> None:
    made = protect(Memorizes(0), judge, PROMPT)
    assert made.policy == ("first", "retry", "refuse")
    assert made.notes == [
        "no attempt is guarded: a plain function has no steps that a guard could guide"
    ]
    for more in ({"on_copy": ("retry", "guard")}, {"on_copy": "stronger"}, {"guard_first": True}):
        with pytest.raises(BadSetting, match="so no attempt can be guarded"):
            protect(Memorizes(0), judge, PROMPT, **more)


def test_a_function_may_return_sound_alone(judge: Judge) -> None:
    def alone(prompt: str, seed: int) -> Tensor:
        return tune(1000)[0]

    assert only(protect(alone, judge, PROMPT, sample_rate=RATE)).wav.shape == tune(1000).shape
    sound = only(protect(alone, judge, PROMPT))
    assert "give sample_rate" in sound.reason


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"on_copy": "retry:0"}, "expected steps among retry, guard, stronger"),
        ({"on_copy": f"retry:{'9' * 5000}"}, "expected steps among retry, guard, stronger"),
        ({"on_copy": ("refuse", "retry")}, "got 'refuse'"),
        ({"on_copy": "retry:60,guard:60"}, "at most 100 attempts, got 121"),
        ({"seed": [1, 2]}, "expected a seed for each of 1 prompts, got 2"),
        ({"batch_size": 0}, "expected a batch_size of 1 or more"),
        ({"arguments": {"steps": 3}}, "'arguments' are a pipeline's"),
        ({"log_prompts": "never"}, "expected one of .*clear"),
    ],
)
def test_bad_settings_are_one_sentence(judge: Judge, more, sentence: str) -> None:
    with pytest.raises(BadSetting, match=sentence):
        protect(Memorizes(0), judge, PROMPT, **more)
    with pytest.raises(BadSetting, match="expected a pipeline, or a function"):
        protect("model", judge, PROMPT)


def test_the_example_of_the_guide_runs() -> None:
    guide = Path(__file__).parents[2] / "docs/how-to/protect.md"
    blocks = re.findall(r"^```python\n(.*?)^```", guide.read_text(), re.M | re.S)
    exec(compile(blocks[-1], "protect.md", "exec"), {})
