"""One verdict: every command says the same of the same sound, to the last digit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from anechoic_lab.bench.judges import Judges
from anechoic_lab.demo import assets
from anechoic_lab.demo.corpus import SAMPLE_RATE
from anechoic_lab.demo.run import Bench
from torch import Tensor

from anechoic import audio, cli
from anechoic.audit import TrainingSet, audit
from anechoic.detectors import NearestStretch
from anechoic.verdict import Verifier, stored_calibrations

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
        calibrations=stored_calibrations(INDEX),
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
