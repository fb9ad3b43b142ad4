"""Clap against the stock extractor and model of transformers, on tiny random CLAPs."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from diffusers import AudioLDM2Pipeline
from support import embedder_models as models
from support.pipelines import CASES, make
from transformers import ClapFeatureExtractor, ClapModel

from anechoic import AntiMemorization, TrainingIndex, guard
from anechoic.embedders import embedder
from anechoic.embedders.clap import Clap
from anechoic.errors import UnknownEmbedder

RATE = 48_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return models.save_clap(tmp_path_factory.mktemp("clap"))


@pytest.fixture(scope="module")
def fused_folder(tmp_path_factory):
    return models.save_clap(tmp_path_factory.mktemp("fused"), fused=True)


@pytest.fixture(scope="module")
def clap(folder):
    return Clap(str(folder))


@pytest.fixture(scope="module")
def fused(fused_folder):
    return Clap(str(fused_folder))


def noise(seconds: float, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(int(seconds * 10))
    wav = torch.randn(batch, 1, round(seconds * RATE), generator=generator)
    return wav / wav.abs().amax(-1, keepdim=True)


def tone(seconds: float) -> torch.Tensor:
    return torch.sin(2 * math.pi * 440 * torch.arange(round(seconds * RATE)) / RATE)[None, None]


def stock_inputs(folder, wav):
    extractor = ClapFeatureExtractor.from_pretrained(folder)
    return extractor(wav[0, 0].numpy(), sampling_rate=RATE, return_tensors="pt")


@pytest.mark.parametrize("kind", ["clap", "fused"])
@pytest.mark.parametrize(
    "wav",
    [noise(10.0), noise(1.7), tone(10.0), tone(3.0)],
    ids=["10 s", "1.7 s", "tone", "tone, 3 s"],
)
def test_the_front_end_is_the_stock_extractor(kind, wav, request):
    clap, folder = (request.getfixturevalue(name) for name in (kind, FOLDERS[kind]))
    stock = stock_inputs(folder, wav)["input_features"][0]
    assert len(stock) == (4 if kind == "fused" else 1)
    for view in stock:  # of a short clip they are alike
        torch.testing.assert_close(clap.features(wav[:, 0])[0], view, atol=1e-4, rtol=0)  # dB


FOLDERS = {"clap": "folder", "fused": "fused_folder"}


def test_a_clip_of_ten_seconds_embeds_as_in_the_stock_model(clap, folder):
    wav = noise(10.0)
    inputs = stock_inputs(folder, wav)
    stock = ClapModel.from_pretrained(folder).eval().get_audio_features(**inputs).pooler_output
    torch.testing.assert_close(clap(wav, RATE), stock, atol=1e-4, rtol=0)
    assert (clap(tone(10.0), RATE) * stock).sum() < 0.99  # this network does tell sounds apart


def test_a_fused_clap_embeds_a_short_clip_as_the_stock_model_that_is_not_told_it_is_long(
    fused, fused_folder
):
    wav = noise(3.0)
    inputs = stock_inputs(fused_folder, wav)
    assert inputs["is_longer"].item()  # though it is not: the extractor marks one of each batch
    model = ClapModel.from_pretrained(fused_folder).eval()
    inputs["is_longer"] = torch.tensor([[False]])
    stock = model.get_audio_features(**inputs).pooler_output
    torch.testing.assert_close(fused(wav, RATE), stock, atol=1e-4, rtol=0)


def test_a_fused_clap_puts_a_clip_at_the_same_point_in_any_batch(fused):
    pair = torch.cat([noise(2.0), tone(2.0)])
    both = fused(pair, RATE)
    torch.testing.assert_close(both[:1], fused(pair[:1], RATE), atol=1e-5, rtol=0)
    assert (both[0] * both[1]).sum() < 0.99


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
    assert again.revision == clap.revision


def test_a_copy_of_a_folder_has_its_revision_and_other_weights_have_another(clap, folder, tmp_path):
    assert Clap(str(shutil.copytree(folder, tmp_path / "copy"))).revision == clap.revision
    assert Clap(str(models.save_clap(tmp_path / "other", seed=1))).revision != clap.revision


# ------------------------------------------------------------------ of a pipeline


ABSENT: dict[str, None] = dict.fromkeys(
    set(AudioLDM2Pipeline.__init__.__annotations__)
    - {"text_encoder", "tokenizer", "feature_extractor", "return"}
)


def audioldm2() -> AudioLDM2Pipeline:
    """The real pipeline, of which only the CLAP is there."""
    return AudioLDM2Pipeline(
        **ABSENT,
        text_encoder=models.clap(),
        tokenizer=models.clap_tokenizer(),
        feature_extractor=models.clap_extractor(),
    )


def test_the_clap_of_a_pipeline_is_shared_and_is_the_one_that_is_read(clap):
    pipe = audioldm2()
    shared = Clap.of(pipe)
    assert shared._model is pipe.text_encoder
    assert shared.revision == clap.revision
    # to the last bit or so: sums depend on where weights lie in memory
    torch.testing.assert_close(shared(noise(2.0), RATE), clap(noise(2.0), RATE), atol=1e-6, rtol=0)
    assert torch.equal(shared.text(["a dog barks"]), clap.text(["a dog barks"]))


def test_the_shared_clap_guides_the_pipeline_that_it_is_part_of(clap):
    """As docs/reference/embedders.md shows it."""
    case, pipe = CASES["AudioLDM2Pipeline"], make("AudioLDM2Pipeline")
    pipe.text_encoder, pipe.tokenizer = models.clap(), models.clap_tokenizer()
    pipe.feature_extractor = models.clap_extractor()
    shared = Clap.of(pipe)
    index = TrainingIndex.from_embeddings(
        clap(noise(1.0, 2), RATE), ["rain on a roof", "high flute note"],
        embedder_name=clap.name, sample_rate=RATE, revision=clap.revision,
    )  # fmt: skip
    plain = case.generate(pipe, "a dog barks", steps=2, scale=3.5)
    method = AntiMemorization(index, shared, 3.5, c3=5.0, lambda_min=-1.0, lambda_max=-1.0)
    with guard(pipe, method) as trace:
        guarded = case.generate(pipe, "a dog barks", steps=2)
    assert bool(trace.column("gate").all())
    assert torch.isfinite(guarded).all()
    assert not torch.equal(guarded, plain)


def test_in_half_precision_the_weights_of_a_pipeline_are_known_for_the_same(clap):
    pipe = audioldm2().to(torch.bfloat16)
    shared = Clap.of(pipe)
    assert pipe.text_encoder.dtype == torch.bfloat16
    assert shared.revision == clap.revision
    emb = shared(noise(2.0), RATE)
    assert emb.dtype == torch.float32
    assert (emb * clap(noise(2.0), RATE)).sum() > 0.99


def test_a_saved_pipeline_is_a_source_and_its_name_leads_back_to_it(tmp_path, clap):
    audioldm2().save_pretrained(tmp_path)
    name = Clap.of(AudioLDM2Pipeline.from_pretrained(tmp_path, **ABSENT)).name
    assert name == f"clap:{tmp_path}"
    again = embedder(name)
    assert torch.equal(again(noise(1.0), RATE), clap(noise(1.0), RATE))
    assert torch.equal(again.text(["a dog barks"]), clap.text(["a dog barks"]))


def test_a_pipeline_without_a_whole_clap_is_refused(pipe):
    with pytest.raises(UnknownEmbedder, match=r"^expected .*, got StableAudioPipeline .*; make"):
        Clap.of(pipe)


def test_weights_that_are_offloaded_one_by_one_are_refused():
    pipe = audioldm2()
    pipe.text_encoder.to("meta")
    with pytest.raises(UnknownEmbedder, match=r"^expected .* in memory, got .*; make"):
        Clap.of(pipe)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("lost", ["model.safetensors", "preprocessor_config.json", "config.json"])
def test_a_folder_that_lacks_a_file_is_refused_in_one_sentence(folder, tmp_path, lost):
    shutil.copytree(folder, tmp_path / "clap")
    (tmp_path / "clap" / lost).unlink()
    with pytest.raises(UnknownEmbedder, match=r"^expected .*, got .*; .*save_pretrained"):
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


def test_a_missing_tokenizer_stops_captions_but_not_sound(folder, tmp_path):
    files = ["config.json", "model.safetensors", "preprocessor_config.json"]
    for file in files:
        shutil.copy(folder / file, tmp_path)
    clap = Clap(str(tmp_path))
    assert clap(noise(0.5), RATE).shape == (1, 16)
    with pytest.raises(UnknownEmbedder, match=r"^expected a tokenizer .*, got none; "):
        clap.text(["a dog"])


@pytest.mark.parametrize(
    ("fused", "settings", "got"),
    [
        (False, {"truncation": "fusion"}, "fusion"),
        (True, {"truncation": "rand_trunc"}, "rand_trunc"),
        (False, {"truncation": "rand_trunc", "padding": "pad"}, "pad"),
    ],
)
def test_an_extractor_of_another_model_is_refused(tmp_path, fused, settings, got):
    models.clap(fused=fused).save_pretrained(tmp_path)
    ClapFeatureExtractor(**settings).save_pretrained(tmp_path)
    with pytest.raises(UnknownEmbedder, match=rf"^expected .*, got '{got}'.*; "):
        Clap(str(tmp_path))
