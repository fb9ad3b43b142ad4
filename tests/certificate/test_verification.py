"""Whatever differs from a certificate is told, each in a sentence of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from support.certified import NULL, save_index, write_new
from support.sounds import RATE, bands

from anechoic import TrainingIndex, Verifier, audio
from anechoic.certificate import Certificate, Verification, certify, read, sidecar, verify
from anechoic.detectors import Calibration, calibration
from anechoic.errors import BadAudio, BadCertificate, BadSetting


@pytest.fixture(scope="module")
def verifier(certified_index: Path) -> Verifier:
    return Verifier.load(certified_index)


@pytest.fixture
def file(tmp_path: Path, verifier: Verifier) -> Path:
    """A sound with its certificate."""
    path = write_new(tmp_path / "out.wav")
    certify(path, verifier(*audio.read(path)), verifier.index)
    return path


def said(found: Verification, holds: bool | None = False) -> list[str]:
    return [one.sentence for one in found.findings if one.holds is holds]


def edit(file: Path, /, **changes: Any) -> None:
    """What a forger does: change fields, and seal the certificate again."""
    changed: Certificate = replace(read(sidecar(file)), **changes)
    sidecar(file).write_text(json.dumps(asdict(changed.sealed())))


def test_all_holds_and_what_was_not_compared_is_said(
    file: Path, certified_index: Path, verifier: Verifier
) -> None:
    found = verify(file, index=certified_index, recheck=True)
    assert found.verified
    assert {one.subject for one in found.findings if one.holds} == {
        "certificate", "sound", "file", "index", "limits", "recheck"
    }  # fmt: skip
    assert said(found, None) == ["the certificate is not signed: anyone could have written it"]
    alone = verify(file)
    assert alone.verified
    assert said(alone, None)[1] == "index 'i' was not compared; give '--index'"
    assert json.loads(json.dumps(alone.to_dict()))["verified"] is True


def test_another_sound_is_told_apart_from_new_tags(file: Path) -> None:
    wav, rate = audio.read(file)
    with soundfile.SoundFile(file, "w", rate, 1, format="WAV", subtype="PCM_16") as sound:
        sound.title = "a title"
        sound.write(wav.T.numpy())
    assert said(verify(file)) == ["the file has changed, but not its sound, as by new tags"]
    wav[0, 500] += 0.01
    audio.write(file, wav, rate, overwrite=True)
    assert said(verify(file)) == [
        "the sound is not the one that was certified", "the file has changed"
    ]  # fmt: skip
    audio.write(file, torch.zeros(1, 100), rate, overwrite=True)
    assert not verify(file).verified
    audio.write(file, audio.read(write_new(file.with_name("b.wav")))[0], 2 * rate, overwrite=True)
    assert len(said(verify(file))) == 2


def test_another_decoder_of_mp3_is_named(file: Path, verifier: Verifier) -> None:
    path = write_new(file.with_name("out.mp3"))
    certify(path, verifier(*audio.read(path)), verifier.index)
    assert verify(path).verified
    made = read(sidecar(path))
    versions = {**made.versions, "libsndfile": "1.0.0"}
    edit(path, versions=versions, file=replace(made.file, samples_sha256="0" * 64))
    here = soundfile.__libsndfile_version__
    assert said(verify(path)) == [
        f"the sound is not the one that was certified, or libsndfile {here} decodes it otherwise "
        "than 1.0.0 did"
    ]


def test_an_edited_certificate_is_told(file: Path) -> None:
    path = sidecar(file)
    path.write_text(path.read_text().replace('"limit": 0.8', '"limit": 0.9'))
    assert said(verify(file)) == ["the certificate was edited or damaged"]


def test_another_index_is_told(file: Path, tmp_path: Path) -> None:
    other = save_index(tmp_path / "j", count=3)
    assert said(verify(file, index=other)) == [
        f"'{other}' is another index than 'i', or it has changed"
    ]


def test_another_calibration_and_its_limits_are_told(
    file: Path, tmp_path: Path, certified_index: Path
) -> None:
    copy = shutil.copytree(certified_index, tmp_path / "k")
    ((name, known),) = calibration.read(copy).items()
    changed = [Calibration(name, tuple(one + 0.01 for one in NULL), known.false_positive_rate)]
    calibration.write(copy, changed, overwrite=True)
    assert said(verify(file, index=copy)) == [
        "index 'i' has been calibrated again since",
        f"the limit of '{name}', 0.836, is not the index's, which has 0.846",
    ]
    (copy / "calibration.json").unlink()
    assert said(verify(file, index=copy))[-1].endswith(
        "is not the index's, which has no such limit"
    )


FORGED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a higher limit": (lambda one: replace(one, limit=0.9), "'s, which has 0.836"),
    "another p-value": (lambda one: replace(one, p_value=0.5), "has p 0.5, and 1 follows"),
    "a rate that cannot be": (
        lambda one: replace(one, false_positive_rate=2.0), "which has no such limit"
    ),
    "more held-out sounds": (lambda one: replace(one, held_out=999), "which has no such limit"),
    "a limit by hand": (lambda one: replace(one, held_out=None), "which has no such limit"),
    "a score over the limit": (
        lambda one: replace(one, score=0.95), "which its limit of 0.836 calls a copy"
    ),
    "another score": (lambda one: replace(one, score=0.02), "scores 0.0375 now, and 0.0200 then"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_finding_is_told_by_the_index(
    file: Path, certified_index: Path, kind: str
) -> None:
    forge, sentence = FORGED[kind]
    edit(file, detectors=tuple(map(forge, read(sidecar(file)).detectors)))
    found = said(verify(file, index=certified_index, recheck=True))
    assert any(one.endswith(sentence) for one in found), found


def test_a_forged_index_or_no_detector_is_told(file: Path, certified_index: Path) -> None:
    made = read(sidecar(file))
    edit(file, index=replace(made.index, clips=4000))
    found = verify(file, index=certified_index)
    assert said(found) == [f"the certificate says of '{certified_index}' what is not so"]
    edit(file, index=made.index, detectors=())
    assert said(verify(file)) == ["the certificate names no detector"]


def test_a_limit_of_the_index_itself_holds(tmp_path: Path) -> None:
    index = TrainingIndex.load(save_index(tmp_path / "i"))
    index.thresholds["copy"] = 0.7
    index.save(tmp_path / "i", overwrite=True)
    verifier = Verifier.load(tmp_path / "i")
    path = write_new(tmp_path / "out.wav")
    certify(path, verifier(*audio.read(path)), verifier.index)
    assert verify(path, index=tmp_path / "i", recheck=True).verified
    by_hand = Verifier.load(tmp_path / "i", threshold=0.99)
    certify(path, by_hand(*audio.read(path)), by_hand.index, overwrite=True)
    (sentence,) = said(verify(path, index=tmp_path / "i"))
    assert sentence.endswith("0.99, is not the index's, which has 0.7")


def test_a_detector_that_is_not_run_again_is_said(file: Path, certified_index: Path) -> None:
    (one,) = read(sidecar(file)).detectors
    edit(file, detectors=(one, replace(one, detector="another")))
    found = verify(file, index=certified_index, recheck=True)
    assert "'another' was not run again" in said(found, None)
    assert said(found) == [
        "the limit of 'another', 0.836, is not the index's, which has no such limit"
    ]


def test_a_copy_is_told_when_it_is_checked_again(
    tmp_path: Path, file: Path, certified_index: Path
) -> None:
    audio.write(tmp_path / "copy.wav", bands(1), RATE)
    shutil.copy(sidecar(file), sidecar(tmp_path / "copy.wav"))
    found = verify(tmp_path / "copy.wav", index=certified_index, recheck=True)
    assert any("scores 1.0000 now" in one for one in said(found))


def test_what_cannot_be_verified_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="the index is needed"):
        verify(file, recheck=True)
    with pytest.raises(BadAudio, match="does not exist"):
        verify(tmp_path / "none.wav")
    with pytest.raises(BadCertificate, match="does not exist"):
        verify(file, certificate=tmp_path / "none.json")
    sidecar(file).rename(tmp_path / "c.json")
    with pytest.raises(BadCertificate, match=r"no certificate in it, and none beside it"):
        verify(file)
    assert verify(file, certificate=tmp_path / "c.json").verified
    Path(tmp_path / "c.json").write_text("{")
    with pytest.raises(BadCertificate, match="is not JSON"):
        verify(file, certificate=tmp_path / "c.json")
