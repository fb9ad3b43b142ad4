"""The demo: its codec, model, corpus and judges, and that what ships is what it is said to be."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from anechoic_lab.demo import assets, build, corpus, watch
from anechoic_lab.demo.codec import MelCodec
from anechoic_lab.demo.corpus import INSTRUMENTS, PITCHES, Clip
from anechoic_lab.demo.judge import ClipScorer, mel, waveform
from anechoic_lab.demo.methods import METHODS, guidance
from anechoic_lab.demo.model import Conditioner, make_tokenizer
from anechoic_lab.demo.run import Bench, generate, interval
from anechoic_lab.demo.show import Watched, prompts_to_report, prompts_to_tune
from anechoic_lab.demo.train import Phase, TrainingRecipe, _varied, train
from diffusers import StableAudioPipeline
from support.commands import Run

from anechoic import guard
from anechoic.diffusers import fingerprint
from anechoic.errors import OutputExists
from anechoic.guidance import ClassifierFree
from anechoic.index import TrainingIndex


def note(midi: int, seed: int = 0, length: int = corpus.LENGTH) -> torch.Tensor:
    """A decaying tone with four partials, [t]."""
    rng = np.random.default_rng(seed)
    t = np.arange(length) / corpus.SAMPLE_RATE
    hz = 440 * 2 ** ((midi - 69) / 12)
    wav = sum(np.sin(2 * np.pi * k * hz * t) / k for k in range(1, 5) if k * hz < 7000)
    wav = wav * np.exp(-t * rng.uniform(1, 6)) * (t > rng.uniform(0, 0.2))
    return torch.from_numpy(corpus.finish(wav))


NOTES = torch.stack([note(midi) for midi in (40, 52, 64, 76)])

# ----------------------------------------------------------------------------------- codec


def test_the_codec_gives_back_the_mel_it_was_given():
    """Centred log-mel correlation of a round trip is 0.986 over the corpus."""
    judge = ClipScorer.of("mel", NOTES)
    back = build.round_trip(MelCodec(mean=-3.0, std=2.8), NOTES)
    assert judge(back).diagonal().min() > 0.9  # of four bare tones; the corpus does better
    assert waveform(back, NOTES).shape == (4,)


def test_latents_are_the_log_mel_and_nothing_else():
    codec = MelCodec(mean=-3.0, std=2.8)
    latents = codec.encode(NOTES[:, None]).latent_dist.mean
    assert latents.shape == (4, 128, 32)
    torch.testing.assert_close(codec.log_mel(latents), codec.mel(NOTES))


def test_decoding_is_differentiable_deterministic_and_of_each_sample_alone():
    codec = MelCodec(mean=-3.0, std=2.8)
    latents = codec.encode(NOTES[:, None]).latent_dist.mean.requires_grad_(True)
    wav = codec.decode(latents).sample
    mel(wav[:, 0]).sum().backward()
    assert torch.isfinite(latents.grad).all()
    assert latents.grad.flatten(1).norm(dim=1).min() > 0
    assert torch.equal(codec.decode(latents).sample, wav)
    alone = torch.cat([codec.decode(x).sample for x in latents.split(1)])
    torch.testing.assert_close(alone, wav, rtol=0, atol=1e-2)  # Griffin-Lim amplifies rounding


def test_an_estimate_far_outside_of_sound_still_decodes():
    codec = MelCodec(mean=-3.0, std=2.8)
    assert torch.isfinite(codec.decode(100 * torch.randn(2, 128, 32)).sample).all()


# --------------------------------------------------------------------- corpus and training


def test_a_caption_names_instrument_pitch_and_register():
    assert corpus.note_caption("cello", 36) == "low cello note C 2"
    assert {corpus.register_of(midi) for midi in PITCHES} == {"low", "middle", "high"}


def test_every_word_of_a_caption_is_one_token_and_unknown_words_are_spelled():
    tokenizer = make_tokenizer(["low cello note C# 2", "a crow"])
    assert tokenizer.tokenize("low crow note C# 2") == ["▁low", "▁crow", "▁note", "▁C#", "▁2"]
    assert tokenizer.unk_token_id not in tokenizer("quick zebra").input_ids


def tiny_corpus() -> tuple[list[Clip], np.ndarray]:
    clips, wavs = [], []
    for family, name in (("piano", "grand piano"), ("pipe", "flute"), ("brass", "trumpet")):
        for midi in PITCHES[::4]:
            for take in range(3):
                split = "held-out take" if take == 2 else "train"
                caption = corpus.note_caption(name, midi)
                copies = 8 if (midi, take) == (36, 0) else 1
                clips.append(
                    Clip(f"{name}/{midi}/{take}", caption, "note", split, copies, "tests", "MIT",
                         "", name, family, corpus.register_of(midi), midi)
                )  # fmt: skip
                wavs.append(note(midi, seed=take).numpy())
    held = replace(clips[0], id="held", caption="low flute note D 2", split="held-out caption")
    return [*clips, held], np.stack([*wavs, wavs[0]])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model trained for a moment, and the folder that is made of it."""
    clips, wavs = tiny_corpus()
    losses = []
    phases = (Phase(20, 1e-3), Phase(10, 5e-4, shift=4, tilt=0.1, shortened=0.5))
    recipe = TrainingRecipe(phases, batch=4, layers=1, heads=2)
    pipe = train(clips, wavs, recipe, lambda step, loss, _: losses.append(loss))
    folder = tmp_path_factory.mktemp("demo") / "folder"
    build.write(folder, pipe, clips, wavs, recipe)
    return folder, losses, clips, wavs, recipe


def test_training_is_seeded(trained):
    _, losses, clips, wavs, recipe = trained
    again = []
    train(clips, wavs, recipe.shortened_to(4), lambda step, loss, _: again.append(loss))
    assert again[0] == losses[0]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_views_of_duplicated_clips_are_never_varied():
    codec = MelCodec(mean=-3.0, std=2.8)
    latents = codec.encode(NOTES[:, None]).latent_dist.mean
    once = torch.tensor([True, False, True, False])
    phase = Phase(1, 1e-3, shift=8, tilt=0.5)
    varied = _varied(latents, once, codec, phase, torch.Generator().manual_seed(0))
    assert torch.equal(varied[~once], latents[~once])
    assert (varied[once] != latents[once]).flatten(1).any(1).all()
    still = _varied(latents, once, codec, Phase(1, 1e-3), torch.Generator().manual_seed(0))
    torch.testing.assert_close(still, latents, rtol=0, atol=1e-5)


def test_training_sees_the_conditions_that_the_pipeline_makes(trained):
    """Cross-attention and global states, conditional and not, to the last bit."""
    folder = trained[0]
    pipe = assets.pipeline(folder)
    captions = ["low flute note C 2", "high trumpet note C 5"]
    seen = {}
    hook = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    pipe(captions, num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    hook.remove()
    condition = Conditioner(pipe, captions)
    rows = torch.tensor([0, 1])
    for half, dropped in ((slice(None, 2), True), (slice(2, None), False)):
        cross, globals_ = condition(rows, torch.tensor([dropped, dropped]))
        torch.testing.assert_close(cross, seen["encoder_hidden_states"][half])
        torch.testing.assert_close(globals_, seen["global_hidden_states"][half])


def test_a_trained_folder_is_whole_and_its_own(trained):
    folder, _, clips, _, _ = trained
    index = TrainingIndex.load(folder / "index")
    assert index.model == fingerprint(assets.pipeline(folder))
    kept, sound = assets.training_set(folder)
    assert [clip.id for clip in kept] == [clip.id for clip in clips if clip.split == "train"]
    assert [clip.id for clip in index.clips] == [clip.id for clip in kept]
    assert sound.shape == (len(kept), corpus.LENGTH)
    assert -1 < index.thresholds["copy"] <= 1


def test_stock_diffusers_loads_the_folder(trained):
    """In a fresh interpreter too: `tests/diffusers/test_loading.py`."""
    assert isinstance(StableAudioPipeline.from_pretrained(trained[0] / "model").vae, MelCodec)


def test_nothing_is_written_over(trained):
    folder, _, clips, wavs, recipe = trained
    with pytest.raises(OutputExists):
        build.write(folder, assets.pipeline(folder), clips, wavs, recipe)


def test_a_training_shows_what_its_monitor_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(corpus, "build", lambda work, seed: tiny_corpus())
    monkeypatch.setattr(watch, "EVERY", 2)
    monkeypatch.setattr(watch, "SAMPLER_STEPS", 2)
    recipe = TrainingRecipe((Phase(2, 1e-3),), batch=4, layers=1, heads=2)
    build.build(tmp_path / "demo", tmp_path, recipe, monitor=tmp_path / "monitor")
    assert "anechoic: step 2: 0 copies of 3 from training captions" in capsys.readouterr().out
    assert (tmp_path / "monitor/monitor.jsonl").is_file()


def test_what_training_needs_is_told_before_anything_is_fetched(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("demo", "train", "-o", tmp_path / "demo", "--work", tmp_path / "work")
    monkeypatch.setitem(sys.modules, "fluidsynth", None)
    code, _, err = command(*words)
    assert (code, (tmp_path / "work").exists()) == (2, False)
    assert "error: rendering the corpus needs FluidSynth" in err
    assert "pip install 'anechoic-lab[train]'" in err
    monkeypatch.setitem(sys.modules, "fluidsynth", ModuleType("fluidsynth"))
    monkeypatch.setattr(corpus.shutil, "which", lambda name: None)
    code, _, err = command(*words)
    assert code == 2
    assert "unpack it by hand" in err


# -------------------------------------------------------------------------- what ships


@pytest.fixture(scope="module")
def shipped():
    pipe = assets.pipeline()
    return pipe, Bench.load(assets.SHIPPED, pipe)


def test_the_shipped_folder_is_under_40_mb():
    files = [f for f in assets.SHIPPED.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < 40e6


def test_every_shipped_clip_names_its_source_and_licence():
    clips = assets.training_clips()
    assert {(c.source, c.licence) for c in clips} == {
        ("sonic-pi-samples", "CC0-1.0"),
        ("musescore-general-soundfont-small", "MIT"),
    }
    recordings = [c for c in clips if c.kind == "recording"]
    assert np.mean([c.url.startswith("http") for c in recordings]) > 0.95
    names = {name for programs in INSTRUMENTS.values() for name in programs.values()}
    assert {c.instrument for c in clips if c.kind == "note"} == names


def test_the_shipped_index_is_of_the_shipped_model(shipped):
    pipe, bench = shipped
    assert bench.index.model == fingerprint(pipe)


def test_settings_were_tuned_on_other_prompts_than_are_reported(shipped):
    _, bench = shipped
    report, tune = (
        {clip.caption for part in chosen for clip in part}
        for chosen in (prompts_to_report(bench), prompts_to_tune(bench.clips))
    )
    assert not report & tune


@pytest.mark.parametrize(
    "names",
    [
        ("none", "auto", "amg"),
        pytest.param(tuple(METHODS), marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_the_shipped_model_copies_unguarded_and_not_under_a_guard(shipped, names):
    """One seed of four duplicated prompts of the report; the demo has the figures in full."""
    pipe, bench = shipped
    prompts = prompts_to_report(bench)[0][::3]
    captions = [clip.caption for clip in prompts]
    share = {}
    for name in names:
        guide = guidance(name, bench.index, bench.embedder)
        made = generate(pipe, captions, seed=0, guidance=guide)
        share[name] = np.mean([v.copied for v in bench.judge(made.wav, prompts, 0)])
    assert share.pop("none") == 1
    assert share.pop("auto") == 0
    assert max(share.values()) <= 0.25, share


def test_watching_a_generation_does_not_change_it(shipped):
    pipe, bench = shipped
    prompt = [prompts_to_report(bench)[0][0].caption]
    plain = generate(pipe, prompt, seed=3, steps=12)
    watched = Watched(ClassifierFree(assets.CFG_SCALE), bench.index, bench.embedder)
    looked_at = generate(pipe, prompt, seed=3, guidance=watched, steps=12)
    assert torch.equal(plain.wav, looked_at.wav)
    assert "similarity" in looked_at.traces[0].records[0].notes


def test_plain_cfg_through_the_guard_equals_the_shipped_pipeline_bit_for_bit(shipped):
    pipe, _ = shipped

    def sound():
        seed = torch.Generator().manual_seed(0)
        return pipe(
            "low cello note F# 2",
            num_inference_steps=12,
            guidance_scale=assets.CFG_SCALE,
            generator=seed,
        ).audios

    plain = sound()
    with guard(pipe, ClassifierFree(assets.CFG_SCALE)):
        assert torch.equal(sound(), plain)


# ------------------------------------------------------------------------------ the command


def test_the_demo_writes_its_page_and_counts(trained, command: Run, tmp_path):
    """On the model trained for a moment: what it prints is what it measured."""
    page = tmp_path / "demo.html"
    arguments = ["demo", "--data", str(trained[0]), "--seeds", "1", "--steps", "3"]
    arguments += ["-o", str(page), "--json"]
    code, out, err = command(*arguments)
    assert code == 0, err
    found = json.loads(out)
    assert set(found["guards"]) == set(METHODS)
    assert 0 <= found["guards"]["none"]["copies"]["value"] <= 1
    assert Path(found["page"]).stat().st_size > 50_000


def test_the_demo_does_not_write_over_a_page(command: Run, tmp_path):
    page = tmp_path / "demo.html"
    page.write_text("mine")
    code, _, err = command("demo", "-o", str(page))
    assert (code, "exists already" in err) == (2, True)
    assert page.read_text() == "mine"


def test_an_interval_holds_its_mean():
    value, low, high = interval([[0.0], [1.0], [1.0], [1.0]])
    assert low <= value == 0.75 <= high


@pytest.mark.slow
def test_the_shipped_model_meets_its_targets(command: Run):
    code, out, _ = command("demo", "evaluate", "--json")
    assert code == 0, out
