"""`anechoic evidence` and `anechoic verify` of what it wrote, as a person runs them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from support.audited import save_report
from support.commands import Run, lines

pytest.importorskip("fpdf", reason="needs 'anechoic[pdf]'")
pytest.importorskip("uharfbuzz", reason="needs 'anechoic[pdf]'")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report whose replications are two, of one prompt under two guards."""
    folder = tmp_path_factory.mktemp("audited")
    save_report(folder, prompts=("tune number 3", "rain"), seeds=1)
    return folder


@pytest.fixture
def here(audited: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: that folder, without files of earlier tests."""
    monkeypatch.chdir(audited)
    for left in audited.glob("*.zip"):
        left.unlink()
    return audited


def test_a_case_is_packed_and_verified(here: Path, command: Run) -> None:
    (here / "ordinary.txt").write_text("rain\n")
    words = ("evidence", "report", "--case", "1", "-o", "case.zip", "--work", "work", "--ordinary",
             "ordinary.txt", "--examiner", "A. Expert", "--at", "2026-11-29T12:00:00Z")  # fmt: skip
    code, out, _ = command(*words)
    digest = hashlib.sha256((here / "case.zip").read_bytes()).hexdigest()
    assert (code, lines(out)) == (0, ["evidence: case.zip", f"sha256: {digest}"])
    code, out, _ = command("verify", "case.zip")
    assert code == 0
    assert lines(out)[-1] == "case.zip: verified by SHA256SUMS"
    content = (here / "case.zip").read_bytes()
    (here / "case.zip").write_bytes(content.replace(b"fLaC", b"fLaD", 1))
    code, out, _ = command("verify", "case.zip", "--json")
    found = json.loads(out)
    assert (code, found["verified"]) == (1, False)
    assert "is damaged: Bad CRC-32" in found["findings"][0]["sentence"]


def test_all_replications_are_packed_and_what_is_missing_exits_with_3(
    here: Path, command: Run
) -> None:
    code, out, _ = command("evidence", "report", "-o", "case.zip")
    report = json.loads((here / "report/report.json").read_text("utf-8"))
    copies = [row["rank"] for row in report["examined"] if row["replicates"]]
    assert code == 3
    assert [line.split(":")[1] for line in lines(out)[: len(copies)]] == [
        f" case {rank}" for rank in copies
    ]
    with zipfile.ZipFile(here / "case.zip") as archive:
        facts = json.loads(archive.read("evidence.json"))
    assert [one["case"] for one in facts["cases"]] == copies


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("evidence none -o a.zip", "there is no report 'none'; check the path"),
        ("evidence report -o a.zip --at noon", "expected '--at' as 2026-11-29T12:00:00Z, got"),
        ("evidence report -o a.zip --at 2026-11-29T12:00", "expected '--at' with a zone"),
        ("evidence report -o a.zip --share 2", "expected a share of the training set up to 1"),
        ("evidence report -o a.zip --paper a5", "expected the paper a4 or letter, got 'a5'"),
        ("evidence report -o a.zip --signing-key k", "'--signing-chain' and '--signing-key' are"),
        ("verify v.zip --recheck", "'--certificate' and '--recheck' are for sound files"),
        ("verify v.zip", "got no ZIP that can be read"),
    ],
)
def test_what_cannot_be_used_is_refused(
    words: str, sentence: str, here: Path, command: Run
) -> None:
    (here / "v.zip").write_bytes(b"no zip")
    code, out, err = command(*words.split())
    assert (code, out) == (2, "")
    assert sentence in err
    assert not (here / "a.zip").exists()
