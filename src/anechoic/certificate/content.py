"""The content of a certificate, and the JSON file beside the sound that holds it.

The file is not signed, so anyone could write one: its own hash finds accidents, not forgery.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from anechoic import audio
from anechoic.certificate.c2pa import SigningKey, read_signed, sign
from anechoic.detectors import calibration
from anechoic.environment import versions
from anechoic.errors import BadAudio, BadCertificate, BadSetting, IndexMismatch, OutputExists
from anechoic.index import JoinedIndex, TrainingIndex
from anechoic.index.manifest import NAME, hash_of
from anechoic.parsing import parse_object, parse_record, read_file, readable, require_limit
from anechoic.storage import Storage, write_whole
from anechoic.types import parts_of
from anechoic.verdict import Rule, Verdict

FORMAT = 1
SCHEMA = "certificate.schema.json"
SUFFIX = ".anechoic.json"
PROMISE = (
    "None of the detectors named here scores this sound above its limit, against the index named "
    "here."
)
NOT_PROMISED = (
    "It is not promised that the model has not learnt a training clip, that these detectors notice "
    "every likeness, nor anything about clips that are not in the index."
)
FIX = "ask for it again where it was issued"
Kept = Literal["clear", "hashed", "left out"]


@dataclass(frozen=True)
class KeptPrompt:
    """A prompt as it may be shown: clear, as its SHA-256, or left out.

    The hash of a short prompt can be guessed by trying prompts.
    """

    kept: Kept = "left out"
    value: str | None = None

    @classmethod
    def of(cls, prompt: str, kept: Kept = "clear") -> KeptPrompt:
        """A prompt, kept in one of the three ways.

        >>> KeptPrompt.of("low cello note", "hashed").value[:8]
        '11b8e52b'
        """
        text = prompt.encode("utf-8", "backslashreplace")
        values = {"clear": text.decode(), "hashed": hashlib.sha256(text).hexdigest()}
        return cls(kept, values.get(kept))


@dataclass(frozen=True)
class Provenance:
    """How a sound was made, as the one who certifies it states it; None: not stated."""

    prompt: KeptPrompt = KeptPrompt()
    model: str | None = None  # fingerprint of the model
    seed: int | None = None
    guard: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the guard
    attempts: int | None = None  # generations until this one, included
    share: float | None = None  # of the training set that the index covers, from 0 to 1
    substitute: KeptPrompt | None = None  # the caption that guided it in place of the prompt

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= 1:
            raise BadSetting(f"expected a share of the training set up to 1, got {self.share:g}")


@dataclass(frozen=True)
class CertifiedFile:
    """The sound file: its bytes, and what they decode to."""

    name: str
    sha256: str | None  # None: the certificate is inside the file, whose signature covers it
    samples_sha256: str  # of the decoded sound, which new tags do not change
    seconds: float
    sample_rate: int
    channels: int

    @classmethod
    def of(cls, path: Path, content: bytes) -> CertifiedFile:
        """A sound file that was read. Raises `BadAudio`."""
        wav, sample_rate = audio.read_bytes(content, str(path), allow_silence=True)
        whole, samples = hashlib.sha256(content).hexdigest(), samples_sha256(wav)
        seconds = rounded(wav.shape[1] / sample_rate)
        return cls(readable(path.name), whole, samples, seconds, sample_rate, len(wav))

    def same_sound(self, other: CertifiedFile) -> bool:
        """Whether two files hold the same sound."""
        return replace(other, name=self.name, sha256=self.sha256) == self


@dataclass(frozen=True)
class CertifiedIndex:
    """The index that the sound was compared with."""

    name: str
    sha256: str  # of its manifest.json, which holds the hash of each of its files
    calibration_sha256: str | None  # of its calibration.json; None: it is not calibrated
    embedder: str
    revision: str | None  # of the embedder's weights
    model: str | None  # fingerprint of the model that was trained on the clips
    clips: int
    seconds: float | None  # of all clips together; None: unknown


@dataclass(frozen=True)
class Judged:
    """What one detector found."""

    detector: str
    score: float
    limit: float
    p_value: float | None  # None: not calibrated
    false_positive_rate: float | None  # None: unknown
    held_out: int | None  # sounds that the limit was calibrated on
    origin: str  # of the limit
    index: str = ""  # `CertifiedIndex.sha256` of the one compared with, of several

    @classmethod
    def of(cls, verdict: Verdict, rule: Rule) -> Judged:
        """A verdict, and the rule that it was given by."""
        told = rule.to_dict()
        return cls(
            rule.detector,
            rounded(verdict.score),
            rounded(rule.threshold),
            None if verdict.p_value is None else rounded(verdict.p_value),
            told["false_positive_rate"],
            told["held_out"],
            rule.origin,
        )


@dataclass(frozen=True)
class Certificate:
    """What was checked about one sound file. `certify` issues it, `read` reads it."""

    created: str  # UTC, ISO 8601
    file: CertifiedFile
    verdict: Literal["no copy"]
    detectors: tuple[Judged, ...]
    index: CertifiedIndex
    provenance: Provenance
    versions: Mapping[str, str]
    promise: str = PROMISE
    not_promised: str = NOT_PROMISED
    format: int = FORMAT
    further: tuple[CertifiedIndex, ...] = ()  # more indexes that it was compared with
    sha256: str = ""  # of all the rest

    @property
    def intact(self) -> bool:
        """Whether it is as it was written."""
        return self.sha256 == self._hash()

    def _hash(self) -> str:
        rest = asdict(self)
        del rest["sha256"]
        return hash_of(rest)

    def sealed(self) -> Certificate:
        """The certificate with its own hash."""
        return replace(self, sha256=self._hash())


# ----------------------------------------------------------------------------------- to issue one


def certify(
    file: str | Path,
    verdicts: Verdict | Sequence[Verdict],
    index: TrainingIndex | JoinedIndex | Sequence[TrainingIndex],
    about: Provenance | None = None,
    output: str | Path | None = None,
    *,
    judged: str | None = None,
    signing: SigningKey | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the certificate of a sound file that was judged, whole or not at all.

    With a `signing` key a signed copy of it goes into the file, too, whose sound stays the same.

    Args:
        file: the sound file.
        verdicts: the verdict of each detector on it; all have to be "no copy".
        index: the training set that it was compared with, as it was loaded; or several, each of
            which has to have a verdict.
        about: how the sound was made.
        output: the file to write; by default `sidecar(file)`.
        judged: `samples_sha256` of the sound that was judged; another is refused.
        signing: who signs; None: the certificate is not signed.
        overwrite: replace a certificate.

    Returns:
        The path of the certificate.

    Raises:
        BadSetting: a verdict is "copy" or "not judged", or there is none; or the file is to be
            signed, and its format cannot be.
        BadCertificate: it cannot be signed with this chain.
        BadAudio: not usable sound, or not the sound that was judged.
        IndexMismatch: the index was made in memory or has changed since it was loaded, or a limit
            is of another calibration than the one that is stored with it.
        OutputExists: the certificate exists, and `overwrite` is off.
        OSError: the disk is full, or the folder is read-only.

    Example:
        verifier = Verifier.load("clips.index")
        verdict = verifier(*audio.read("out.wav"))
        certify("out.wav", verdict, verifier.index, Provenance(seed=3))
    """
    path = Path(file)
    target = sidecar(path) if output is None else Path(output)
    found = [verdicts] if isinstance(verdicts, Verdict) else list(verdicts)
    detectors = _require_no_copy(path, found)
    if target.exists() and not overwrite:
        raise OutputExists.at(target)
    content = read_file(path, "sound file", BadAudio)
    rules = [verdict.rule for verdict in found if verdict.rule]
    (certified, *further), detectors = _compared(index, rules, detectors)
    made = Certificate(
        datetime.now(UTC).isoformat(timespec="seconds"),
        CertifiedFile.of(path, content),
        "no copy",
        detectors,
        certified,
        _plain(about or Provenance()),
        _versions(),
        further=tuple(further),
    )
    if judged is not None and judged != made.file.samples_sha256:
        raise BadAudio(f"'{path}' has changed since it was judged; judge it again")
    if signing is not None:
        signed = _signed(content, path, made, signing)
        write_whole(path, signed)
        made = replace(made, file=replace(made.file, sha256=hashlib.sha256(signed).hexdigest()))
    text = json.dumps(asdict(made.sealed()), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(target, f"{text}\n".encode("utf-8", "backslashreplace"))
    return target


def sidecar(file: Path) -> Path:
    """Where the certificate of a sound file stands: out.wav.anechoic.json beside out.wav."""
    return file.with_name(file.name + SUFFIX)


def rounded(value: float) -> float:
    """A number of 15 digits, which every reader of JSON gives back as it is: one that C2PA uses
    changes the last bit of longer ones."""
    return float(f"{value:.15g}")


def samples_sha256(wav: Tensor) -> str:
    """The SHA-256 of decoded sound [c, t]: of little-endian float32, channels interleaved.

    This is what `soundfile.read(file, dtype="float32")` gives. MP3 and Ogg may decode to other last
    bits with another version of the decoder.
    """
    samples = wav.detach().float().cpu().T.contiguous().numpy()
    return hashlib.sha256(samples.astype(np.dtype("<f4"), copy=False).tobytes()).hexdigest()


def _require_no_copy(file: Path, verdicts: Sequence[Verdict]) -> tuple[Judged, ...]:
    if not verdicts:
        raise BadSetting(f"expected a verdict on '{file}' to certify, got none; judge it first")
    judged = []
    for verdict in verdicts:
        if verdict.status != "no copy" or verdict.rule is None:
            why = verdict.reason or f"score {verdict.score:.3f}"
            raise BadSetting(
                f"'{file}' gets no certificate: expected the verdict 'no copy', got "
                f"'{verdict.status}' ({why})"
            )
        judged.append(Judged.of(verdict, verdict.rule))
    return tuple(judged)


def _compared(
    index: TrainingIndex | JoinedIndex | Sequence[TrainingIndex],
    rules: Sequence[Rule],
    detectors: Sequence[Judged],
) -> tuple[list[CertifiedIndex], tuple[Judged, ...]]:
    """The indexes, and the detectors, each with its index where there are several.

    Raises:
        IndexMismatch: as `_certified`; or a rule is of no index, or an index has no verdict.
    """
    parts = tuple(index) if isinstance(index, list | tuple) else parts_of(index)
    if len(parts) == 1:
        return [_certified(parts[0], rules)], tuple(detectors)
    of = [[rule for rule in rules if rule.index == part.folder] for part in parts]
    if lost := [part.name for part, own in zip(parts, of, strict=True) if not own]:
        raise IndexMismatch(
            f"expected a verdict by each of the indexes, got none by '{lost[0]}'; judge the sound "
            "by it, too"
        )
    certified = [_certified(part, own) for part, own in zip(parts, of, strict=True)]
    hashes = {part.folder: one.sha256 for part, one in zip(parts, certified, strict=True)}
    if lost := [rule.detector for rule in rules if rule.index not in hashes]:
        raise IndexMismatch(
            f"a verdict of '{lost[0]}' is by none of these indexes; name its own, too"
        )
    named = (
        replace(one, index=hashes[rule.index]) for one, rule in zip(detectors, rules, strict=True)
    )
    return certified, tuple(named)


def _certified(index: TrainingIndex, rules: Sequence[Rule]) -> CertifiedIndex:
    place, manifest = index.stored()
    stored = calibration.read(place.name, needed=False)
    for rule in rules:
        known = stored.get(rule.detector)
        if rule.calibration is not None and (known is None or known.null != rule.calibration.null):
            raise IndexMismatch(
                f"the limit of '{rule.detector}' is not of the calibration that is stored with "
                f"index '{index.name}'; store it with 'anechoic calibrate', and judge again"
            )
    return CertifiedIndex(
        index.name,
        file_sha256(place, NAME) or "",
        file_sha256(place, calibration.FILE),
        index.embedder_name,
        index.revision,
        index.model,
        manifest.clips,
        rounded(index.seconds) or None,
    )


def file_sha256(place: Storage, name: str) -> str | None:
    """The SHA-256 of a file of an index; None: there is no such file."""
    return hashlib.sha256(place.read(name)).hexdigest() if place.exists(name) else None


def _plain(about: Provenance) -> Provenance:
    """What was stated, as JSON holds it."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name): plain(one) for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(one) for one in value]
        if isinstance(value, float) and math.isfinite(value):
            return rounded(value)
        return value if value is None or isinstance(value, (bool, int, str)) else str(value)

    share = None if about.share is None else rounded(about.share)
    return replace(about, settings=plain(about.settings), share=share)


def _versions() -> dict[str, str]:
    import soundfile

    return {
        **versions(),
        "python": platform.python_version(),
        "libsndfile": soundfile.__libsndfile_version__,
    }


def _signed(content: bytes, path: Path, made: Certificate, signing: SigningKey) -> bytes:
    """The file with the certificate in it, after a check that its sound is the same."""
    inside = replace(made, file=replace(made.file, sha256=None)).sealed()
    signed = sign(content, path, asdict(inside), signing)
    if not CertifiedFile.of(path, signed).same_sound(made.file):
        raise BadCertificate(f"a signature would change the sound of '{path}'; leave it out")
    found = read_signed(signed, path)
    told = {} if found is None else found.content or {}
    if found is None or found.state == "broken" or parsed(told, "a certificate") != inside:
        why = (found and found.reason) or "the certificate does not come back as it was"
        raise BadCertificate(f"'{path}' cannot be signed ({why}); leave the signature out")
    return signed


# ------------------------------------------------------------------------------------ to read one


def schema() -> dict[str, Any]:
    """The JSON schema of a certificate, draft 2020-12."""
    read: dict[str, Any] = json.loads((files("anechoic.certificate") / SCHEMA).read_text("utf-8"))
    return read


def read(path: str | Path) -> Certificate:
    """Read a certificate; whether it was edited, `Certificate.intact` tells.

    Raises:
        BadCertificate: there is none, or it is too large, damaged or of another format.
    """
    if (there := Path(path)).is_file():
        size = there.stat().st_size
        require_limit("FIELD", size, f"certificate '{path}' has {size} bytes", BadCertificate)
    return parse(read_file(path, "certificate", BadCertificate), f"certificate '{path}'")


def parse(content: bytes, what: str) -> Certificate:
    """A certificate of its JSON; `what` names it in errors.

    Raises:
        BadCertificate: damaged, or of another format.
    """
    return parsed(parse_object(content, what, BadCertificate, FIX), what)


def parsed(told: Mapping[str, Any], what: str) -> Certificate:
    """A certificate of its JSON object, as `parse`."""
    if (version := told.get("format")) != FORMAT:
        raise BadCertificate(
            f"expected {what} in format {FORMAT}, got {str(version)[:40]!r}; read it with the "
            "version of anechoic that wrote it"
        )
    return parse_record(Certificate, told, what, BadCertificate, FIX)
