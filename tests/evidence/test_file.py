"""The file of evidence holds what the audit found, always the same, and no change stays unseen."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.audited import save_report
from support.certified import Signers

from anechoic.audit.stored import StoredReport, open_report
from anechoic.certificate import SigningKey
from anechoic.errors import BadEvidence, BadSetting, OutputExists
from anechoic.evidence import Statement, verify_evidence, write_evidence
from anechoic.evidence.file import SIGNATURE, SUMS, pack, sums, unpack

pytest.importorskip("fpdf", reason="needs 'anechoic[pdf]'")
pytest.importorskip("uharfbuzz", reason="needs 'anechoic[pdf]'")

NOON = Statement(datetime(2026, 11, 29, 12, tzinfo=UTC), "A. Expert", 0.8, ("rain",))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> StoredReport:
    return open_report(save_report(tmp_path_factory.mktemp("audited")))


@pytest.fixture(scope="module")
def work(report: StoredReport) -> Path:
    return Path(report.name).parents[1] / "work"


@pytest.fixture(scope="module")
def packed(report: StoredReport, work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Case 1, with the examined file."""
    path = tmp_path_factory.mktemp("evidence") / "case.zip"
    assert write_evidence(report, path, NOON, [1], work=work) == []
    return path


def members(path: Path) -> dict[str, bytes]:
    found, damaged = unpack(path)
    assert damaged == {}
    return found


def test_it_holds_the_report_and_sound_of_the_case(report: StoredReport, packed: Path) -> None:
    found, row = members(packed), report.content["examined"][0]
    assert found["report.json"] == report.data
    assert found["case-1/generated.flac"] == report.medium(row["shown"]["made"]["sound"])
    assert found["case-1/training.png"] == report.medium(row["shown"]["training"]["spectrogram"])
    assert hashlib.sha256(found["case-1/examined.flac"]).hexdigest() == row["sha256"]
    facts = json.loads(found["evidence.json"])
    assert (facts["examiner"], facts["share"], facts["created"]) == (
        "A. Expert", 0.8, "2026-11-29T12:00:00+00:00"
    )  # fmt: skip
    page = found["report.html"].decode()
    assert page.count('<audio controls preload="none" aria-label="Training clip" src="data:') == 1
    assert page.count('<details class="case"') == len(report.content["examined"])


def test_the_pdf_has_five_pages_and_says_when_it_was_made(packed: Path) -> None:
    pdf = members(packed)["evidence.pdf"]
    assert pdf.startswith(b"%PDF-1.")
    assert re.search(rb"/Count (\d+)", pdf)[1] == b"5"
    assert b"/CreationDate (D:20261129120000Z" in pdf


def test_the_same_input_gives_the_same_bytes(
    report: StoredReport, work: Path, packed: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.zip"
    write_evidence(report, again, NOON, [1], work=work)
    assert again.read_bytes() == packed.read_bytes()
    with pytest.raises(OutputExists):
        write_evidence(report, again, NOON, [1], work=work)


def test_anybody_can_check_the_hashes_without_anechoic(packed: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(["sha256sum", "-c", "--strict", SUMS], cwd=tmp_path, check=True,
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.count(": OK") == len(members(packed)) - 1


def test_as_it_was_written_it_is_verified(packed: Path) -> None:
    found = verify_evidence(packed)
    assert found.verified
    assert [one.holds for one in found.findings] == [True, None]
    assert not verify_evidence(packed, trust=None).findings[1].holds


def test_the_example_in_the_docs_is_verified() -> None:
    path = Path(__file__).parents[2] / "docs/evidence-demo/case-5.zip"
    assert verify_evidence(path).verified
    assert path.stat().st_size < 1_000_000


def test_damage_of_any_member_is_named(packed: Path, tmp_path: Path) -> None:
    whole, path = members(packed), tmp_path / "case.zip"
    for name in set(whole) - {SUMS, "evidence.json"}:
        for content, words in ((whole[name] + b" ", "was changed"), (None, "is missing")):
            changed = {key: value for key, value in whole.items() if key != name}
            path.write_bytes(pack(changed if content is None else {**changed, name: content},
                                  NOON.created))  # fmt: skip
            found = verify_evidence(path)
            assert not found.verified
            assert f"'{name}' {words}" in found.findings[0].sentence
    path.write_bytes(pack({**whole, "new.txt": b""}, NOON.created))
    assert verify_evidence(path).findings[0].sentence.startswith("'new.txt' was added")


def test_a_flipped_bit_anywhere_is_found(packed: Path, tmp_path: Path) -> None:
    content, path = packed.read_bytes(), tmp_path / "case.zip"
    header = len(content) - 22 - sum(46 + len(name) for name in members(packed))
    every = [*range(30), *range(30, len(content), len(content) // 40), *range(header, header + 46),
             *range(len(content) - 22, len(content))]  # fmt: skip
    for place in every:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert not verify_evidence(path).verified, place
        except BadEvidence:
            continue


def _archive(name: str, mode: int = stat.S_IFREG, comment: bytes = b"") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        archive.writestr(entry, b"x")
        archive.comment = comment
    return packed.getvalue()


def _bomb() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2_000_000))
    return packed.getvalue()


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "no zip": (lambda: b"RIFF", "got no ZIP that can be read"),
    "another zip": (lambda: _archive("a.txt", 0o100644), "it has no 'SHA256SUMS'"),
    "absolute": (lambda: _archive("/etc/passwd"), "leads out of the folder"),
    "upwards": (lambda: _archive("a/../../b"), "leads out of the folder"),
    "a drive": (lambda: _archive("C:x"), "leads out of the folder"),
    "a link": (lambda: _archive("a", stat.S_IFLNK), "is not a plain file"),
    "a folder": (lambda: _archive("a/"), "is not a plain file"),
    "a comment": (lambda: _archive("a", comment=b"hi"), "bytes that belong to none"),
    "before it": (lambda: b"MZ" + _archive("a"), "bytes that belong to none"),
    "a bomb": (_bomb, "unpacks to 2000000 bytes, over the limit of 1000000"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_not_safe_to_unpack_is_refused(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANECHOIC_MAX_FILE_BYTES", "1000000")
    make, sentence = HOSTILE[what]
    path = tmp_path / "case.zip"
    path.write_bytes(make())
    with pytest.raises(BadEvidence, match=sentence):
        verify_evidence(path)


def test_a_signature_covers_all_of_it(
    report: StoredReport, tmp_path: Path, signers: Signers
) -> None:
    path = tmp_path / "case.zip"
    key = SigningKey.load(signers.chain("ec"), signers.key("ec"))
    (missing,) = write_evidence(report, path, NOON, [2], signing=key, work=tmp_path)
    assert missing.startswith("case 2: the examined file was not found")
    whole = members(path)
    assert json.loads(whole["evidence.json"])["cases"][0]["examined"] is None
    signature = verify_evidence(path, trust=signers.chain("authority")).findings[-1]
    assert (signature.holds, signature.sentence) == (
        True, "the signature is valid, of ec, Example studio, which is trusted"
    )  # fmt: skip
    assert verify_evidence(path).findings[-1].holds is None  # nobody was named to trust
    assert verify_evidence(path, trust=signers.chain("stranger")).findings[-1].holds is False
    assert openssl_says(path, tmp_path / "unpacked") == "Verified OK\n"
    forged = {**whole, "evidence.json": whole["evidence.json"].replace(b"A. Expert", b"B. Expert")}
    del forged[SUMS], forged[SIGNATURE]
    forged |= {SUMS: sums(forged), SIGNATURE: whole[SIGNATURE]}
    path.write_bytes(pack(forged, NOON.created))
    assert "signature in the file is broken" in verify_evidence(path).findings[-1].sentence
    assert openssl_says(path, tmp_path / "forged") != "Verified OK\n"
    del forged[SIGNATURE]
    path.write_bytes(pack(forged, NOON.created))
    assert verify_evidence(path).findings[-1].sentence.startswith("it was signed, and")


def openssl_says(path: Path, folder: Path) -> str:
    """What the commands of the file's README print."""
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    first, second = (folder / "README.txt").read_text("utf-8").splitlines()[-2:]
    command = f"{first.partition(': ')[2]} && {second}"
    done = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, check=False
    )
    return done.stdout


def test_cases_that_are_not_there_are_refused(report: StoredReport, tmp_path: Path) -> None:
    output = tmp_path / "a.zip"
    with pytest.raises(BadSetting, match=r"expected cases 1 to 20 of .*, got 99"):
        write_evidence(report, output, NOON, [99])
    rows = [{**row, "shown": None} for row in report.content["examined"]]
    silent = replace(report, content={**report.content, "examined": rows})
    with pytest.raises(BadSetting, match=r"does not hold the sound of the cases '1'"):
        write_evidence(silent, output, NOON, [1])
    clear = [{**row, "replicates": False} for row in rows]
    nothing = replace(report, content={**report.content, "examined": clear})
    with pytest.raises(BadSetting, match="has no replication; name a case"):
        write_evidence(nothing, output, NOON)
    assert not output.exists()


def test_a_picture_that_was_changed_in_the_report_is_refused(
    report: StoredReport, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    page.write_text(Path(report.name).read_text("utf-8").replace(";base64,", ";base64,AAAA"))
    (tmp_path / "report.json").write_bytes(report.data)
    with pytest.raises(BadSetting, match=r"does not hold '.*' as it was written"):
        write_evidence(open_report(page), tmp_path / "a.zip", NOON, [1])
