"""Whether a certificate still fits its sound file, its signature and its index."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import soundfile

from anechoic import audio
from anechoic.certificate.c2pa import Signed, read_signed
from anechoic.certificate.content import (
    Certificate,
    CertifiedFile,
    CertifiedIndex,
    Judged,
    file_sha256,
    parsed,
    read,
    rounded,
    sidecar,
)
from anechoic.detectors import Calibration, calibration
from anechoic.errors import BadAudio, BadCertificate, BadSetting
from anechoic.index import manifest as manifests
from anechoic.parsing import read_file
from anechoic.storage import Storage
from anechoic.verdict import COPY, Verifier

INSIDE = "inside the file"
TOLERANCE = 1e-4  # between scores of the same sound on two machines
EXACT = (".wav", ".wave", ".flac")  # what decodes to the same samples by every version


@dataclass(frozen=True)
class Finding:
    """What was compared, and how it came out."""

    subject: str
    holds: bool | None  # None: nothing was compared
    sentence: str


@dataclass(frozen=True)
class Verification:
    """A certificate, and whether everything in it still holds."""

    file: str
    source: str  # where the certificate stands
    certificate: Certificate | None  # None: a broken signature left nothing to read
    findings: tuple[Finding, ...]

    @property
    def verified(self) -> bool:
        """Whether nothing differs."""
        return all(one.holds is not False for one in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The verification for JSON."""
        return {**asdict(self), "verified": self.verified}


def verify(
    file: str | Path,
    certificate: str | Path | None = None,
    index: str | Path | Sequence[str | Path] | None = None,
    *,
    recheck: bool = False,
    trust: str | Path | None = None,
) -> Verification:
    """Compare a sound file with its certificate.

    Args:
        file: the sound file.
        certificate: its certificate; by default the signed one in the file, or else the one beside
            it (`sidecar`).
        index: the folder of the index that is named there, or of several, to be compared.
        recheck: judge the file by each of them again, and compare the scores.
        trust: file of certificates, PEM, of the authorities whose signers are trusted. Without
            one, a signature shows only that nothing was changed after it; with one, a certificate
            that has no trusted signature does not hold.

    Raises:
        BadCertificate: there is none, or it is damaged.
        BadAudio: not usable sound.
        BadSetting: a signature is there and the extra 'c2pa' is not installed; no index to check
            again by; `trust` is not PEM.
        IndexMismatch: the index is damaged.

    Example:
        verify("out.wav", index="clips.index").verified
    """
    folders = [index] if isinstance(index, (str, Path)) else list(index or ())
    if recheck and not folders:
        raise BadSetting("to check again, the index is needed: give '--index'")
    path = Path(file)
    content = read_file(path, "sound file", BadAudio)
    anchors = None if trust is None else read_file(trust, "file of '--trust'", BadSetting)
    signed = _read_signature(content, path, anchors, certificate is not None)
    inside = _inside(signed, path)
    beside_path = sidecar(path) if certificate is None else Path(certificate)
    beside = read(beside_path) if certificate is not None or beside_path.is_file() else None
    broken = signed if signed is not None and signed.state == "broken" else None
    if beside is None and inside is None:
        if broken is not None:
            return Verification(str(path), INSIDE, None, (signature_finding(broken, False),))
        raise BadCertificate(
            f"'{path}' has no certificate in it, and none beside it ('{beside_path}'); name it "
            "with '--certificate'"
        )
    found: list[Finding] = []
    chosen, source = beside, str(beside_path)
    if inside is not None and certificate is None:
        if beside is not None:
            found += _same(inside, beside)
        chosen, source = inside, INSIDE
    assert chosen is not None
    found += _itself(chosen)
    found += [signature_finding(signed if chosen is inside else broken, anchors is not None)]
    whole = chosen.file.sha256 or (beside.file.sha256 if beside is not None else None)
    found += _sound(path, content, chosen, whole)
    found += _indexes(chosen, folders, path if recheck else None)
    return Verification(str(path), source, chosen, tuple(found))


def _inside(signed: Signed | None, path: Path) -> Certificate | None:
    if signed is None or signed.content is None:
        return None
    try:
        return parsed(signed.content, f"the certificate in '{path}'")
    except BadCertificate:
        if signed.state == "broken":
            return None
        raise


def _read_signature(
    content: bytes, path: Path, trust: bytes | None, another: bool
) -> Signed | None:
    """The signature in a file; None: there is none, or, where `another` certificate was named, it
    cannot be read here."""
    try:
        return read_signed(content, path, trust)
    except BadSetting:
        if another and trust is None:
            return None
        raise


def _same(inside: Certificate, beside: Certificate) -> Iterator[Finding]:
    file = replace(beside.file, sha256=None)
    if replace(beside, file=file, sha256="") != replace(inside, sha256=""):
        yield Finding(
            "certificate", False, "the certificate beside the file is another than the one inside"
        )


def _itself(certificate: Certificate) -> Iterator[Finding]:
    if certificate.intact:
        when = certificate.created
        yield Finding("certificate", True, f"the certificate is as it was written, {when}")
    else:
        yield Finding("certificate", False, "the certificate was edited or damaged")
    for one in certificate.detectors:
        over = one.score > one.limit or (one.held_out is None and one.score == one.limit)
        if over:
            yield Finding(
                "verdict",
                False,
                f"'{one.detector}' scores {one.score:.4g}, which its limit of {one.limit:.4g} "
                "calls a copy",
            )
    if not certificate.detectors:
        yield Finding("verdict", False, "the certificate names no detector")


def signature_finding(signed: Signed | None, trust: bool, what: str = "the certificate") -> Finding:
    """What a signature is worth.

    Args:
        signed: the signature; None: there is none.
        trust: a trusted one is asked for.
        what: what it covers.
    """
    unsure = False if trust else None  # where a trusted signature is asked for, nothing less holds
    if signed is None:
        unsigned = f"{what} is not signed: anyone could have written it"
        return Finding("signature", unsure, unsigned)
    if signed.state == "broken":
        return Finding("signature", False, f"the signature in the file is broken: {signed.reason}")
    valid = f"the signature is valid, of {signed.signer}"
    if signed.state == "trusted":
        return Finding("signature", True, f"{valid}, which is trusted")
    return Finding(
        "signature", unsure, f"{valid}, which is not known to be trusted: anyone could have signed"
    )


def _sound(
    path: Path, content: bytes, certificate: Certificate, whole: str | None
) -> Iterator[Finding]:
    now, certified = CertifiedFile.of(path, content), certificate.file
    if same := now.same_sound(certified):
        yield Finding("sound", True, "the sound is the one that was certified")
    else:
        then, here = certificate.versions.get("libsndfile"), soundfile.__libsndfile_version__
        decoder = ""
        if path.suffix.lower() not in EXACT and then != here:
            decoder = f", or libsndfile {here} decodes it otherwise than {then} did"
        yield Finding("sound", False, f"the sound is not the one that was certified{decoder}")
    if whole is None:
        return  # the signature covers the file
    if whole == now.sha256:
        yield Finding("file", True, "the file is the one that was certified")
    else:
        why = ", but not its sound, as by new tags" if same else ""
        yield Finding("file", False, f"the file has changed{why}")


def _indexes(
    certificate: Certificate, folders: Sequence[str | Path], recheck: Path | None
) -> Iterator[Finding]:
    indexes = (certificate.index, *certificate.further)
    compared = set()
    for place in map(Storage, folders):
        here = file_sha256(place, manifests.NAME)
        certified = next((one for one in indexes if one.sha256 == here), None)
        if certified is None:
            names = " and ".join(f"'{one.name}'" for one in indexes)
            manifests.read(place)  # raises if it is no index at all
            yield Finding(
                "index", False, f"'{place.name}' is another index than {names}, or it has changed"
            )
            continue
        compared.add(here)
        yield from _index(certificate, certified, place, recheck)
    for one in indexes:
        if one.sha256 not in compared:
            yield Finding("index", None, f"index '{one.name}' was not compared; give '--index'")
    named = {one.sha256 for one in indexes} if certificate.further else {""}
    if any(one.index not in named for one in certificate.detectors):
        yield Finding("index", False, "a detector names an index that the certificate does not")


def _index(
    certificate: Certificate, certified: CertifiedIndex, place: Storage, recheck: Path | None
) -> Iterator[Finding]:
    """Whether a certificate still fits one of its indexes."""
    manifest = manifests.read(place)
    about = manifest.about
    known = (about.embedder_name, about.revision, about.model, manifest.clips)
    if known != (certified.embedder, certified.revision, certified.model, certified.clips):
        yield Finding("index", False, f"the certificate says of '{place.name}' what is not so")
    yield Finding("index", True, f"index '{certified.name}' is the one that was compared with")
    if file_sha256(place, calibration.FILE) != certified.calibration_sha256:
        yield Finding("limits", False, f"index '{certified.name}' has been calibrated again since")
    stored = calibration.read(place.name, needed=False)
    detectors = [one for one in certificate.detectors if one.index in ("", certified.sha256)]
    for judged in detectors:
        yield _limit(judged, stored.get(judged.detector), about.thresholds.get(COPY))
    if recheck is not None:
        yield from _again(certificate, detectors, Verifier.load(place.name), recheck)


def _limit(one: Judged, known: Calibration | None, own: float | None) -> Finding:
    """Whether a limit, and the p-value beside it, are those of the index."""
    limit = None if own is None or one.held_out is not None else rounded(own)
    if known is not None:
        known = replace(known, null=tuple(map(rounded, known.null)))
    if known is not None and one.held_out == len(known.null):
        try:
            rate = one.false_positive_rate or known.false_positive_rate
            limit = replace(known, false_positive_rate=rate).threshold
        except BadSetting:  # a rate that it cannot have
            pass
    what = f"the limit of '{one.detector}', {one.limit:.4g},"
    if limit is None or limit != one.limit:
        index = "no such limit" if limit is None else f"{limit:.4g}"
        return Finding("limits", False, f"{what} is not the index's, which has {index}")
    p_value = None if known is None else rounded(known.p_value(one.score))
    if one.p_value is not None and one.p_value != p_value:
        follows = "none" if p_value is None else f"{p_value:.3g}"
        sentence = f"'{one.detector}' has p {one.p_value:.3g}, and {follows} follows"
        return Finding("limits", False, sentence)
    return Finding("limits", True, f"{what} is that of the index")


def _again(
    certificate: Certificate, detectors: Sequence[Judged], verifier: Verifier, file: Path
) -> Iterator[Finding]:
    verdict = verifier(*audio.read(file, allow_silence=True))
    name = None if verdict.rule is None else verdict.rule.detector
    for one in detectors:
        if one.detector != name:
            yield Finding("recheck", None, f"'{one.detector}' was not run again")
            continue
        now = f"'{one.detector}' scores {verdict.score:.4f} now, and {one.score:.4f} then"
        same = math.isclose(verdict.score, one.score, rel_tol=0, abs_tol=TOLERANCE)
        yield Finding("recheck", same and verdict.status == certificate.verdict, now)
