from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from anechoic import audio
from anechoic.errors import BadAudio, BadSetting, OutputExists

RATE = 16_000


def tone(seconds: float = 0.5, channels: int = 1) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return torch.stack(
        [0.5 * torch.sin(2 * torch.pi * 220 * (c + 1) * time) for c in range(channels)]
    )


# a step of 16 bits is 3e-5, and libsndfile scales by 32767 and back by 32768; a lossy coder
# moves the wave by more
@pytest.mark.parametrize(
    ("suffix", "tolerance"), [(".wav", 5e-5), (".flac", 5e-5), (".ogg", 0.05), (".mp3", 0.05)]
)
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str, tolerance: float) -> None:
    wav = tone(channels=2)
    path = audio.write(tmp_path / f"a{suffix}", wav, RATE)
    back, rate = audio.read(path)
    assert rate == RATE
    assert back.dtype == torch.float32
    assert back.shape == wav.shape
    inner = slice(2000, -2000)  # the edges of a lossy block ring
    assert (back - wav)[:, inner].abs().max() < tolerance


def test_sound_over_full_scale_is_scaled_down_not_clipped(tmp_path: Path) -> None:
    wav = 6 * tone()
    back, _ = audio.read(audio.write(tmp_path / "a.wav", wav, RATE))
    assert torch.allclose(back, wav / wav.abs().max(), atol=5e-5)


def test_sound_within_full_scale_keeps_its_level(tmp_path: Path) -> None:
    back, _ = audio.read(audio.write(tmp_path / "a.wav", 0.1 * tone(), RATE))
    assert back.abs().max() == pytest.approx(0.05, abs=1e-4)


def test_an_output_that_exists_is_kept(tmp_path: Path) -> None:
    path = audio.write(tmp_path / "a.wav", tone(), RATE)
    before = path.read_bytes()
    with pytest.raises(OutputExists, match="exists already"):
        audio.write(path, tone(1.0), RATE)
    assert path.read_bytes() == before
    audio.write(path, tone(1.0), RATE, overwrite=True)
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("wav", "rate", "error"),
    [
        (torch.full((1, 9), torch.nan), RATE, BadAudio),
        (torch.zeros(1, 0), RATE, BadAudio),
        (torch.zeros(9), RATE, BadAudio),
        (tone(), 12_345, BadSetting),  # no rate of an MP3
    ],
)
def test_nothing_half_written_is_left(
    tmp_path: Path, wav: Tensor, rate: int, error: type[Exception]
) -> None:
    with pytest.raises(error):
        audio.write(tmp_path / "a.mp3", wav, rate)
    assert list(tmp_path.iterdir()) == []


def test_a_suffix_that_is_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"end the name in one of \.wav"):
        audio.write(tmp_path / "a.txt", tone(), RATE)


def test_written_files_have_the_permissions_of_any_other_file(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    path = audio.write(tmp_path / "a.wav", tone(), RATE)
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a{suffix}"
    noise = torch.randn(10 * RATE, generator=torch.Generator().manual_seed(0))
    soundfile.write(path, (0.1 * noise).numpy(), RATE)
    audio.read(path)
    content = path.read_bytes()
    path.write_bytes(content[: round(share * len(content))])
    with pytest.raises(BadAudio, match="cut off"):
        audio.read(path)


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 1.0])
def test_a_file_in_memory_is_read_or_refused_as_on_disk(
    tmp_path: Path, suffix: str, share: float
) -> None:
    path = tmp_path / f"a{suffix}"
    noise = torch.randn(3 * RATE, 2, generator=torch.Generator().manual_seed(0))
    soundfile.write(path, (0.1 * noise).numpy(), RATE)
    content = path.read_bytes()
    path.write_bytes(content[: round(share * len(content))])
    if share == 1.0:
        wav, rate = audio.read_bytes(content, "a")
        assert torch.equal(wav, audio.read(path)[0])
        assert rate == RATE
        return
    with pytest.raises(BadAudio) as on_disk:
        audio.read(path)
    with pytest.raises(BadAudio) as in_memory:
        audio.read_bytes(path.read_bytes(), str(path))
    assert str(in_memory.value) == str(on_disk.value)


def test_a_streamed_wav_without_its_length_is_read(tmp_path: Path) -> None:
    path = audio.write(tmp_path / "a.wav", tone(), RATE)
    content = bytearray(path.read_bytes())
    for at in (4, content.index(b"data") + 4):  # what a writer into a pipe leaves
        content[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    wav, _ = audio.read(path)
    assert wav.shape[-1] == RATE // 2


def test_a_corrupt_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(np.random.default_rng(0).bytes(4000))
    with pytest.raises(BadAudio, match=r"'.*a\.flac' cannot be read as sound"):
        audio.read(path)


def test_what_is_no_file_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadAudio, match="does not exist; check the path"):
        audio.read(tmp_path / "none.wav")
    with pytest.raises(BadAudio, match="is a folder"):
        audio.read(tmp_path)
    (tmp_path / "a.wav").touch()
    with pytest.raises(BadAudio, match="0 bytes"):
        audio.read(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("samples", "complaint"),
    [([], "0 s"), ([0.1, np.nan], "NaN"), ([0.1, -np.inf], "NaN or infinite"), ([0, 0], "silent")],
)
def test_sound_that_is_none_is_refused(tmp_path: Path, samples: list, complaint: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.array(samples, np.float32), RATE, subtype="FLOAT")
    with pytest.raises(BadAudio, match=complaint):
        audio.read(path)


def test_silence_is_read_where_it_is_allowed(tmp_path: Path) -> None:
    path = audio.write(tmp_path / "a.wav", torch.zeros(1, 100), RATE)
    assert audio.read(path, allow_silence=True)[0].abs().max() == 0


@given(length=st.integers(1, 300), window=st.integers(1, 100), share=st.integers(1, 100))
def test_windows_cover_every_sample_and_end_with_the_sound(
    length: int, window: int, share: int
) -> None:
    hop = max(1, window * share // 100)
    wav = torch.arange(length)[None]
    cut = audio.windows(wav, 1, window, hop)
    assert {int(x) for w in cut for x in w.wav[0]} == set(range(length))
    assert all(w.wav.shape[-1] == min(window, length) for w in cut)
    assert all(int(w.wav[0, 0]) == w.start_s for w in cut)
    starts = [w.start_s for w in cut]
    assert starts == sorted(set(starts))
    assert int(cut[-1].wav[0, -1]) == length - 1


@pytest.mark.parametrize(("window_s", "hop_s"), [(0.0, 0.0), (1.0, 0.0), (1.0, 1.5), (1.0, -1.0)])
def test_windows_that_leave_gaps_or_stand_still_are_refused(window_s: float, hop_s: float) -> None:
    with pytest.raises(BadSetting, match="hop"):
        audio.windows(torch.zeros(1, 100), 10, window_s, hop_s)
