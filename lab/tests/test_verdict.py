"""One verdict: every command says the same of the same sound, to the last digit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
import torch
from anechoic_lab.basin.sweep import open_scene
from anechoic_lab.bench import BenchPrompt, Method, Request
from anechoic_lab.bench.judges import Judges
from anechoic_lab.bench.pipeline import open_pipeline
from anechoic_lab.demo import assets
from anechoic_lab.demo.corpus import SAMPLE_RATE
from anechoic_lab.demo.run import Bench
from support.commands import Run
from support.model_folder import audible_pipe
from support.pipelines import CAPTIONS
from torch import Tensor

from anechoic import TrainingIndex, audio, cli, embedder
from anechoic.audit import TrainingSet, audit
from anechoic.detectors import Calibration, NearestStretch, calibration
from anechoic.diffusers import fingerprint
from anechoic.guidance import ClassifierFree
from anechoic.index.clips import Sound
from anechoic.verdict import Verifier

INDEX = assets.index_folder()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training clip, two others mixed, its channels against each other, and noise."""
    folder = tmp_path_factory.mktemp("sounds")
    _, sound = assets.training_set()
    noise = torch.randn(len(sound[0]), generator=torch.Generator().manual_seed(0))
    sounds = {
        "copy": sound[7][None],
        "mixed": 0.5 * (sound[3] + sound[90])[None],
        "antiphase": torch.stack([sound[12], -sound[12]]),
        "noise": 0.1 * noise[None],
    }
    for name, wav in sounds.items():
        audio.write(folder / f"{name}.wav", wav, SAMPLE_RATE)
    return folder


def read(folder: Path) -> dict[str, Tensor]:
    return {file.name: audio.read(file)[0] for file in sorted(folder.iterdir())}


def test_every_command_gives_the_same_verdict(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = read(folder)
    with pytest.raises(SystemExit) as end:
        cli.main(["check", *(str(folder / name) for name in files), "--index", "demo", "--json"])
    assert end.value.code == 1
    checked = json.loads(capsys.readouterr().out)
    told = {
        Path(file["file"]).name: (file["copy"], file["score"], file["p_value"])
        for file in checked["files"]
    }
    assert [told[f"{name}.wav"][0] for name in ("copy", "antiphase", "noise")] == [
        True, True, False
    ]  # fmt: skip

    verifier = Verifier.load(INDEX)  # what `generate`, bench and basin ask
    assert verifier.rule is not None
    assert verifier.rule.threshold == checked["threshold"]
    verdicts = {name: verifier(wav, SAMPLE_RATE) for name, wav in files.items()}
    assert {n: (v.copy, v.score, v.p_value) for n, v in verdicts.items()} == told

    judges = Judges.load(INDEX)
    for name, wav in files.items():
        verdict, _ = judges(wav, SAMPLE_RATE, "", False)
        assert (verdict.copy, verdict.score, verdict.p_value) == told[name]

    report = audit(
        folder,
        TrainingSet(verifier.index),
        verifier.embedder,
        detectors=[NearestStretch(verifier.index, verifier.embedder)],
        calibrations=calibration.read(INDEX),
        work=tmp_path / "work",
    )
    audited = {
        one.sample.name: (one.replicates, one.match.score, one.p_value) for one in report.examined
    }
    assert audited == told
    assert report.rule.threshold == checked["threshold"]


def test_the_demo_gives_the_verdict_of_check(folder: Path) -> None:
    pipe = assets.pipeline()
    bench = Bench.load(assets.SHIPPED, pipe)
    wavs = {name: wav for name, wav in read(folder).items() if len(wav) == 1}
    found = bench.judge(torch.cat(list(wavs.values())), bench.clips[: len(wavs)], 0)
    verifier = Verifier.load(INDEX)
    for judgement, wav in zip(found, wavs.values(), strict=True):
        assert judgement.verdict.to_dict() == verifier(wav, SAMPLE_RATE).to_dict()


RATE = 400  # of a tiny pipeline, whose 64 samples then last 0.16 s
HERE = ("--model", "model", "--steps", "4", "--device", "cpu", "--guard", "cfg")


@pytest.fixture
def memorized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in "model", and in "i" the index of what it makes of the first caption and of noise.
    What its scores mean is known by a calibration alone."""
    monkeypatch.chdir(tmp_path)
    pipe = audible_pipe(RATE)
    pipe.save_pretrained("model")
    noise = torch.Generator().manual_seed(0)
    own = pipe(CAPTIONS[0], num_inference_steps=4, guidance_scale=7.0, generator=noise).audios[0]
    sounds = [own, *(0.3 * torch.randn(2, 64, generator=noise) for _ in CAPTIONS[1:])]
    clips = [Sound(f"{c}.wav", c, wav, RATE) for c, wav in zip(CAPTIONS, sounds, strict=True)]
    index = TrainingIndex.build(clips, embedder("magmel"), model=fingerprint(pipe))
    index.save("i")
    detector = NearestStretch(index, embedder("magmel"))
    null = tuple(0.9 + 0.001 * i for i in range(99))
    calibration.write("i", [Calibration(detector.name, null, 0.05)])
    return tmp_path


def test_generate_check_audit_bench_and_basin_agree_on_a_calibrated_index(
    memorized: Path, command: Run
) -> None:
    asked = list(CAPTIONS[:2])
    code, out, _ = command("generate", *asked, *HERE, "--index", "i", "-o", "o/o.wav", "--json")
    generated = json.loads(out)
    assert (code, generated["held_out"], generated["threshold"]) == (1, 99, 0.994)
    want = [(one["verdict"], one["score"], one["p_value"]) for one in generated["outputs"]]
    assert (want[0][0], want[0][2]) == ("copy", 0.01)

    code, out, _ = command("check", "o/o-1.wav", "o/o-2.wav", "--index", "i", "--json")
    checked = json.loads(out)
    assert (code, checked["threshold"]) == (1, generated["threshold"])
    assert [(f["verdict"], f["score"], f["p_value"]) for f in checked["files"]] == want

    _, out, _ = command("audit", "--audio", "o", "--index", "i", "-o", "r", "--json")
    report = json.loads(out)
    assert report["rule"]["threshold"] == generated["threshold"]
    audited = {row["name"]: row for row in report["examined"]}
    for name, (status, score, p_value) in zip(("o-1.wav", "o-2.wav"), want, strict=True):
        row = audited[name]
        assert (row["replicates"], row["p_value"]) == (status == "copy", p_value)
        assert row["score"] == round(score, 6)  # as reports write it


def test_bench_and_basin_give_the_verdict_of_check_on_a_calibrated_index(
    memorized: Path, command: Run
) -> None:
    asked = list(CAPTIONS[:2])
    pipe = audible_pipe(RATE)
    for number, text in enumerate(asked):
        noise = torch.Generator().manual_seed(0)
        wav = pipe(text, num_inference_steps=4, guidance_scale=7.0, generator=noise).audios[0]
        soundfile.write(f"{number}.wav", wav.T.numpy(), RATE, "FLOAT")  # no bit is lost
    code, out, _ = command("check", "0.wav", "1.wav", "--index", "i", "--json")
    checked = json.loads(out)["files"]
    want = [(file["copy"], file["score"]) for file in checked]
    assert (code, want[0][0]) == (1, True)

    Path("p.csv").write_text("caption\n" + "\n".join(asked) + "\n")
    task = open_pipeline("model", "i", "p.csv", device="cpu")
    plain = Method("none", "none", "")
    rows = [
        task.generate(Request("all", [BenchPrompt(text, text)], 0, plain, 4))[0] for text in asked
    ]
    assert [(row.copied, row.similarity) for row in rows] == want
    verdicts = [(file["verdict"], file["p_value"]) for file in checked]
    assert [(row.verdict, row.p_value) for row in rows] == verdicts

    groups = zip(asked, ("memorized", "ordinary"), strict=True)
    prompts = [BenchPrompt(text, text, group) for text, group in groups]
    scene = open_scene("model", "i", prompts, steps=4, device="cpu")
    (judge,) = scene.judges
    runs = [scene.generate([text], 0, ClassifierFree(7.0)) for text in asked]
    scores = [run.scores[0]["magmel"] for run in runs]
    assert [(judge.is_copy(score), score) for score in scores] == want


def test_a_given_threshold_goes_before_the_calibration_which_still_gives_p(
    memorized: Path, command: Run
) -> None:
    command("generate", CAPTIONS[0], *HERE, "--index", "i", "-o", "o.wav")
    code, out, _ = command("check", "o.wav", "--index", "i", "--threshold", "1", "--json")
    (file,) = json.loads(out)["files"]
    assert (file["p_value"], json.loads(out)["threshold"]) == (0.01, 1.0)
    assert code == int(file["score"] >= 1)
