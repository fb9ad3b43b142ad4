"""What a certificate holds, and what gets none."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import soundfile
import torch
from support.certified import save_index, write_new
from support.sounds import RATE, SECONDS, bands

from anechoic import TrainingIndex, Verifier, audio
from anechoic.certificate import (
    Certificate,
    KeptPrompt,
    Provenance,
    certify,
    read,
    samples_sha256,
    sidecar,
)
from anechoic.certificate.content import schema
from anechoic.errors import (
    AnechoicError,
    BadAudio,
    BadCertificate,
    BadSetting,
    IndexMismatch,
    OutputExists,
)
from anechoic.guidance.triggers import LogSNR

ABOUT = Provenance(
    KeptPrompt.of("low cello note"), "abc", 3, "amg", {"at": LogSNR(-1.0), "c": float("inf")}, 2,
    0.5, KeptPrompt.of("a flute", "hashed"),
)  # fmt: skip


@pytest.fixture(scope="module")
def verifier(certified_index: Path) -> Verifier:
    return Verifier.load(certified_index)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_new(tmp_path / "out.wav", channels=2)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_certificate_holds_all_that_was_checked(
    certified_index: Path, verifier: Verifier, file: Path
) -> None:
    verdict = verifier(*audio.read(file))
    path = certify(file, verdict, verifier.index, ABOUT)
    assert path == sidecar(file) == file.parent / "out.wav.anechoic.json"
    told = json.loads(path.read_text())
    checker = jsonschema.Draft202012Validator(schema(), format_checker=jsonschema.FormatChecker())
    checker.validate(told)
    samples = soundfile.read(file, dtype="float32")[0].tobytes()
    assert told["file"] == {
        "name": "out.wav",
        "sha256": sha256(file),
        "samples_sha256": hashlib.sha256(samples).hexdigest(),
        "seconds": SECONDS,
        "sample_rate": RATE,
        "channels": 2,
    }
    assert verdict.rule is not None
    (detector,) = told["detectors"]
    assert detector == {
        "detector": verdict.rule.detector,
        "score": pytest.approx(verdict.score, rel=1e-14),
        "limit": verdict.rule.threshold,
        "p_value": verdict.p_value,
        "false_positive_rate": 0.02,
        "held_out": 120,
        "origin": "calibrated on 120 held-out sounds, at a false-positive rate of 0.02",
        "index": "",
    }
    assert detector["score"] < detector["limit"]
    assert told["index"] == {
        "name": "i",
        "sha256": sha256(certified_index / "manifest.json"),
        "calibration_sha256": sha256(certified_index / "calibration.json"),
        "embedder": "magmel",
        "revision": None,
        "model": None,
        "clips": 4,
        "seconds": pytest.approx(4 * SECONDS),
    }
    assert told["provenance"] == {
        "prompt": {"kept": "clear", "value": "low cello note"},
        "model": "abc",
        "seed": 3,
        "guard": "amg",
        "settings": {"at": "LogSNR(value=-1.0)", "c": "inf"},
        "attempts": 2,
        "share": 0.5,
        "substitute": {"kept": "hashed", "value": hashlib.sha256(b"a flute").hexdigest()},
    }
    assert told["versions"]["torch"] == torch.__version__
    assert "index" in told["promise"]
    assert "not promised" in told["not_promised"]


def test_what_was_written_is_read_and_an_edit_is_noticed(verifier: Verifier, file: Path) -> None:
    path = certify(file, [verifier(*audio.read(file))], verifier.index, ABOUT)
    assert read(path).provenance.substitute == ABOUT.substitute
    path = certify(file, [verifier(*audio.read(file))], verifier.index, overwrite=True)
    found = read(path)
    assert found.intact
    assert found.provenance == Provenance()
    path.write_text(path.read_text().replace('"no copy",', '"no copy", '))
    assert read(path).intact  # only laid out otherwise
    path.write_text(path.read_text().replace('"channels": 2', '"channels": 1'))
    assert not read(path).intact


def test_a_prompt_is_clear_hashed_or_left_out(verifier: Verifier, file: Path) -> None:
    prompt = "a secret caf\udce9"
    kept = [KeptPrompt.of(prompt, kept) for kept in ("clear", "hashed", "left out")]
    texts = []
    for one in kept:
        verdict = verifier(*audio.read(file))
        path = certify(file, verdict, verifier.index, Provenance(one), overwrite=True)
        assert read(path).provenance.prompt == one
        texts.append(path.read_text())
    assert ["secret" in text for text in texts] == [True, False, False]
    assert hashlib.sha256(b"a secret caf\\udce9").hexdigest() in texts[1]


def test_new_tags_change_the_file_and_not_the_sound(tmp_path: Path, file: Path) -> None:
    wav, rate = audio.read(file)
    tagged = tmp_path / "tagged.flac"
    with soundfile.SoundFile(tagged, "w", rate, 2, format="FLAC", subtype="PCM_16") as sound:
        sound.title = "a title"
        sound.write(wav.T.numpy())
    assert samples_sha256(audio.read(tagged)[0]) == samples_sha256(wav)
    assert samples_sha256(wav.flip(0)) != samples_sha256(wav)


def test_what_is_a_copy_or_was_not_judged_gets_no_certificate(
    verifier: Verifier, file: Path
) -> None:
    index = verifier.index
    copy = verifier(bands(1), RATE)
    assert copy.status == "copy"
    unjudged = Verifier(index, verifier.embedder, None)(*audio.read(file))
    fine = verifier(*audio.read(file))
    for verdicts, sentence in (
        ([fine, copy], "'no copy', got 'copy' (score 1.000)"),
        ([unjudged], "got 'not judged' (index 'i' has neither a calibration nor a threshold)"),
        ([], "to certify, got none"),
    ):
        with pytest.raises(BadSetting) as refused:
            certify(file, verdicts, index)
        assert sentence in str(refused.value)
    assert not sidecar(file).exists()


def test_other_sound_than_was_judged_gets_no_certificate(verifier: Verifier, file: Path) -> None:
    wav, rate = audio.read(file)
    verdict, judged = verifier(wav, rate), samples_sha256(wav)
    certify(file, verdict, verifier.index, judged=judged)
    audio.write(file, 0.5 * wav, rate, overwrite=True)
    with pytest.raises(BadAudio, match="has changed since it was judged"):
        certify(file, verdict, verifier.index, judged=judged, overwrite=True)


def test_an_index_that_nobody_can_name_gives_no_certificate(tmp_path: Path, file: Path) -> None:
    loaded = Verifier.load(save_index(tmp_path / "i"))
    verdict = loaded(*audio.read(file))
    save_index(tmp_path / "i", count=3)
    with pytest.raises(IndexMismatch, match="index 'i' has changed in"):
        certify(file, verdict, loaded.index)
    with pytest.raises(IndexMismatch, match="made in memory"):
        certify(file, verdict, TrainingIndex.from_embeddings(torch.eye(3)))


def test_a_limit_of_another_calibration_gives_no_certificate(tmp_path: Path, file: Path) -> None:
    loaded = Verifier.load(save_index(tmp_path / "i"))
    verdict = loaded(*audio.read(file))
    save_index(tmp_path / "i", shift=0.01)
    with pytest.raises(IndexMismatch, match="not of the calibration that is stored with index 'i'"):
        certify(file, verdict, TrainingIndex.load(tmp_path / "i"))


def test_a_certificate_is_not_replaced_unless_asked(verifier: Verifier, file: Path) -> None:
    verdict = verifier(*audio.read(file))
    certify(file, verdict, verifier.index, output=file.parent / "c.json")
    with pytest.raises(OutputExists, match=r"c\.json' exists already"):
        certify(file, verdict, verifier.index, output=file.parent / "c.json")
    assert sorted(path.name for path in file.parent.iterdir()) == ["c.json", "out.wav"]


def test_a_share_of_more_than_all_is_refused() -> None:
    with pytest.raises(BadSetting, match="share of the training set up to 1, got 80"):
        Provenance(share=80.0)


BAD = {
    "nothing": (b"", "is not JSON"),
    "no object": (b"[1]", "is not a JSON object"),
    "deep": (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested"),
    "another format": (b'{"format": 2}', "in format 1, got '2'"),
    "no format": (b"{}", "in format 1, got 'None'"),
    "a part missing": (b'{"format": 1}', "another content than it should"),
    "huge": (b" " * (2**20 + 1), "1048577 bytes, over the limit of 1048576"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_malformed_certificate_is_one_sentence(tmp_path: Path, kind: str) -> None:
    content, sentence = BAD[kind]
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(BadCertificate) as refused:
        read(tmp_path / "c.json")
    assert sentence in str(refused.value)
    with pytest.raises(BadCertificate, match="does not exist"):
        read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [("file", None), ("detectors", [1]), ("verdict", "copy"), ("created", 7), ("index", {}),
     ("versions", {"torch": 2}), ("more", 1), ("provenance", {"share": 80})],
)  # fmt: skip
def test_a_field_of_another_type_is_one_sentence(
    verifier: Verifier, file: Path, field: str, value: object
) -> None:
    path = certify(file, verifier(*audio.read(file)), verifier.index)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(AnechoicError) as refused:
        read(path)
    assert type(refused.value) in (BadCertificate, BadSetting)
    assert "\n" not in str(refused.value)


def test_the_seal_covers_every_field(verifier: Verifier, file: Path) -> None:
    made = read(certify(file, verifier(*audio.read(file)), verifier.index))
    assert isinstance(made, Certificate)
    for changed in (
        replace(made, created="2020-01-01T00:00:00+00:00"),
        replace(made, promise="anything"),
        replace(made, index=replace(made.index, clips=5)),
        replace(made, versions={}),
    ):
        assert not changed.intact
        assert changed.sealed().intact
