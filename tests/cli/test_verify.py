"""`anechoic check --certify` and `anechoic verify`, as a person runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.certified import Signers, save_index, write_new
from support.commands import Run, lines
from support.sounds import RATE, bands

from anechoic import audio


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: an index, a copy and a new sound."""
    monkeypatch.chdir(tmp_path)
    save_index(tmp_path / "i")
    audio.write("copy.wav", bands(1), RATE)
    return write_new(Path("new.wav")).parent


def test_only_what_is_no_copy_gets_a_certificate(here: Path, command: Run) -> None:
    code, out, _ = command("check", "new.wav", "copy.wav", "--index", "i", "--certify")
    assert code == 1
    assert lines(out)[-2:] == [
        "new.wav: new.wav.anechoic.json", "copy.wav: gets no certificate"
    ]  # fmt: skip
    assert not Path("copy.wav.anechoic.json").exists()
    code, out, _ = command("verify", "new.wav", "--index", "i", "--recheck")
    assert code == 0
    detector, index, *rest = lines(out)
    assert detector.startswith(
        "no copy: 'nearest stretch (magmel, whole clips)' scores 0.03748, p 1"
    )
    assert index == "index 'i': 4 clips, an unknown share of the training set"
    assert "note: the certificate is not signed: anyone could have written it" in rest
    assert rest[-1] == "new.wav: verified by the certificate new.wav.anechoic.json"


def test_what_differs_exits_with_1_and_json_tells_what(here: Path, command: Run) -> None:
    words = ("check", "new.wav", "--index", "i", "--certify", "--share", "0.25", "--json")
    code, out, _ = command(*words)
    (told,) = json.loads(out)["files"]
    assert (code, told["certificate"]) == (0, "new.wav.anechoic.json")
    audio.write("new.wav", bands(50), RATE, overwrite=True)
    code, out, _ = command("verify", "new.wav")
    assert code == 1
    assert "index 'i': 4 clips, 0.25 of the training set" in lines(out)
    assert "DIFFERS: the sound is not the one that was certified" in lines(out)
    assert lines(out)[-1] == "new.wav: NOT VERIFIED, 2 findings against it"
    code, out, _ = command("verify", "new.wav", "--json")
    found = json.loads(out)
    assert (code, found["verified"]) == (1, False)
    assert [one["subject"] for one in found["findings"] if one["holds"] is False] == [
        "sound", "file"
    ]  # fmt: skip
    assert found["certificate"]["provenance"]["share"] == 0.25


def test_check_signs_what_it_certifies(here: Path, command: Run, signers: Signers) -> None:
    words = ("check", "new.wav", "--index", "i", "--certify", *signers.options("ec"))
    assert command(*words)[0] == 0
    Path("new.wav.anechoic.json").unlink()
    code, out, _ = command("verify", "new.wav", "--trust", signers.chain("authority"))
    assert code == 0
    assert "holds: the signature is valid, of ec, Example studio, which is trusted" in lines(out)


REFUSED = {
    "no certificate": (("verify", "new.wav"), "'new.wav' has no certificate in it, and none"),
    "no file": (("verify", "none.wav"), "there is no file 'none.wav'; check the path"),
    "no index": (("verify", "new.wav", "--recheck"), "to check again, the index is needed"),
    "no --certify": (
        ("check", "new.wav", "--index", "i", "--share", "1"), "give '--certify', too"
    ),
    "half of a signer": (
        ("check", "new.wav", "--index", "i", "--certify", "--signing-key", "k"),
        "'--signing-chain' and '--signing-key' are both needed",
    ),
    "a share of 2": (
        ("check", "new.wav", "--index", "i", "--certify", "--share", "2"),
        "expected a share of the training set up to 1, got 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_bad_input_is_one_sentence_and_exit_2(here: Path, command: Run, kind: str) -> None:
    words, sentence = REFUSED[kind]
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_certificate_is_replaced_only_with_overwrite(here: Path, command: Run) -> None:
    words = ("check", "new.wav", "--index", "i", "--certify")
    assert command(*words)[0] == 0
    before = Path("new.wav.anechoic.json").read_bytes()
    code, _, err = command(*words, "--threshold", "0.9")
    assert (code, "replace it with '--overwrite'" in err) == (2, True)
    assert Path("new.wav.anechoic.json").read_bytes() == before
    assert command(*words, "--threshold", "0.9", "--overwrite")[0] == 0
    assert command("verify", "new.wav")[0] == 0
    assert command("verify", "new.wav", "--index", "i")[0] == 1
