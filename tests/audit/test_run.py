"""An audit finds what was copied, and goes on where it was stopped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from anechoic_lab.metrics import leave_one_out
from support.audits import Model, folder_of, training_set
from support.sounds import RATE, SECONDS, tune
from torch import Tensor

from anechoic import embedder
from anechoic.audit import HeldOut, Report, TrainingSet, audit
from anechoic.audit.progress import AuditProgress
from anechoic.audit.summary import q_values
from anechoic.detectors import Calibration, Match, NearestStretch
from anechoic.errors import BadAudio, BadSetting, IndexMismatch

PROMPTS = ["tune number 0", "tune number 3", "something of its own"]


@pytest.fixture(scope="module")
def training() -> TrainingSet:
    return training_set()


@pytest.fixture(scope="module")
def embed():
    return embedder("magmel")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "work"


def names(report: Report) -> list[str]:
    return [one.sample.name for one in report.examined]


# ------------------------------------------------------------------------------ what is found


def test_a_copy_is_found_and_named_and_stands_first(
    training: TrainingSet, embed, work: Path, tmp_path: Path
) -> None:
    sounds = folder_of(tmp_path / "s", other=tune(50), copy=0.3 * tune(2))
    report = audit(sounds, training, embed, work=work)
    assert names(report) == ["copy.wav", "other.wav"]
    assert [one.replicates for one in report.examined] == [True, False]
    first = report.examined[0]
    assert first.result.clip == 2
    assert first.match.score > 0.99
    assert report.sentence == "1 of 2 files replicates a training clip."
    assert report.count.expected is None  # the rate of the index's threshold is not known


def test_a_copy_inside_longer_sound_is_aligned_to_the_sample(
    training: TrainingSet, embed, work: Path, tmp_path: Path
) -> None:
    long = torch.cat([tune(60, 2.0), tune(4), tune(61, 1.5)], 1)
    (one,) = audit(folder_of(tmp_path / "s", long=long), training, embed, work=work).examined
    found = one.result
    assert (found.clip, one.replicates) == (4, True)
    assert found.match.start_s - found.match.match_start_s == pytest.approx(2.0, abs=1 / 8_000)
    assert found.aligned_by.startswith("correlation")
    assert found.match.length_s == pytest.approx(SECONDS, abs=0.05)


def test_the_waveform_tells_of_a_copy_that_the_descriptor_was_led_away_from(
    training: TrainingSet, embed, work: Path
) -> None:
    """A guard may fool what it follows; its prompt's own clips are compared all the same."""

    @dataclass(frozen=True)
    class Fooled:
        name: str = "fooled"

        def __call__(self, wav: Tensor, sample_rate: int) -> list[Match]:
            return [Match(0.1, 0) for _ in wav]

    report = audit(
        Model(),
        training,
        embed,
        prompts=["tune number 3"],
        model="m",
        detectors=[Fooled()],
        threshold=0.5,
        work=work,
    )
    (one,) = report.examined
    assert not one.replicates
    heard = one.result.matches
    matched = [f for name, f in heard.items() if name.endswith("the matched clip")]
    own = [f for name, f in heard.items() if name.endswith("the prompt's own clips")]
    assert len(matched) == len(own) == 2
    assert all(finding.row in (0, None) and finding.score < 0.5 for finding in matched)
    assert all(finding.row == 3 and finding.score > 0.9 for finding in own)


def test_without_the_training_sound_the_audit_says_so(embed, work: Path, tmp_path: Path) -> None:
    silent = TrainingSet(training_set().index)
    (one,) = audit(folder_of(tmp_path / "s", copy=tune(1)), silent, embed, work=work).examined
    assert one.replicates
    assert one.result.shown.training is None
    assert one.result.shown.missing == "the index names no file for it"
    assert list(one.result.matches) == ["nearest stretch (magmel, whole clips)"]


def test_the_nearest_stretch_of_a_clip_as_long_as_the_rows_is_its_cosine(
    training: TrainingSet, embed
) -> None:
    wav = torch.stack([tune(70), tune(3)])
    index = training.index
    expected = index.search(index.project(embed(wav, RATE)), 1)
    found = NearestStretch(training.index, embed)(wav, RATE)
    assert [f.row for f in found] == expected.rows[:, 0].tolist()
    assert [f.score for f in found] == pytest.approx(expected.scores[:, 0].tolist(), abs=1e-5)


def test_training_clips_among_themselves_are_compared_as_the_metrics_do(
    training: TrainingSet,
) -> None:
    vectors = training.index.vectors(torch.arange(len(training.index)))
    expected = leave_one_out(vectors, groups=[clip.id for clip in training.index.clips])
    assert training.among_themselves() == pytest.approx(expected.tolist(), abs=1e-5)


def test_windows_of_one_clip_are_one_clip(embed) -> None:
    from anechoic import TrainingIndex
    from anechoic.index.clips import Sound

    sounds = [Sound(f"{i}", "c", tune(i, 2.5), RATE) for i in range(2)]
    index = TrainingIndex.build(sounds, embed, window_s=SECONDS, hop_s=0.5)
    training = TrainingSet(index)
    assert [clip.id for clip in training.clips] == ["0", "1"]
    (finding,) = NearestStretch(training.index, embed)(tune(1, 2.5)[None, :, 16_000:], RATE)
    assert finding.row == 1
    assert finding.match_start_s - finding.start_s == pytest.approx(1.0, abs=0.02)


# ------------------------------------------------------------------------- what it is judged by


def test_held_out_sound_gives_p_values_and_what_chance_expects(
    training: TrainingSet, embed, work: Path, tmp_path: Path
) -> None:
    held = folder_of(tmp_path / "h", **{f"h{i}": tune(200 + i) for i in range(9)})
    sounds = folder_of(tmp_path / "s", copy=tune(0), other=tune(300), third=tune(301))
    report = audit(
        sounds, training, embed, held_out=HeldOut(held, false_positive_rate=0.2), work=work
    )
    calibration = report.rule.calibration
    assert calibration is not None
    assert len(calibration.null) == 9
    assert report.count.expected == pytest.approx(3 * 0.2)
    for one in report.examined:
        assert one.p_value == calibration.p_value(one.match.score)
        assert one.replicates == (one.p_value <= 0.2)
        assert set(one.copies) == set(one.result.matches)  # every detector is calibrated
    assert [one.q_value for one in report.examined] == q_values(
        [one.p_value for one in report.examined]
    )
    assert report.examined[0].p_value == 0.1  # 1 / (9 + 1), the least there is


def test_a_calibration_of_the_index_comes_before_its_threshold(
    training: TrainingSet, embed, work: Path, tmp_path: Path
) -> None:
    name = NearestStretch(training.index, embed).name
    known = {name: Calibration(name, tuple(np.linspace(0, 0.5, 99)), 0.05)}
    sounds = folder_of(tmp_path / "s", other=tune(51))
    rule = audit(sounds, training, embed, calibrations=known, work=work).rule
    assert rule.threshold == known[name].threshold
    given = audit(sounds, training, embed, calibrations=known, threshold=0.7, work=work).rule
    assert (given.threshold, given.calibration) == (0.7, None)


def test_without_anything_to_judge_by_sounds_are_ranked_and_not_judged(
    embed, work: Path, tmp_path: Path
) -> None:
    training = training_set(None)
    sounds = folder_of(tmp_path / "s", copy=tune(0), other=tune(300))
    report = audit(sounds, training, embed, work=work)
    assert report.rule is None
    assert [one.sample.name for one in report.examined] == ["copy.wav", "other.wav"]
    assert report.examined[0].match.score > 0.99
    assert [one.replicates for one in report.examined] == [None, None]
    assert (report.count.replications, report.groups[0].replications) == (None, None)
    first, second = report.sentences
    detector = NearestStretch(training.index, embed).name
    assert first == (
        f"NOT JUDGED: 2 of 2 files; index '{training.index.name}' has neither a calibration of "
        f"'{detector}' nor a threshold."
    )
    assert second == "They are ranked by their scores, and none is called a replication."


def test_a_count_that_chance_could_make_is_told_beside_it(
    training: TrainingSet, embed, work: Path, tmp_path: Path
) -> None:
    sounds = folder_of(tmp_path / "s", copy=tune(0), **{f"o{i}": tune(80 + i) for i in range(7)})
    report = audit(sounds, training, embed, false_positive_rate=0.2, work=work)
    assert report.sentence == (
        "1 of 8 files replicates a training clip; chance alone would flag about 1.6, and up to 4 "
        "would be no surprise."
    )


# ---------------------------------------------------------------------------- generating, resuming


def test_every_prompt_is_asked_under_every_seed_and_guard(
    training: TrainingSet, embed, work: Path
) -> None:
    plain, guarded = Model(), Model(copies=False)
    report = audit(
        {"none": plain, "amg": guarded},
        training,
        embed,
        prompts=[*PROMPTS, PROMPTS[0]],
        seeds=range(2),
        model="m",
        work=work,
    )
    every = [(prompt, seed) for seed in range(2) for prompt in PROMPTS]
    assert plain.calls == guarded.calls == every
    assert report.notes == [
        "1 of 4 prompts repeat an earlier one and are used once",
        "4 of the 12 examined are the same as another, bit for bit",
    ]
    shares = {group.guard: (group.replications, group.examined) for group in report.groups}
    assert shares == {"none": (4, 6), "amg": (0, 6)}
    assert list(shares) == ["none", "amg"]  # the plain one first
    given = replace(report, guards=["static", "amg", "none"])
    assert [group.guard for group in given.groups] == ["none", "amg"]
    assert (report.count.prompts_replicating, report.count.prompts) == (2, 3)


def test_killed_and_started_again_an_audit_makes_nothing_twice(
    training: TrainingSet, embed, work: Path
) -> None:
    given = {"prompts": PROMPTS, "seeds": range(2), "model": "m", "work": work}
    stopped = Model(stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        audit(stopped, training, embed, **given)
    rest = Model()
    resumed = audit(rest, training, embed, **given)
    assert stopped.calls + rest.calls == [(p, s) for s in range(2) for p in PROMPTS]
    again = Model(stop_after=0)
    assert audit(again, training, embed, **given).examined == resumed.examined
    whole = audit(Model(), training, embed, **{**given, "work": work.with_name("fresh")})
    assert whole.examined == resumed.examined


def test_another_threshold_examines_nothing_again(training: TrainingSet, embed, work: Path) -> None:
    heard: list[int] = []

    @dataclass(frozen=True)
    class Counting:
        nearest: NearestStretch

        @property
        def name(self) -> str:
            return "counting"

        def __call__(self, wav: Tensor, sample_rate: int) -> list[Match]:
            heard.append(len(wav))
            return self.nearest(wav, sample_rate)

    detectors = [Counting(NearestStretch(training.index, embed))]
    given = {"prompts": PROMPTS, "model": "m", "detectors": detectors, "work": work}
    found = [
        audit(Model(), training, embed, threshold=limit, **given).count.replications
        for limit in (0.9, -1.0)
    ]
    assert found == [2, 3]
    assert len(heard) == 3


@pytest.mark.parametrize("folder", ["sounds", "results", "media"])
def test_what_is_damaged_in_the_work_folder_is_made_again(
    training: TrainingSet, embed, work: Path, folder: str
) -> None:
    given = {"prompts": PROMPTS, "model": "m", "work": work}
    first = audit(Model(), training, embed, **given)
    for file in (work / folder).iterdir():
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert audit(Model(), training, embed, **given).examined == first.examined


def test_sounds_are_kept_under_the_name_of_their_model(
    training: TrainingSet, embed, work: Path
) -> None:
    for name in ("one", "another"):
        model = Model()
        audit(model, training, embed, prompts=PROMPTS[:1], model=name, work=work)
        assert len(model.calls) == 1
    with pytest.raises(BadSetting, match="give model='NAME'"):
        audit(Model(), training, embed, prompts=PROMPTS, work=work)


def test_two_audits_cannot_share_a_work_folder_at_once(
    training: TrainingSet, embed, work: Path
) -> None:
    def nested(prompt: str, seed: int) -> tuple[Tensor, int]:
        with pytest.raises(BadSetting, match="another audit is running in"):
            audit(Model(), training, embed, prompts=PROMPTS, model="m", work=work)
        return tune(1), RATE

    report = audit(nested, training, embed, prompts=PROMPTS[:1], model="n", work=work)
    assert report.count.unexamined == 0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ValueError("no such word"), "the generator failed: ValueError: no such word"),
        ((torch.zeros(1, 16_000), RATE), "the generated sound is silent (peak below 1e-06)"),
        ((torch.full((1, 16_000), torch.nan), RATE), "16000 samples that are NaN or infinite"),
        (torch.zeros(1, 9), "returns sound [channels, samples] and its sample rate; got Tensor"),
        ((torch.rand(16_000, 1), RATE), "and its sample rate; got [16000, 1] at 16000 Hz"),
        ((torch.rand(1, 16_000), 0), "got [1, 16000] at 0 Hz"),
        (
            (torch.rand(1, 100), RATE),
            "it lasts 0.00625 s, and sounds shorter than 0.1 s are all alike",
        ),
    ],
    ids=["error", "silence", "nan", "no rate", "transposed", "rate of 0", "click"],
)
def test_what_a_generator_cannot_make_is_listed_with_the_reason(
    training: TrainingSet, embed, work: Path, answer: object, reason: str
) -> None:
    def generate(prompt: str, seed: int) -> object:
        if prompt == PROMPTS[1]:
            if isinstance(answer, Exception):
                raise answer
            return answer
        return tune(40).numpy()[0], RATE  # one channel, not a tensor

    report = audit(generate, training, embed, prompts=PROMPTS, model="m", work=work)
    (lost,) = report.unexamined
    assert lost.sample.prompt == PROMPTS[1]
    assert reason in lost.reason
    assert report.sentence.startswith("1 of 3 generations was not examined. None of the 2 examined")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompts": []}, "prompts and seeds; got 1 generators, 0 prompts and 1 seeds"),
        ({"seeds": []}, "0 seeds"),
        ({"seeds": [1, 1]}, "not distinct"),
        ({"prompts": ["a", " "]}, "prompt number 2 is empty"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    training: TrainingSet, embed, work: Path, given: dict, message: str
) -> None:
    with pytest.raises(BadSetting, match=message):
        audit(Model(), training, embed, **{"prompts": PROMPTS, "model": "m", **given}, work=work)


def test_another_embedder_than_that_of_the_index_is_refused(
    training: TrainingSet, work: Path, tmp_path: Path
) -> None:
    sounds = folder_of(tmp_path / "s", copy=tune(0))
    with pytest.raises(IndexMismatch):
        audit(sounds, training, embedder("magmel:seconds=0.5"), work=work)


def test_held_out_sound_that_is_none_is_refused(
    training: TrainingSet, embed, work: Path, tmp_path: Path
) -> None:
    sounds = folder_of(tmp_path / "s", copy=tune(0))
    (tmp_path / "h").mkdir()
    (tmp_path / "h/a.wav").write_text("no sound")
    with pytest.raises(BadAudio, match="no held-out sound can be used: it cannot be read"):
        audit(sounds, training, embed, held_out=HeldOut(tmp_path / "h", 0.5), work=work)


# ----------------------------------------------------------------------------------- time, sounds


def test_what_was_finished_earlier_costs_no_time(training: TrainingSet, embed, work: Path) -> None:
    told: list[AuditProgress] = []
    given = {"prompts": PROMPTS, "model": "m", "work": work, "progress": told.append}
    audit(Model(), training, embed, **given)
    assert [p.done for p in told] == [0, 1, 2, 3]
    assert told[0].left_s is None
    assert told[1].left_s > 0
    assert told[-1].left_s == 0.0
    told.clear()
    audit(Model(), training, embed, **given)
    assert told[-1] == AuditProgress(3, 3, 0.0)


def test_a_training_clip_is_kept_once_however_often_it_is_met(
    training: TrainingSet, embed, work: Path, tmp_path: Path
) -> None:
    sounds = folder_of(tmp_path / "s", a=tune(0), b=0.5 * tune(0), c=0.1 * tune(0))
    report = audit(sounds, training, embed, work=work)
    assert len({one.result.shown.training.sound for one in report.examined}) == 1
