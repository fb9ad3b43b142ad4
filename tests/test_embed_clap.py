"""Clap against the stock extractor and model of transformers, on a tiny random CLAP."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaTokenizer

from anechoic.embed import embedder
from anechoic.embed.clap import Clap
from anechoic.errors import UnknownEmbedder

RATE = 48_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap")
    torch.manual_seed(0)
    text = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 40}
    audio = {"patch_embeds_hidden_size": 8, "hidden_size": 64, "depths": [1, 1, 1, 1]}
    audio |= {"num_attention_heads": [1, 1, 2, 2]}
    # At the usual deviation of 0.02 so small a network hardly hears its input.
    audio |= {"initializer_factor": 10.0}
    ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16)).save_pretrained(
        folder
    )
    ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad").save_pretrained(folder)
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet())]
    vocabulary = {symbol: i for i, symbol in enumerate(symbols)}
    RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=38).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clap(folder):
    return Clap(str(folder))


def noise(seconds: float, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(seconds * 10))
    wav = torch.randn(batch, 1, round(seconds * RATE), generator=generator)
    return wav / wav.abs().amax(-1, keepdim=True)


def tone(seconds: float) -> torch.Tensor:
    return torch.sin(2 * math.pi * 440 * torch.arange(round(seconds * RATE)) / RATE)[None, None]


@pytest.mark.parametrize(
    "wav",
    [noise(10.0), noise(1.7), tone(10.0), tone(3.0)],
    ids=["10 s", "1.7 s", "tone", "tone, 3 s"],
)
def test_the_front_end_is_the_stock_extractor(clap, folder, wav):
    stock = ClapFeatureExtractor.from_pretrained(folder)(
        wav[0, 0].numpy(), sampling_rate=RATE, return_tensors="pt"
    )["input_features"]
    torch.testing.assert_close(clap.features(wav[:, 0]), stock[0], atol=1e-4, rtol=0)  # dB


def test_a_clip_of_ten_seconds_embeds_as_in_the_stock_model(clap, folder):
    wav = noise(10.0)
    inputs = ClapFeatureExtractor.from_pretrained(folder)(
        wav[0, 0].numpy(), sampling_rate=RATE, return_tensors="pt"
    )
    stock = ClapModel.from_pretrained(folder).eval().get_audio_features(**inputs).pooler_output
    torch.testing.assert_close(clap(wav, RATE), stock, atol=1e-4, rtol=0)
    assert (clap(tone(10.0), RATE) * stock).sum() < 0.99  # this network does tell sounds apart


def test_the_same_long_file_is_always_at_the_same_point(clap):
    wav = noise(25.0)
    assert torch.equal(clap(wav, RATE), clap(wav, RATE))


def test_long_sound_is_the_mean_of_its_windows(clap):
    wav = noise(12.0)
    first, last = clap(wav[..., : 10 * RATE], RATE), clap(wav[..., -10 * RATE :], RATE)
    mean = torch.nn.functional.normalize(first + last, dim=1)
    # The peak of the whole sets the level of both windows: the cut ones stand a little higher.
    torch.testing.assert_close(clap(wav, RATE), mean, atol=5e-2, rtol=0)
    assert (clap(wav, RATE) * mean).sum() > 0.999


def test_captions_lie_on_the_same_sphere(clap):
    captions = ["a dog barks", "a dog barks", "a very long caption about rain " * 20]
    emb = clap.text(captions)
    assert emb.shape == (3, clap.dim)
    torch.testing.assert_close(emb.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(emb[0], emb[1])


def test_the_name_makes_the_same_embedder_from_any_working_directory(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder.parent)
    clap = embedder(f"clap:{folder.name}")
    monkeypatch.chdir(tmp_path)
    again = embedder(clap.name)
    wav = noise(1.0)
    assert torch.equal(again(wav, RATE), clap(wav, RATE))
    assert clap.revision is None


@pytest.mark.parametrize(
    ("lost", "mend"),
    [
        ("model.safetensors", "save_pretrained"),
        ("preprocessor_config.json", "save_pretrained"),
        ("config.json", "save_pretrained"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_in_one_sentence(folder, tmp_path, lost, mend):
    shutil.copytree(folder, tmp_path / "clap")
    (tmp_path / "clap" / lost).unlink()
    with pytest.raises(UnknownEmbedder, match=rf"^expected .*, got .*; .*{mend}"):
        Clap(str(tmp_path / "clap"))


def test_weights_that_are_missing_are_never_filled_in_at_random(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "clap")
    path = tmp_path / "clap" / "model.safetensors"
    weights = load_file(path)
    del weights["audio_projection.linear1.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UnknownEmbedder, match=r"without 1 of them, audio_projection"):
        Clap(str(tmp_path / "clap"))


@pytest.mark.parametrize(
    ("source", "mend"),
    [("anechoic-tests/no-such-clap", "run 'hf download"), ("/no/such/folder", "correct it")],
)
def test_weights_that_are_not_here_are_asked_for(source, mend, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UnknownEmbedder, match=rf"^expected .*, got .*; .*{mend}"):
        Clap(source)


def test_a_missing_tokenizer_stops_captions_but_not_sound(folder, tmp_path):
    files = ["config.json", "model.safetensors", "preprocessor_config.json"]
    for file in files:
        shutil.copy(folder / file, tmp_path)
    clap = Clap(str(tmp_path))
    assert clap(noise(0.5), RATE).shape == (1, 16)
    with pytest.raises(UnknownEmbedder, match=r"^expected a tokenizer .*, got none; "):
        clap.text(["a dog"])


def test_a_fused_clap_is_refused_for_its_random_crops(folder, tmp_path):
    config = ClapConfig.from_pretrained(folder)
    config.audio_config.enable_fusion = True
    config.audio_config.fusion_type = "channel_map"
    ClapModel(config).save_pretrained(tmp_path)
    ClapFeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(UnknownEmbedder, match=r"^expected an unfused CLAP, got the fused .*; take"):
        Clap(str(tmp_path))
