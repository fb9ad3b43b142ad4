"""Aisfx against its authors' code and librosa, where both are installed."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from anechoic_lab.embedders.aisfx import Aisfx

from anechoic.errors import UnknownEmbedder

RATE = 44_100
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("aisfx") is None,
    reason="the weights are not installed: pip install --no-deps aisfx",
)


@pytest.fixture(scope="module")
def aisfx():
    return Aisfx()


def noise(seconds: float) -> torch.Tensor:
    wav = torch.randn(1, 1, int(seconds * RATE), generator=torch.Generator().manual_seed(0))
    return wav / wav.abs().amax()


@needs_weights
def test_the_network_is_the_authors(aisfx):
    spec = importlib.util.find_spec("aisfx")
    path = f"{spec.submodule_search_locations[0]}/models/cnn2d.py"
    module_spec = importlib.util.spec_from_file_location("aisfx_cnn2d", path)
    authors = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(authors)
    network = authors.EmbeddingNet("max", 3, 1, 64).eval()
    network.load_state_dict(aisfx._network.state_dict())
    frames = aisfx.features(noise(2.4)[:, 0])[:, :100]
    with torch.no_grad():
        torch.testing.assert_close(aisfx._network(frames), network(frames))


@needs_weights
def test_the_front_end_is_the_authors_by_librosa(aisfx):
    librosa = pytest.importorskip("librosa")
    wav = noise(1.0)[:, 0]
    # What `librosa.feature.melspectrogram` does, without the compiler that it starts.
    filters = librosa.filters.mel(sr=RATE, n_fft=2048, n_mels=96, htk=True, norm=1.0)
    power = abs(librosa.stft(wav[0].numpy(), n_fft=2048, hop_length=1024)) ** 2
    mel = filters @ power
    stock = torch.from_numpy(mel * 1e4 + 1).log10().T / 9.457798957824707
    torch.testing.assert_close(aisfx.features(wav)[0], stock, atol=1e-5, rtol=0)


@needs_weights
def test_one_block_is_the_network_itself_and_several_are_averaged(aisfx):
    frames = aisfx.features(noise(4.0)[:, 0])[0]
    blocks = torch.stack([frames[0:100], frames[50:150], frames[-100:]])
    with torch.no_grad():
        mean = aisfx._network(blocks).mean(0, keepdim=True)
    torch.testing.assert_close(aisfx(noise(4.0), RATE), torch.nn.functional.normalize(mean))


@needs_weights
def test_silence_after_a_short_sound_changes_nothing(aisfx):
    wav = noise(1.0)
    padded = torch.nn.functional.pad(wav, (0, RATE))
    # The frames at the seam differ: reached by the window from one side or from both.
    assert (aisfx(wav, RATE) * aisfx(padded, RATE)).sum() > 0.99


@needs_weights
def test_the_authors_package_is_read_and_never_imported(aisfx):
    assert "aisfx" not in sys.modules


def test_without_the_package_the_error_is_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UnknownEmbedder, match=r"^expected .*, got none .*; run 'pip install --no-deps"
    ):
        Aisfx()
