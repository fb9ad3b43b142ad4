"""Whatever a folder holds is examined, or listed with the reason; nothing is skipped in silence."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from support.audits import NASTY, folder_of, training_set
from support.sounds import RATE, tune

from anechoic import embedder
from anechoic.audit import Report, audit
from anechoic.audit.progress import AuditProgress
from anechoic.audit.prompts import read_prompts
from anechoic.audit.samples import recorded
from anechoic.errors import BadAudio, BadCaptions, BadSetting


@pytest.fixture(scope="module")
def training():
    return training_set()


@pytest.fixture(scope="module")
def embed():
    return embedder("magmel")


@pytest.fixture
def examine(training, embed, tmp_path: Path):
    """Audit the folder `s`."""

    def call(**given) -> Report:
        return audit(tmp_path / "s", training, embed, work=tmp_path / "work", **given)

    (tmp_path / "s").mkdir()
    return call


def reasons(report: Report) -> dict[str, str]:
    return {one.sample.name: one.reason for one in report.unexamined}


# --------------------------------------------------------------------------------- what is examined

FORMATS = [
    ("8-bit.wav", "PCM_U8", 1, 16_000), ("16-bit.wav", "PCM_16", 2, 44_100),
    ("24-bit.wav", "PCM_24", 1, 48_000), ("float.wav", "FLOAT", 6, 16_000),
    ("double.wav", "DOUBLE", 1, 22_050), ("law.wav", "ULAW", 1, 16_000),
    ("two.flac", "PCM_24", 2, 96_000), ("low.ogg", "VORBIS", 1, 16_000),
    ("opus.opus", "OPUS", 1, 48_000), ("layer.mp3", "MPEG_LAYER_III", 2, 44_100),
    ("a.aiff", "PCM_16", 1, 16_000), ("no suffix", "PCM_16", 1, 16_000),
]  # fmt: skip


def test_every_format_and_rate_is_read_and_its_copy_found(examine, tmp_path: Path) -> None:
    kinds = {".opus": "OGG", ".aiff": "AIFF", "": "WAV"}
    for at, (name, subtype, channels, rate) in enumerate(FORMATS):
        wav = soxr.resample(0.8 * tune(at % 5)[0].numpy(), RATE, rate)
        file = tmp_path / "s" / name
        soundfile.write(
            file,
            np.repeat(wav[:, None], channels, 1),
            rate,
            subtype=subtype,
            format=kinds.get(file.suffix),
        )
    report = examine()
    assert reasons(report) == {}
    found = {one.sample.name: one for one in report.examined}
    for at, (name, _, channels, rate) in enumerate(FORMATS):
        heard = found[name].result
        assert (heard.clip, heard.channels, heard.sample_rate) == (at % 5, channels, rate), name
        assert found[name].replicates, (name, found[name].match)


def test_the_copy_in_the_side_of_a_stereo_is_found(examine, tmp_path: Path) -> None:
    """The mean of the channels of this one is silence."""
    folder_of(tmp_path / "s", side=torch.cat([tune(3), -tune(3)]))
    (one,) = examine().examined
    assert (one.result.clip, one.replicates) == (3, True)


def test_two_hours_are_listed_unless_they_are_asked_for(examine, tmp_path: Path) -> None:
    file = tmp_path / "s/two hours.wav"
    samples = 2 * 3600 * 8_000
    header = b"RIFF" + struct.pack("<I", 36 + samples) + b"WAVEfmt "
    header += struct.pack("<IHHIIHH", 16, 1, 1, 8_000, 8_000, 1, 8)
    file.write_bytes(header + b"data" + struct.pack("<I", samples))
    os.truncate(file, len(header) + 8 + samples)
    assert reasons(examine()) == {file.name: "it lasts over 900 s; cut it, or raise the limit"}


def test_the_limit_of_length_is_the_users(examine, tmp_path: Path) -> None:
    folder_of(tmp_path / "s", long=tune(9, 3.0))
    assert list(reasons(examine(longest_s=2.0))) == ["long.wav"]
    assert reasons(examine(longest_s=4.0)) == {}


@pytest.mark.parametrize(
    "name",
    [
        "with spaces.wav",
        'it\'s "quoted".wav',
        "<img src=x onerror=alert(1)>.wav",
        "😀 émoji.wav",
        "line\nbreak.wav",
        "-o.wav",
        "{{ 7 * 7 }}.wav",
    ],
)
def test_a_file_of_any_name_is_examined(examine, tmp_path: Path, name: str) -> None:
    try:
        soundfile.write(tmp_path / "s/x.wav", tune(1)[0].numpy(), RATE)
        (tmp_path / "s/x.wav").rename(tmp_path / "s" / name)
    except OSError:
        pytest.skip("this file system has no such names")
    (one,) = examine().examined
    assert one.replicates
    assert one.sample.name == name


def test_a_file_whose_name_is_no_utf8_is_examined_under_a_name_that_can_be_read(
    examine, tmp_path: Path
) -> None:
    try:
        (tmp_path / "s" / os.fsdecode(b"latin \xe9.wav")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has no such names")
    soundfile.write(tmp_path / "s/x.wav", tune(1)[0].numpy(), RATE)
    (tmp_path / "s/x.wav").rename(tmp_path / "s" / os.fsdecode(b"caf\xe9.wav"))
    report = examine()
    assert list(reasons(report)) == ["latin \\xe9.wav"]
    assert [one.sample.name for one in report.examined] == ["caf\\xe9.wav"]


def test_the_same_sound_under_two_names_is_examined_twice(examine, tmp_path: Path) -> None:
    folder_of(tmp_path / "s", a=tune(1))
    folder_of(tmp_path / "s/deeper", a=tune(1))
    report = examine()
    assert [one.sample.name for one in report.examined] == ["a.wav", "deeper/a.wav"]
    assert len({one.sha256 for one in report.examined}) == 1
    assert report.notes == ["1 of the 2 examined are the same as another, bit for bit"]


# ------------------------------------------------------------------------------- what is not


def bad_files(folder: Path) -> dict[str, str]:
    """Files that cannot be examined, and what the reason has to say."""
    folder_of(folder, whole=tune(2))
    whole = (folder / "whole.wav").read_bytes()
    soundfile.write(folder / "cut.flac", tune(2)[0].numpy(), RATE)
    soundfile.write(folder / "cut.ogg", tune(2, 4.0)[0].numpy(), RATE)
    for name in ("cut.flac", "cut.ogg"):
        file = folder / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "text.wav").write_text("this is no sound\n" * 50)
    (folder / "nothing.wav").write_bytes(b"")
    (folder / "notes.txt").write_text("takes of tuesday")
    (folder / "raw.raw").write_bytes(b"\0\1" * 8_000)
    broken = np.full(RATE, np.nan, np.float32)
    soundfile.write(folder / "nan.wav", broken, RATE, subtype="FLOAT")
    soundfile.write(folder / "infinite.wav", np.inf * np.ones(RATE), RATE, subtype="FLOAT")
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(folder / "one sample.wav", np.full(1, 0.5), RATE)
    soundfile.write(folder / "no samples.wav", np.zeros(0), RATE)
    (folder / "broken link.wav").symlink_to(folder / "gone.wav")
    (folder / "round").symlink_to(folder, target_is_directory=True)
    return {
        "cut.flac": "cut off",
        "cut.ogg": "cut off",
        "cut.wav": "it is cut off: its header promises 1.02 s and 0.51 s are there",
        "text.wav": "it cannot be read as sound",
        "nothing.wav": "it is empty (0 bytes)",
        "notes.txt": "it cannot be read as sound",
        "raw.raw": "it cannot be read as sound",
        "nan.wav": "it has 16000 samples that are NaN or infinite",
        "infinite.wav": "it has 16000 samples that are NaN or infinite",
        "silent.wav": "it is silent",
        "one sample.wav": "it lasts 0.00006 s, and sounds shorter than 0.1 s are all alike",
        "no samples.wav": "no samples",
        "broken link.wav": "it is not a file: a broken link, or a device",
        "round": "it is a link to a folder, and links are not followed",
    }


def test_what_cannot_be_examined_is_listed_with_the_reason(examine, tmp_path: Path) -> None:
    expected = bad_files(tmp_path / "s")
    report = examine()
    found = reasons(report)
    assert set(found) == set(expected)
    for name, words in expected.items():
        assert found[name], name
        assert words in found[name], name
    assert [one.sample.name for one in report.examined] == ["whole.wav"]
    assert report.sentence.startswith("14 of 15 files were not examined. 1 of the 1 examined")


def test_a_folder_that_loses_files_while_it_is_read(examine, tmp_path: Path) -> None:
    folder_of(tmp_path / "s", a=tune(0), b=tune(1), c=tune(2))

    def lose(progress: AuditProgress) -> None:
        if progress.done == 1:
            (tmp_path / "s/b.wav").unlink()

    report = examine(progress=lose)
    assert reasons(report) == {"b.wav": "it was deleted after the folder was listed"}
    assert len(report.examined) == 2


def test_a_sound_that_is_gone_after_it_was_examined_still_stands_in_the_report(
    examine, tmp_path: Path
) -> None:
    from anechoic.audit import write_report

    folder_of(tmp_path / "s", a=tune(0))
    report = examine()
    (tmp_path / "s/a.wav").unlink()
    page = write_report(report, tmp_path / "r")
    assert "audio/flac;base64," in page.read_text()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_listed(examine, tmp_path: Path) -> None:
    folder_of(tmp_path / "s", a=tune(0))
    (tmp_path / "s/a.wav").chmod(0)
    assert "it cannot be read" in reasons(examine())["a.wav"]


def test_nothing_that_can_be_examined_leaves_a_report_that_says_so(examine, tmp_path: Path) -> None:
    (tmp_path / "s/a.wav").write_bytes(b"")
    report = examine()
    assert report.sentence == (
        "1 of 1 file was not examined. Nothing can be said of the training set."
    )
    assert report.groups == []


def test_hidden_files_are_counted(examine, tmp_path: Path) -> None:
    folder_of(tmp_path / "s", a=tune(0))
    (tmp_path / "s/.DS_Store").write_bytes(b"x")
    report = examine()
    assert (len(report.examined), report.unexamined) == (1, [])
    assert report.notes == ["1 hidden files of the folder were skipped"]


def test_a_folder_that_is_none_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadAudio, match="is not a folder"):
        recorded(tmp_path / "no")
    with pytest.raises(BadAudio, match="has no files"):
        recorded(tmp_path)


# ------------------------------------------------------------------------------------- prompts


def test_a_table_of_prompts_tells_what_the_files_were_made_from(examine, tmp_path: Path) -> None:
    folder_of(tmp_path / "s", a=tune(0), b=tune(1))
    table = tmp_path / "s/metadata.csv"
    table.write_text(
        "file_name,caption,seed,guard,tool\n"
        f'a.wav,"{NASTY.replace(chr(34), chr(34) * 2)}",7,amg,Suno\n'
        "gone.wav,a tune,1,amg,Suno\n"
    )
    report = examine(prompts=table)
    takes = {one.sample.name: one.sample for one in report.examined}
    assert (takes["a.wav"].prompt, takes["a.wav"].seed) == (NASTY, 7)
    assert (takes["a.wav"].guard, takes["a.wav"].info) == ("amg", {"tool": "Suno"})
    assert (takes["b.wav"].prompt, takes["b.wav"].seed) == ("", None)
    assert reasons(report) == {
        "gone.wav": "the file of prompts names it, but the folder does not have it"
    }


def test_a_table_that_names_a_file_twice_is_refused(examine, tmp_path: Path) -> None:
    folder_of(tmp_path / "s", a=tune(0))
    table = tmp_path / "p.csv"
    table.write_text("file_name,caption\na.wav,one\na.wav,another\n")
    with pytest.raises(BadCaptions, match=r"more than one line for 'a\.wav'"):
        examine(prompts=table)


def test_prompts_are_read_from_lines_and_from_tables(tmp_path: Path) -> None:
    lines, table = tmp_path / "p.txt", tmp_path / "p.csv"
    lines.write_text("\ufeffa dog barks\n\n  rain, on a roof \n", "utf-8")
    table.write_text('id,caption\n1,a dog barks\n2,"rain, on a roof"\n')
    assert read_prompts(lines) == read_prompts(table) == ["a dog barks", "rain, on a roof"]
    lines.write_bytes(b"caf\xe9\n")
    with pytest.raises(BadSetting, match="not UTF-8"):
        read_prompts(lines)
    lines.write_text("\n\n")
    with pytest.raises(BadSetting, match="holds no prompts"):
        read_prompts(lines)
    with pytest.raises(BadSetting, match=r"the file of prompts .* does not exist"):
        read_prompts(tmp_path / "none.txt")


def test_a_dash_reads_prompts_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    for dash in ("-", Path("-")):
        monkeypatch.setattr("sys.stdin", io.StringIO("rain\n\nwind\n"))
        assert read_prompts(dash) == ["rain", "wind"]


def test_a_line_may_name_its_file_by_another_road(tmp_path: Path) -> None:
    folder_of(tmp_path / "s", a=tune(0), b=tune(1), c=tune(2))
    (tmp_path / "linked").symlink_to(tmp_path / "s")
    table = tmp_path / "p.csv"
    table.write_text(
        f"file_name,caption,seed\n./a.wav,one,3.0\n{tmp_path}/s/b.wav,two,4\n"
        f"{tmp_path}/linked/c.wav,three,\n"
    )
    plan = recorded(tmp_path / "s", table)
    assert [(one.prompt, one.seed) for one in plan.samples] == [
        ("one", 3),
        ("two", 4),
        ("three", None),
    ]
    assert not plan.refused
    for seed, sentence in (("soon", "is 'soon'; expected a whole number"), ("9" * 400, "64 bits")):
        table.write_text(f"file_name,caption,seed\na.wav,one,{seed}\n")
        with pytest.raises(BadCaptions, match=sentence):
            recorded(tmp_path / "s", table)


def test_prompts_of_a_table_that_begins_with_null_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('null\n{"caption": "a dog"}\n')
    with pytest.raises(BadCaptions, match="line 1 is not a JSON object"):
        read_prompts(tmp_path / "p.jsonl")
