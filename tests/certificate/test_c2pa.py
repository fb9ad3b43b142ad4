"""Signed certificates inside WAV, FLAC and MP3."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.certified import Signers, write_new

from anechoic import Verifier, audio
from anechoic.certificate import (
    Provenance,
    SigningKey,
    Verification,
    certify,
    content,
    read,
    sidecar,
    verify,
)
from anechoic.errors import BadCertificate, BadSetting


@pytest.fixture(scope="module")
def verifier(certified_index: Path) -> Verifier:
    return Verifier.load(certified_index)


def sign(signers: Signers, file: Path, verifier: Verifier, name: str = "ec") -> Path:
    signing = SigningKey.load(signers.chain(name), signers.key(name))
    verdict, about = (
        verifier(*audio.read(file)),
        Provenance(seed=2**32 - 1, settings={"c": 323 / 335}),
    )
    certify(file, verdict, verifier.index, about, signing=signing, overwrite=True)
    return file


def signature(found: Verification) -> tuple[bool | None, str]:
    (one,) = (one for one in found.findings if one.subject == "signature")
    return one.holds, one.sentence


@pytest.mark.parametrize("name", ["ec", "rsa"])
@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3"])
def test_a_signed_certificate_is_in_the_file_and_its_sound_is_the_same(
    signers: Signers, verifier: Verifier, certified_index: Path, tmp_path: Path, name: str,
    suffix: str,
) -> None:  # fmt: skip
    file = write_new(tmp_path / f"out.{suffix}", channels=2)
    before = audio.read(file)[0]
    sign(signers, file, verifier, name)
    assert torch.equal(audio.read(file)[0], before)
    assert verify(file, index=certified_index, recheck=True).verified
    made = read(sidecar(file))
    sidecar(file).unlink()
    found = verify(file, trust=signers.chain("authority"))
    assert found.verified
    assert found.source == "inside the file"
    assert found.certificate is not None
    assert found.certificate.intact
    assert found.certificate.provenance == made.provenance
    assert found.certificate == replace(
        made, file=replace(made.file, sha256=None), sha256=found.certificate.sha256
    )
    assert signature(found) == (
        True, f"the signature is valid, of {name}, Example studio, which is trusted"
    )  # fmt: skip


def test_a_signer_who_was_not_given_as_trusted_is_told(
    signers: Signers, verifier: Verifier, tmp_path: Path
) -> None:
    file = sign(signers, write_new(tmp_path / "out.wav"), verifier)
    sentence = (
        "the signature is valid, of ec, Example studio, which is not known to be trusted: anyone "
        "could have signed"
    )
    assert signature(verify(file)) == (None, sentence)
    found = verify(file, trust=signers.chain("stranger"))
    assert (found.verified, signature(found)) == (False, (False, sentence))
    unsigned = verify(file, certificate=sidecar(file), trust=signers.chain("stranger"))
    assert not unsigned.verified


def test_a_signed_file_may_be_signed_again(
    signers: Signers, verifier: Verifier, tmp_path: Path
) -> None:
    file = sign(signers, write_new(tmp_path / "out.flac"), verifier)
    size = file.stat().st_size
    sign(signers, file, verifier, "rsa")
    assert verify(file, trust=signers.chain("authority")).verified
    assert file.stat().st_size < size + 2000


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        (b"no copy", "is broken: "),
        (b"out.wav", "is broken: "),
        (b"jumdc2ma", "is broken: "),
        (b"data", "is broken: asset hash error"),
    ],
)
def test_one_changed_byte_breaks_the_signature(
    signers: Signers, verifier: Verifier, tmp_path: Path, where: bytes, sentence: str
) -> None:
    file = sign(signers, write_new(tmp_path / "out.wav"), verifier)
    sidecar(file).unlink()
    damaged = bytearray(file.read_bytes())
    assert where in damaged
    damaged[damaged.index(where) + (len(where) - 1 if where != b"data" else 1000)] ^= 1
    file.write_bytes(damaged)
    found = verify(file)
    assert not found.verified
    holds, told = signature(found)
    assert (holds, sentence in told) == (False, True), told


def test_filler_that_no_signature_covers_holds_no_certificate(
    signers: Signers, verifier: Verifier, tmp_path: Path
) -> None:
    file = sign(signers, write_new(tmp_path / "out.wav"), verifier)
    intact, damaged = verify(file), bytearray(file.read_bytes())
    damaged[damaged.rindex(bytes(200)) + 100] = 1  # behind the signature
    file.write_bytes(damaged)
    found = verify(file)
    assert [one.subject for one in found.findings if one.holds is False] == ["file"]
    sidecar(file).unlink()
    assert verify(file).certificate == intact.certificate


def test_new_tags_break_the_signature_and_not_the_sound(
    signers: Signers, verifier: Verifier, tmp_path: Path
) -> None:
    file = sign(signers, write_new(tmp_path / "out.mp3"), verifier)
    tag = b"TAG" + b"a title".ljust(125, b"\0")
    file.write_bytes(file.read_bytes() + tag)
    found = verify(file)
    assert [one.subject for one in found.findings if one.holds is False] == ["signature", "file"]
    assert "sound" in [one.subject for one in found.findings if one.holds]


def test_another_certificate_beside_a_signed_one_is_told(
    signers: Signers, verifier: Verifier, tmp_path: Path
) -> None:
    file = sign(signers, write_new(tmp_path / "out.wav"), verifier)
    text = sidecar(file).read_text()
    sidecar(file).write_text(text.replace('"attempts": null', '"attempts": 1'))
    found = verify(file)
    assert [one.sentence for one in found.findings if one.holds is False] == [
        "the certificate beside the file is another than the one inside"
    ]


def test_a_signature_of_another_file_is_broken(
    signers: Signers, verifier: Verifier, tmp_path: Path
) -> None:
    """Whoever moves a manifest into other sound is found out."""
    file = sign(signers, write_new(tmp_path / "out.wav"), verifier)
    signed, plain = file.read_bytes(), write_new(tmp_path / "b.wav").read_bytes()
    start = signed.index(b"C2PA")
    moved = bytearray(plain + signed[start:])
    samples = moved.index(b"data") + 500
    moved[samples] ^= 64
    moved[4:8] = (len(moved) - 8).to_bytes(4, "little")
    (tmp_path / "b.wav").write_bytes(moved)
    found = verify(tmp_path / "b.wav")
    assert {one.subject for one in found.findings if one.holds is False} == {"signature", "sound"}


def test_what_cannot_sign_is_one_sentence(signers: Signers, tmp_path: Path) -> None:
    text = tmp_path / "text.pem"
    text.write_text("nothing")
    for chain, key, sentence in (
        (text, signers.key("ec"), "the signer's chain has no certificates in PEM"),
        (signers.chain("ec"), text, "the signing key is not an unencrypted private key in PEM"),
        (signers.chain("ec"), signers.key("rsa"), "not that of the first certificate of the chain"),
        (signers.chain("wide"), signers.key("wide"), "expected a signing key on the curve P-256"),
        (tmp_path / "none", signers.key("ec"), "does not exist; check the path"),
    ):
        with pytest.raises(BadSetting) as refused:
            SigningKey.load(chain, key)
        assert sentence in str(refused.value)
    assert "PRIVATE" not in repr(SigningKey.load(signers.chain("ec"), signers.key("ec")))


@pytest.mark.parametrize("name", ["authority", "expired"])
def test_a_chain_that_is_not_good_for_c2pa_leaves_the_file_alone(
    signers: Signers, verifier: Verifier, tmp_path: Path, name: str
) -> None:
    file = write_new(tmp_path / "out.wav")
    before = file.read_bytes()
    with pytest.raises(BadCertificate, match="cannot be signed"):
        sign(signers, file, verifier, name)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out.wav"]


def test_a_format_that_cannot_be_signed_is_refused(
    signers: Signers, verifier: Verifier, tmp_path: Path
) -> None:
    file = write_new(tmp_path / "out.ogg")
    with pytest.raises(BadSetting, match=r"cannot be signed: expected \.wav, "):
        sign(signers, file, verifier)
    file.rename(tmp_path / "out.flac")  # a suffix that does not say what it is
    with pytest.raises(BadCertificate, match="cannot be signed"):
        sign(signers, tmp_path / "out.flac", verifier)
    assert [path.name for path in tmp_path.iterdir()] == ["out.flac"]


def test_a_signature_that_would_change_the_sound_is_refused(
    signers: Signers, verifier: Verifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_new(tmp_path / "out.wav")
    before = file.read_bytes()
    other = write_new(tmp_path / "b.wav", channels=2).read_bytes()
    monkeypatch.setattr(content, "sign", lambda *_: other)
    with pytest.raises(BadCertificate, match="a signature would change the sound"):
        sign(signers, file, verifier)
    assert file.read_bytes() == before


def test_a_trust_that_is_not_pem_is_refused(
    signers: Signers, verifier: Verifier, tmp_path: Path
) -> None:
    file = sign(signers, write_new(tmp_path / "out.wav"), verifier)
    with pytest.raises(BadSetting, match="the file of '--trust' has no certificates in PEM"):
        verify(file, trust=signers.key("ec"))


def test_without_the_extra_a_signature_is_never_taken_for_verified(
    signers: Signers, verifier: Verifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sign(signers, write_new(tmp_path / "out.wav"), verifier)
    plain = shutil.copy(sidecar(file), tmp_path / "c.json")
    known = importlib.util.find_spec

    def without(name: str, package: str | None = None) -> object:
        return None if name == "c2pa" else known(name, package)

    monkeypatch.setattr("anechoic.certificate.c2pa.find_spec", without)
    for call in (
        lambda: verify(file),
        lambda: verify(file, certificate=plain, trust=signers.chain("authority")),
        lambda: SigningKey.load(signers.chain("ec"), signers.key("ec")),
    ):
        with pytest.raises(BadSetting, match=r"pip install 'anechoic\[c2pa\]'"):
            call()
    assert signature(verify(file, certificate=plain))[1].startswith("the certificate is not signed")
