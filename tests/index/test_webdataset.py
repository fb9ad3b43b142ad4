"""WebDataset tars as a source of clips."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.index_clips import SOUNDS, identity, pack, read_unit, sound, tars_of

from anechoic.errors import BadAudio, BadCaptions, BadSetting
from anechoic.index.sources.patterns import expand_braces
from anechoic.index.sources.webdataset import TarSource


def tar_rows(path: Path | str) -> list[tuple]:
    return [row for unit in TarSource(path).units() for row in read_unit(unit)]


def test_a_tar_gives_each_sound_with_its_caption(tmp_path: Path) -> None:
    about = {"text": ["a horn", "brass"], "licence": "MIT", "bpm": 90}
    files = {
        "README.md": b"no sample",
        "a/one.flac": sound(0, "flac"),
        "a/one.txt": "ein «Ton»\n".encode(),
        "a/one.json": b'{"licence": "CC0-1.0"}',
        "a/one.npy": b"not asked for",
        "._b.wav": b"left by macOS",
        "a/two.mix.wav": SOUNDS[1],
        "a/two.json": json.dumps(about).encode(),
    }
    path = pack(tmp_path / "t.tar", files)
    rows = [row[0] for row in tar_rows(path)]
    assert rows == [
        ("t/a/one", "ein «Ton»", None, {"tar": str(path), "licence": "CC0-1.0"}),
        (
            "t/a/two",
            "a horn",
            None,
            {"tar": str(path), "text": '["a horn", "brass"]', "licence": "MIT", "bpm": "90"},
        ),
    ]


@pytest.fixture(scope="module")
def whole_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {}
    for i in range(3):
        files |= {f"{i}.wav": SOUNDS[i], f"{i}.txt": b"a take"}
    return pack(tmp_path_factory.mktemp("tar") / "whole.tar", files)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1))
def test_a_tar_that_is_cut_off_anywhere_is_refused_or_whole(whole_tar: Path, share: float) -> None:
    content = whole_tar.read_bytes()
    with tarfile.open(whole_tar) as tar:
        end = max(m.offset_data + -(-m.size // 512) * 512 for m in tar) + 512
    size = round(share * len(content))
    cut = whole_tar.with_name("cut.tar")
    cut.write_bytes(content[:size])
    if size < end:  # without a block of zeros at the end
        with pytest.raises(BadAudio, match="is cut off"):
            tar_rows(cut)
    else:
        assert len(tar_rows(cut)) == 3


@pytest.mark.parametrize("block", [0, 3, 9])
def test_a_tar_with_a_spoilt_header_is_refused(whole_tar: Path, tmp_path: Path, block: int) -> None:
    with tarfile.open(whole_tar) as tar:
        headers = [member.offset for member in tar]
        headers.append(tar.offset)
    content = bytearray(whole_tar.read_bytes())
    at = headers[min(block, len(headers) - 1)]
    content[at : at + 512] = bytes(range(256)) * 2
    path = tmp_path / "spoilt.tar"
    path.write_bytes(content)
    with pytest.raises(BadAudio, match="damaged"):
        tar_rows(path)


def test_tars_joined_into_one_are_refused(whole_tar: Path, tmp_path: Path) -> None:
    path = tmp_path / "joined.tar"
    path.write_bytes(2 * whole_tar.read_bytes())
    with pytest.raises(BadAudio, match="goes on behind its end"):
        tar_rows(path)


@pytest.mark.parametrize(
    ("files", "error", "complaint"),
    [
        ({"a.wav": SOUNDS[0]}, BadCaptions, "sample 'a' has no caption"),
        ({"a.wav": SOUNDS[0], "a.txt": b" "}, BadCaptions, "sample 'a' has no caption"),
        ({"a.wav": SOUNDS[0], "a.json": b"{}"}, BadCaptions, "sample 'a' has no caption"),
        ({"a.wav": SOUNDS[0], "a.json": b"{"}, BadCaptions, "'a.json' is not JSON"),
        ({"a.wav": SOUNDS[0], "a.json": b"[]"}, BadCaptions, "'a.json' is not a JSON object"),
        ({"a.wav": SOUNDS[0], "a.txt": b"caf\xe9"}, BadCaptions, "not UTF-8 .byte 0xe9"),
        ({"a.txt": b"a"}, BadAudio, "sample 'a' has no sound"),
        ({"README.md": b"a"}, BadAudio, "no samples"),
        ({}, BadAudio, "no samples"),
        ({"a.wav": SOUNDS[0], "a.b.wav": SOUNDS[0]}, BadAudio, "2 sounds .'wav', 'b.wav'"),
        ({"a.wav": SOUNDS[0], "./a.wav": SOUNDS[0]}, BadAudio, "two files '.wav'"),
        (
            {"a.wav": SOUNDS[0], "a.txt": b"a", "b.md": b"", "a.json": b"{}"},
            BadAudio,
            "'a' is in two places",
        ),
        ({"a.wav": SOUNDS[0][:800], "a.txt": b"a"}, BadAudio, "t.tar/a.wav' is cut off"),
    ],
)
def test_a_tar_that_is_not_sounds_with_captions_is_refused(
    tmp_path: Path, files: dict[str, bytes], error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        tar_rows(pack(tmp_path / "t.tar", files))


def test_a_tar_anywhere_that_fsspec_reaches_is_read(whole_tar: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("x/0.tar", "y/0.tar"):
        memory.pipe(f"/{name}", whole_tar.read_bytes())
    ids = [row[0][0] for row in tar_rows("memory://*/0.tar")]
    assert ids == ["x/0/0", "x/0/1", "x/0/2", "y/0/0", "y/0/1", "y/0/2"]
    assert identity(TarSource("memory://*/0.tar")) == identity(TarSource("memory://{x,y}/0.tar"))


def test_a_shard_that_braces_name_has_to_be_there(tmp_path: Path) -> None:
    tars_of(tmp_path)
    assert len(TarSource(f"{tmp_path}/tars/clips-{{0..1}}.tar").units()) == 2
    with pytest.raises(BadSetting, match=r"\.tar file '.*clips-2\.tar' does not exist"):
        TarSource(f"{tmp_path}/tars/clips-{{0..2}}.tar")


@settings(max_examples=20, deadline=None)
@given(
    first=st.integers(0, 12),
    last=st.integers(0, 12),
    width=st.integers(1, 3),
    words=st.lists(st.sampled_from(["a", "b", "xy"]), min_size=2, max_size=3),
)
def test_braces_stand_for_what_a_shell_makes_of_them(
    first: int, last: int, width: int, words: list[str]
) -> None:
    pattern = f"p-{{{first:0{width}d}..{last:0{width}d}}}/{{{','.join(words)}}}.tar"
    shell = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True)
    assert expand_braces(pattern) == shell.stdout.split()


def test_names_that_are_not_utf8_are_spelt_out(tmp_path: Path) -> None:
    path = pack(tmp_path / "t.tar", {"caf\udce9.wav": SOUNDS[0], "caf\udce9.txt": b"a take"})
    assert [row[0][0] for row in tar_rows(path)] == [r"t/caf\xe9"]
