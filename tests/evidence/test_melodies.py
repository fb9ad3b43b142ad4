"""Where notes decide, the report and the evidence show the notes of both."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.melodies import CLARINET, ORGAN, RATE, play, tune

from anechoic import audio, embedder
from anechoic.audit import TrainingSet, audit, write_report
from anechoic.audit.stored import open_report
from anechoic.detectors import Notes
from anechoic.evidence import Statement, write_evidence
from anechoic.evidence.file import unpack
from anechoic.index import Sound, TrainingIndex

pytest.importorskip("fpdf", reason="needs 'anechoic[pdf]'")
pytest.importorskip("uharfbuzz", reason="needs 'anechoic[pdf]'")


def test_the_notes_of_both_are_in_the_report_and_in_the_evidence(tmp_path: Path) -> None:
    sounds = [Sound(f"{i}", f"tune {i}", play(tune(i), ORGAN), RATE) for i in range(3)]
    magmel = embedder("magmel:seconds=1")
    index = TrainingIndex.build(sounds, magmel, window_s=1.0, hop_s=1.0)
    heard = {sound.id: (sound.wav, sound.sample_rate) for sound in sounds}
    audio.write(tmp_path / "made/up.wav", play(tune(1), CLARINET, 3), RATE)
    report = audit(
        tmp_path / "made",
        TrainingSet(index, lambda clip: heard[clip.id]),
        magmel,
        detectors=[Notes.fit(sounds)],
        threshold=0.3,
        work=tmp_path / "work",
    )
    stored = open_report(write_report(report, tmp_path / "report"))
    (row,) = stored.content["examined"]
    assert row["replicates"]
    assert row["training"]["id"] == "1"
    picture = stored.medium(row["shown"]["melodies"])
    assert picture.startswith(b"\x89PNG")
    page = (tmp_path / "report/report.html").read_text()
    assert "Notes of the file (above) and of the training clip (below)" in page
    statement = Statement(datetime(2026, 11, 29, 12, tzinfo=UTC), "A. Expert", 0.8)
    write_evidence(stored, tmp_path / "case.zip", statement, [1])
    found, _ = unpack(tmp_path / "case.zip")
    assert found["case-1/melodies.png"] == picture
