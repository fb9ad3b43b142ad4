"""Packs the evidence of an audit into one ZIP, and verifies it.

`SHA256SUMS` lists the hash of every other file as `sha256sum` writes it, so that anybody can check
them without anechoic. A signature is one of this list: whatever changes breaks it.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from anechoic import __version__
from anechoic.audit.html.report import render_audit
from anechoic.audit.stored import StoredReport
from anechoic.audit.training import TrainingSet
from anechoic.certificate import Finding, SigningKey, Verification
from anechoic.certificate.detached import check_detached, sign_detached
from anechoic.certificate.verification import signature_finding
from anechoic.errors import BadEvidence, BadSetting, OutputExists, printable, some
from anechoic.evidence.words import case_sentence, ordinary_sentences
from anechoic.index import TrainingIndex
from anechoic.parsing import parse_object, read_file, require_limit
from anechoic.storage import write_whole

FORMAT = 1
ATTRIBUTES = (stat.S_IFREG | 0o644) << 16  # of each member
SUMS, SIGNATURE, CHAIN = "SHA256SUMS", "SHA256SUMS.sig", "signer.pem"
PDF, PAGE, DATA, FACTS, README = (
    "evidence.pdf", "report.html", "report.json", "evidence.json", "README.txt"
)  # fmt: skip
WHOLE = "one that 'anechoic evidence' wrote, as it was written"


@dataclass(frozen=True)
class Statement:
    """What whoever packs the evidence states; it is not measured."""

    created: datetime
    examiner: str = ""  # empty: not stated
    share: float | None = None  # of the training set that the index holds; None: not stated
    ordinary: tuple[str, ...] = ()  # prompts that an ordinary user could write

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share <= 1:
            raise BadSetting(f"expected a share of the training set up to 1, got {self.share:g}")


@dataclass(frozen=True)
class CaseFiles:
    """A case of the report, and its files in the ZIP."""

    row: Mapping[str, Any]
    sentence: str
    excerpts: Mapping[str, bytes]  # sound and pictures, by their names in the ZIP
    whole: str | None  # name of the examined file in the ZIP; None: it was not found

    @property
    def folder(self) -> str:
        return f"case-{self.row['rank']}"


def write_evidence(
    report: StoredReport,
    output: str | Path,
    statement: Statement,
    cases: Sequence[int] = (),
    *,
    work: str | Path | None = None,
    paper: str = "a4",
    fonts: Sequence[Path] = (),
    signing: SigningKey | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Pack the evidence of some cases of an audit. The same input gives the same bytes, but for a
    signature.

    Args:
        report: the audit, as from `open_report`.
        output: the ZIP.
        statement: by whom and when.
        cases: their numbers in the report; by default all that are called replications.
        work: the work folder of the audit, with the generated sounds.
        paper: "a4" or "letter".
        fonts: further fonts of the PDF, for characters that DejaVu does not have.
        signing: who signs.
        overwrite: replace a file.

    Returns:
        What is missing from it, a sentence each.

    Raises:
        BadSetting: a case is not in the report, or has no sound there; the extra 'pdf' is missing.
        OutputExists: the file exists, and `overwrite` is off.
    """
    from anechoic.evidence.pdf import draw

    output = Path(output)
    if output.exists() and not overwrite:
        raise OutputExists.at(output)
    rows = _chosen(report, cases)
    examined = dict(_examined(rows, work))
    chosen = [_files(report, row, examined.get(row["sha256"])) for row in rows]
    ordinary = list(ordinary_sentences(report.content, statement.ordinary))
    members: dict[str, bytes] = {}
    for case in chosen:
        members |= case.excerpts
    facts = {
        "format": FORMAT,
        "anechoic": __version__,
        "created": statement.created.isoformat(timespec="seconds"),
        "examiner": statement.examiner,
        "share": statement.share,
        "ordinary_prompts": list(statement.ordinary),
        "ordinary": ordinary,
        "cases": [{"case": one.row["rank"], "sentence": one.sentence, "examined": one.whole,
                   "files": sorted(one.excerpts)} for one in chosen],
        "index_sha256": report.content["index"]["sha256"],
        "signed": signing is not None,
    }  # fmt: skip
    members[DATA] = report.data
    members[FACTS] = f"{json.dumps(facts, indent=1, ensure_ascii=False)}\n".encode()
    members[PAGE] = _page(report, chosen)
    if signing is not None:
        members[CHAIN] = signing.chain
    hashes = {name: sha256_of(content) for name, content in sorted(members.items())}
    members[PDF], lost = draw(
        report.content, chosen, ordinary, statement, hashes, paper=paper, fonts=fonts
    )
    members[README] = _readme(chosen, signing)
    members[SUMS] = sums(members)
    if signing is not None:
        members[SIGNATURE] = sign_detached(members[SUMS], signing)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(output, pack(members, statement.created))
    without = [f"case {one.row['rank']}: the examined file was not found, so only the excerpts of "
               "the report are enclosed; name the audit's folder with '--work'"
               for one in chosen if one.whole is None]  # fmt: skip
    return [*without, *lost]


def _chosen(report: StoredReport, cases: Sequence[int]) -> list[Mapping[str, Any]]:
    rows = {row["rank"]: row for row in report.content["examined"]}
    numbers = list(dict.fromkeys(cases)) or [n for n, row in rows.items() if row["replicates"]]
    if not numbers:
        raise BadSetting(
            f"'{report.name}' has no replication; name a case of it with '--case', as 1"
        )
    if strange := [number for number in numbers if number not in rows]:
        raise BadSetting(
            f"expected cases 1 to {len(rows)} of '{report.name}', got {strange[0]}; its page "
            "numbers them"
        )
    if silent := [str(number) for number in numbers if rows[number]["shown"] is None]:
        raise BadSetting(
            f"'{report.name}' does not hold the sound of the cases {some(silent)}; name others "
            "with '--case', or audit again without '--cases': finished work is not done again"
        )
    return [rows[number] for number in numbers]


def _examined(
    rows: Sequence[Mapping[str, Any]], work: str | Path | None
) -> Iterator[tuple[str, tuple[str, bytes]]]:
    """The suffix and the content of the examined files that are still there, by their hashes."""
    wanted = {row["sha256"] for row in rows}
    places = [Path(row["file"]) for row in rows if row["file"] is not None]
    places += [] if work is None else sorted(Path(work, "sounds").glob("*.flac"))
    for path in places:
        content = path.read_bytes() if path.is_file() else b""
        if (digest := sha256_of(content)) in wanted:
            yield digest, (path.suffix.lower(), content)


def _files(
    report: StoredReport, row: Mapping[str, Any], examined: tuple[str, bytes] | None
) -> CaseFiles:
    folder, shown = f"case-{row['rank']}", row["shown"]
    found: dict[str, bytes] = {}
    for which, name in (("made", "generated"), ("training", "training"), ("own", "own")):
        if shown.get(which):
            found[f"{folder}/{name}.flac"] = report.medium(shown[which]["sound"])
            found[f"{folder}/{name}.png"] = report.medium(shown[which]["spectrogram"])
    for name in ("matrix", "melodies"):
        if shown.get(name):
            found[f"{folder}/{name}.png"] = report.medium(shown[name])
    whole = None
    if examined is not None:
        whole = f"{folder}/examined{examined[0]}"
        found[whole] = examined[1]
    return CaseFiles(row, case_sentence(report.content, row), found, whole)


def _page(report: StoredReport, chosen: Sequence[CaseFiles]) -> bytes:
    """The page of the report: all figures, and sound and pictures of the chosen cases alone."""
    kept = {one.row["rank"] for one in chosen}
    rows = [row if row["rank"] in kept else {**row, "shown": None}
            for row in report.content["examined"]]  # fmt: skip
    content = {**report.content, "examined": rows}
    return render_audit(content, report.medium, budget=sys.maxsize).text.encode()


def _readme(chosen: Sequence[CaseFiles], signing: SigningKey | None) -> bytes:
    lines = [
        "Evidence of an audit by anechoic.",
        "",
        f"{PDF:16} to read and to print",
        f"{PAGE:16} the whole audit; open it in a browser, and open a case to hear it",
        f"{DATA:16} the same as data",
        f"{FACTS:16} who packed this, when, and which cases",
        *(f"{one.folder + '/':16} sound and pictures of: {one.row['name']}" for one in chosen),
        f"{SUMS:16} the SHA-256 of all of these",
        "",
        f"To verify: anechoic verify FILE.zip, or unpack it and run: sha256sum -c {SUMS}",
    ]
    if signing is not None:
        pss = " -sigopt rsa_padding_mode:pss" * (signing.algorithm == "ps256")
        lines += [
            f"The signature: openssl x509 -in {CHAIN} -pubkey -noout > key.pem",
            f"openssl dgst -sha256 -verify key.pem{pss} -signature {SIGNATURE} {SUMS}",
        ]
    return ("\n".join(" ".join(printable(line).splitlines()) for line in lines) + "\n").encode()


def sums(members: Mapping[str, bytes]) -> bytes:
    """The hashes of all members, as `sha256sum` writes them."""
    return "".join(f"{sha256_of(members[name])}  {name}\n" for name in sorted(members)).encode()


def pack(members: Mapping[str, bytes], created: datetime) -> bytes:
    """A ZIP of the members, with nothing else in it, in the order of their names."""
    moment = created.astimezone(UTC)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in sorted(members.items()):
            entry = zipfile.ZipInfo(name, moment.timetuple()[:6])
            entry.external_attr = ATTRIBUTES
            entry.create_system = 3
            stored = name.endswith((".flac", ".png"))
            entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            archive.writestr(entry, content, compresslevel=9)
    return packed.getvalue()


# ------------------------------------------------------------------------------------- to verify


def verify_evidence(
    path: str | Path,
    index: Sequence[str | Path] = (),
    *,
    trust: str | Path | None = None,
) -> Verification:
    """Find out whether a file of evidence is as it was written.

    Args:
        path: the ZIP.
        index: folders of indexes, each of which has to be the one that was searched.
        trust: file of certificates, PEM, of the authorities whose signers are trusted; without
            such a signature the file is then not verified.

    Raises:
        BadEvidence: no ZIP of this kind, or one that is not safe to unpack.
        BadSetting: a signature is there and the extra 'c2pa' is not installed; `trust` is not PEM.
    """
    path = Path(path)
    anchors = None if trust is None else read_file(trust, "file of '--trust'", BadSetting)
    members, damaged = unpack(path)
    if SUMS not in members or FACTS not in members:
        raise BadEvidence(f"expected '{path}' to be {WHOLE}; it has no '{SUMS}' or '{FACTS}'")
    listed = _listed(members[SUMS], path)
    found = [Finding("file", False, f"'{name}' is damaged: {why}") for name, why in damaged.items()]
    found += _compared(members, listed, damaged)
    if all(one.holds for one in found):
        found = [Finding("file", True, f"all {len(listed)} files are as they were written")]
    found.append(_signature(members, listed, anchors))
    facts = parse_object(members[FACTS], f"'{FACTS}' of '{path}'", BadEvidence, "ask for it again")
    for folder in index:
        same = TrainingSet(TrainingIndex.load(str(folder))).fingerprint == facts.get("index_sha256")
        verb = "is" if same else "is not"
        found.append(Finding("index", same, f"the index '{folder}' {verb} the one searched"))
    return Verification(str(path), SUMS, None, tuple(found))


def unpack(path: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """The members of a ZIP, and why others are damaged; nothing is written to disk.

    Raises:
        BadEvidence: no ZIP, or more in it than its files: it could mislead whoever unpacks it.
    """
    content = read_file(path, "file of evidence", BadEvidence)
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise BadEvidence(
            f"expected '{path}' to be {WHOLE}, got no ZIP that can be read ({error})"
        ) from error
    entries = archive.infolist()
    what = f"'{path}' unpacks to {sum(one.file_size for one in entries)} bytes"
    require_limit("FILE_BYTES", sum(one.file_size for one in entries), what, BadEvidence)
    if reason := next(filter(None, map(_unsafe, entries)), "") or _more(entries, content):
        raise BadEvidence(f"expected '{path}' to be {WHOLE}, but {reason}; do not unpack it")
    members, damaged = {}, {}
    for entry in entries:
        try:
            members[entry.filename] = archive.read(entry)
        except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError) as error:
            damaged[entry.filename] = str(error)
        except Exception as error:  # zlib.error is no ValueError
            damaged[entry.filename] = f"{type(error).__name__}: {error}"
    return members, damaged


def _unsafe(entry: zipfile.ZipInfo) -> str:
    """Why a member could do harm where it is unpacked; empty: it could not."""
    name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or re.search(r"[\\:\0]", name):
        return f"its member {name!r} leads out of the folder it is unpacked to"
    if kind not in (0, stat.S_IFREG) or entry.is_dir():
        return f"its member {name!r} is not a plain file"
    return f"its member {name!r} is encrypted" if entry.flag_bits & 1 else ""


def _more(entries: Sequence[zipfile.ZipInfo], content: bytes) -> str:
    """What a ZIP has besides its members, to the bit; empty: nothing."""
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        return f"it has two members {twice!r}"
    directory = sum(46 + len(name.encode()) for name in names)
    at = sum(30 + len(name.encode()) for name in names) + sum(e.compress_size for e in entries)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *2 * [len(names)], directory, at, 0)
    if len(content) != at + directory + 22 or content[-22:] != end:
        return "it holds bytes that belong to none of its members"
    for entry in entries:
        header = entry.FileHeader()
        plain = (
            entry.create_version, entry.extract_version, entry.create_system,
            entry.volume + entry.reserved + entry.internal_attr + entry.flag_bits,
            entry.external_attr,
        ) == (20, 20, 3, 0, ATTRIBUTES)  # fmt: skip
        if not plain or not content.startswith(header, entry.header_offset):
            return f"what it says of its member {entry.filename!r} was changed"
    return ""


def _listed(content: bytes, path: Path) -> dict[str, str]:
    lines = content.decode("utf-8", "replace").splitlines()
    matched = [re.fullmatch(r"([0-9a-f]{64})  (.+)", line) for line in lines]
    if not lines or not all(matched):
        raise BadEvidence(f"expected '{path}' to be {WHOLE}, but '{SUMS}' is no list of hashes")
    return {one[2]: one[1] for one in matched if one}


def _compared(
    members: Mapping[str, bytes], listed: Mapping[str, str], damaged: Mapping[str, str]
) -> Iterator[Finding]:
    for name, wanted in listed.items():
        if name not in members and name not in damaged:
            yield Finding("file", False, f"'{name}' is missing")
        elif name in members and (got := sha256_of(members[name])) != wanted:
            sentence = f"'{name}' was changed: its SHA-256 is {got}, and {SUMS} has {wanted}"
            yield Finding("file", False, sentence)
    for name in {*members, *damaged} - {*listed, SUMS, SIGNATURE}:
        yield Finding("file", False, f"'{name}' was added: {SUMS} does not list it")


def _signature(
    members: Mapping[str, bytes], listed: Mapping[str, str], trust: bytes | None
) -> Finding:
    signature, chain = members.get(SIGNATURE), members.get(CHAIN)
    if CHAIN not in listed and signature is None:
        return signature_finding(None, trust is not None, "the evidence")
    if signature is None or chain is None:
        return Finding("signature", False, f"it was signed, and '{SIGNATURE}' or '{CHAIN}' is gone")
    found = check_detached(members[SUMS], signature, chain, trust)
    return signature_finding(found, trust is not None)


def sha256_of(content: bytes) -> str:
    """The SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
