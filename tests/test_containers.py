"""All of a sound file is heard, or it is refused, whatever its container states."""

from __future__ import annotations

import io
import os
import struct

import numpy as np
import pytest
import soundfile

from anechoic import audio, containers
from anechoic.errors import BadAudio

RATE = 16_000
NOISE = (0.1 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)
KINDS = [
    ("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", None), ("WAV", "PCM_16"),
    ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "GSM610"), ("WAV", "IMA_ADPCM"),
    ("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("W64", "MS_ADPCM"),
    ("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"),
]  # fmt: skip


def encoded(kind: str, subtype: str | None = None, sound: np.ndarray = NOISE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound, RATE, subtype, format=kind)
    return file.getvalue()


def heard(content: bytes) -> np.ndarray:
    wav, rate = audio.read_bytes(content, "a")
    assert rate == RATE
    return wav.numpy()[0]


def put(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_a_whole_file_is_what_libsndfile_decodes_to(kind, subtype):
    content = encoded(kind, subtype)
    # libsndfile counts a GSM 6.10 wrongly until it has decoded it
    stated = None if subtype == "GSM610" else soundfile.read(io.BytesIO(content), dtype="float32")
    wav = heard(content)
    if stated is None:
        assert RATE <= len(wav) < RATE + 320
    elif kind == "MP3":  # mpg123 rounds otherwise where a block begins
        assert np.allclose(wav, stated[0], atol=1e-6)
    else:
        assert np.array_equal(wav, stated[0])


@pytest.mark.parametrize("missing", [2, 4, 100, 0.005, 0.5])
@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_a_file_that_misses_anything_is_refused(kind, subtype, missing):
    content = encoded(kind, subtype)
    cut = missing if missing > 1 else round(missing * len(content))
    with pytest.raises(BadAudio, match="cut off"):
        audio.read_bytes(content[:-cut], "a")


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_joined_files_are_heard_whole_or_refused(kind, subtype):
    content = encoded(kind, subtype)
    if kind in ("MP3", "OGG"):
        once = heard(content)
        assert np.array_equal(heard(content + content), np.concatenate([once, once]))
        return
    with pytest.raises(BadAudio, match=r"goes on behind its end|cannot be read as sound"):
        audio.read_bytes(content + content, "a")


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_what_follows_the_end_is_refused_unless_it_is_a_tag(kind, subtype):
    content = encoded(kind, subtype)
    with pytest.raises(BadAudio):
        audio.read_bytes(content + NOISE.tobytes()[:1001], "a")
    if kind != "AU":  # sound without an end of its own
        tag = b"TAG" + bytes(125)
        assert np.array_equal(heard(content + tag), heard(content))


@pytest.mark.parametrize(("kind", "subtype"), [k for k in KINDS if k[0] in ("OGG", "FLAC")])
def test_a_flipped_bit_is_refused_where_the_container_has_sums(kind, subtype):
    content = encoded(kind, subtype)
    middle = len(content) // 2
    with pytest.raises(BadAudio, match="damaged"):
        audio.read_bytes(put(content, middle, bytes([content[middle] ^ 1])), "a")


def sized(kind: str, size: int) -> bytes:
    """A file that states this as the bytes of its sound."""
    content = encoded(kind, "PCM_16")
    if kind == "AU":
        return put(content, 8, struct.pack(">I", size))
    if kind == "CAF":
        return put(content, content.index(b"data") + 4, struct.pack(">q", size))
    if kind == "W64":
        return put(content, content.index(b"data") + 16, struct.pack("<Q", size))
    if kind == "AIFF":
        return put(content, content.index(b"SSND") + 4, struct.pack(">I", size))
    if kind == "RF64":
        ds64 = content.index(b"ds64") + 16
        return put(content, ds64, struct.pack("<Q", size))
    return put(content, content.index(b"data") + 4, struct.pack("<I", size))


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("WAV", 0), ("WAV", 2**32 - 1), ("WAV", 2**32 - 37), ("WAV", 0x7FFFF000),
        ("WAV", 2**31), ("WAV", 2**31 - 1), ("RF64", 0), ("RF64", 2**32 - 1), ("RF64", 2**64 - 1),
        ("W64", 0), ("W64", 24), ("W64", 2**63 - 1), ("AIFF", 0), ("AIFF", 2**32 - 1),
        ("AIFF", 0x7F000008), ("AU", 2**32 - 1), ("AU", 0), ("CAF", -1),
    ],
)  # fmt: skip
def test_a_file_whose_writer_could_not_state_its_size_is_heard_whole(kind, size):
    assert np.array_equal(heard(sized(kind, size)), heard(encoded(kind, "PCM_16")))


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF"])
def test_a_file_that_states_less_than_it_holds_is_refused(kind):
    with pytest.raises(BadAudio, match="goes on behind its end"):
        audio.read_bytes(sized(kind, RATE), "a")


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF"])
def test_a_file_that_states_twice_what_it_holds_is_refused_with_both_lengths(kind):
    with pytest.raises(BadAudio, match=r"promises 2\.00 s and 1\.00 s are there"):
        audio.read_bytes(sized(kind, 4 * RATE), "a")


@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3"])
def test_a_folder_is_searched_for_every_kind_that_is_read(kind):
    assert len(heard(encoded(kind))) == RATE
    assert f".{kind.lower()}" in audio.SUFFIXES


def test_chunks_around_the_sound_do_no_harm():
    file = io.BytesIO()
    soundfile.write(file, NOISE[:4001], RATE, "PCM_24", format="WAV")
    content = file.getvalue()
    odd = b"note" + struct.pack("<I", 3) + b"abc\0"
    for end in (content, content.removesuffix(b"\0")):  # not every writer pads
        around = content[:12] + odd + end[12:] + odd
        assert np.array_equal(heard(around), heard(content))


def test_a_second_chunk_of_sound_is_refused():
    content = encoded("WAV", "PCM_16")
    with pytest.raises(BadAudio, match="two chunks of sound"):
        audio.read_bytes(content + content[content.index(b"data") :], "a")


def test_an_empty_file_with_chunks_behind_its_sound_has_no_samples():
    empty = encoded("WAV", "PCM_16", NOISE[:0]) + b"note" + struct.pack("<I", 4) + b"abcd"
    with pytest.raises(BadAudio, match="no samples"):
        audio.read_bytes(empty, "a")


# ---------------------------------------------------------------------------------- FLAC, Ogg


def with_total(content: bytes, total: int) -> bytes:
    """A FLAC whose STREAMINFO states so many frames."""
    head = int.from_bytes(content[18:26], "big")
    return put(content, 18, (head - head % 2**36 + total).to_bytes(8, "big"))


def test_a_flac_of_unknown_or_understated_length_is_heard_whole():
    content = encoded("FLAC")
    for total in (0, RATE // 2):
        assert np.array_equal(heard(with_total(content, total)), heard(content))


def test_a_flac_that_promises_days_is_refused_before_memory_is_taken():
    with pytest.raises(BadAudio, match="cut off"):
        audio.read_bytes(with_total(encoded("FLAC"), 2**36 - 1), "a")


def test_a_flac_without_a_frame_or_with_two_exchanged_is_refused():
    """libFLAC takes silence for the frame that is missing."""
    content = encoded("FLAC", sound=np.tile(NOISE, 4))
    head = content[content.index(b"\xff\xf8") :][:4]  # of each frame, before its number
    a, b, c = [at for at in range(len(content)) if content.startswith(head, at)][1:4]
    for damaged in (
        content[:a] + content[b:],
        content[:a] + content[b:c] + content[a:b] + content[c:],
    ):
        with pytest.raises(BadAudio, match="is damaged"):
            audio.read_bytes(damaged, "a")


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_24"])
def test_a_flac_is_checked_in_stereo_and_any_number_of_bits(subtype):
    content = encoded("FLAC", subtype, np.stack([NOISE, -0.5 * NOISE], 1))
    stated = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    assert np.array_equal(audio.read_bytes(content, "a")[0].numpy(), stated.T)


def test_an_ogg_without_one_of_its_pages_is_refused():
    content = encoded("OGG", "VORBIS", np.tile(NOISE, 4))
    starts = [at for at in range(len(content)) if content.startswith(b"OggS", at)]
    assert len(starts) > 4
    with pytest.raises(BadAudio, match="pages are missing"):
        audio.read_bytes(content[: starts[3]] + content[starts[4] :], "a")


def test_a_chain_whose_links_have_different_rates_is_refused():
    other = io.BytesIO()
    soundfile.write(other, NOISE, 2 * RATE, "VORBIS", format="OGG")
    with pytest.raises(BadAudio, match="joined from 16000 Hz and 1 channels, then 32000 Hz"):
        audio.read_bytes(encoded("OGG", "VORBIS") + other.getvalue(), "a")


def test_a_link_that_was_cut_off_in_a_chain_is_refused():
    content = encoded("OGG", "VORBIS")
    last = content.rindex(b"OggS")
    with pytest.raises(BadAudio, match="side by side, or one was cut off"):
        audio.read_bytes(content[:last] + encoded("OGG", "OPUS"), "a")


# ---------------------------------------------------------------------------------------- MP3


def frames_of(content: bytes) -> list[bytes]:
    return [content[f.start : f.end] for f in containers._frames(content, "a")]


def test_an_mp3_without_its_length_header_is_heard_whole():
    sound = np.concatenate([np.zeros(2 * RATE, np.float32), NOISE])  # its bitrate rises
    length, *rest = frames_of(encoded("MP3", None, sound))
    assert b"Xing" in length or b"Info" in length
    wav = heard(b"".join(rest))
    assert len(wav) >= len(sound)
    assert np.abs(wav[-RATE // 2 :]).max() > 0.1


def test_an_mp3_joined_to_one_with_a_length_header_is_heard_whole():
    length, *rest = frames_of(encoded("MP3"))
    bare = b"".join(rest)
    assert len(heard(length + bare + bare)) >= 2 * RATE
    assert len(heard(bare + length + bare)) >= 2 * RATE
    assert len(heard(b"ID3\4\0\0\0\0\0\0" + length + bare + b"\0" * 50)) == RATE


@pytest.mark.parametrize("count", [1, 5])
def test_an_mp3_that_ends_between_two_frames_is_refused(count):
    content = b"".join(frames_of(encoded("MP3"))[:-count])
    with pytest.raises(BadAudio, match="cut off: its header promises"):
        audio.read_bytes(content, "a")


def test_an_mp3_with_a_damaged_frame_is_refused():
    frames = frames_of(encoded("MP3"))
    frames[7] = b"\0\1" + frames[7][2:]
    with pytest.raises(BadAudio, match="is damaged"):
        audio.read_bytes(b"".join(frames), "a")


def test_mp3_of_different_rates_joined_is_refused():
    other = io.BytesIO()
    soundfile.write(other, NOISE, 44_100, format="MP3")
    bare = b"".join(frames_of(other.getvalue())[1:])
    for second in (other.getvalue(), bare):
        with pytest.raises(BadAudio):
            audio.read_bytes(b"".join(frames_of(encoded("MP3"))[1:]) + second, "a")


# ------------------------------------------------------------------------------ any bytes at all


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_changed_bytes_give_sound_or_one_sentence(kind, subtype):
    content, random = encoded(kind, subtype, NOISE[:4000]), np.random.default_rng(0)
    outcomes = []
    for _ in range(60):
        damaged = bytearray(content)
        for at in random.integers(0, min(len(content), 200), 3):
            damaged[at] = random.integers(0, 256)
        try:
            wav, _ = audio.read_bytes(bytes(damaged), "a")
        except BadAudio as error:
            outcomes.append("\n" not in str(error))
        else:
            outcomes.append(wav.shape[1] > 0)
    assert all(outcomes)


def test_bytes_that_could_begin_a_frame_everywhere_are_refused_at_once():
    with pytest.raises(BadAudio, match="none of the known formats"):
        audio.read_bytes(b"\xff" * 50_000_000, "a")


@pytest.mark.parametrize("fork", containers.FORKS)
def test_what_macos_leaves_in_the_working_folder_is_no_part_of_an_mp3(tmp_path, monkeypatch, fork):
    """libsndfile would take it for the settings of one, and the frames for plain numbers."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / fork).mkdir()
    with pytest.raises(BadAudio, match="is in the current folder"):
        audio.read_bytes(encoded("MP3"), "a")
    assert len(heard(encoded("WAV"))) == RATE


def test_no_more_is_read_than_the_limit(monkeypatch, tmp_path):
    path = audio.write(tmp_path / "a.flac", audio.torch.from_numpy(NOISE[None]), RATE)
    monkeypatch.setenv("ANECHOIC_MAX_SAMPLES", "47000")  # a second counts for 48,000
    with pytest.raises(BadAudio, match="limit of 47000"):
        audio.read(path)
    monkeypatch.setenv("ANECHOIC_MAX_SAMPLES", "48000")
    assert audio.read(path)[0].shape == (1, RATE)
    with (tmp_path / "sparse.wav").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BadAudio, match="limit of"):
        audio.read(tmp_path / "sparse.wav")


def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", "/dev/zero"):
        with pytest.raises(BadAudio, match="is a pipe or a device"):
            audio.read(path)


def test_sound_over_a_length_is_refused_whatever_its_header_states(tmp_path):
    path = tmp_path / "a.flac"
    path.write_bytes(with_total(encoded("FLAC"), 0))
    assert audio.read(path, longest_s=1.0)[0].shape == (1, RATE)
    with pytest.raises(BadAudio, match=r"lasts over 0\.9 s"):
        audio.read(path, longest_s=0.9)
