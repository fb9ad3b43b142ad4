"""`anechoic generate` on other pipelines than Stable Audio: each under its own names."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from support.commands import exit_code
from support.pipelines import CASES, alive, make, make_stable_audio_3

from anechoic import audio
from anechoic.diffusers.pipelines import (
    adapter_for,
    call_arguments,
    default_scale,
    default_steps,
    length_argument,
    sound_seconds,
    waveforms,
)

SOUND = [name for name, case in CASES.items() if not case.images]


@pytest.mark.parametrize("name", SOUND)
def test_a_pipeline_is_called_under_its_own_names(name):
    pipe = make(name)
    seconds = {"AudioLDM2Pipeline": 0.004}.get(name, 2.0)
    lyrics = {"lyrics": "a dog"} if name == "AceStepPipeline" else {}
    made = pipe("a dog barks", generator=torch.Generator().manual_seed(0), **lyrics,
                **call_arguments(pipe, 3.0, 2, seconds))  # fmt: skip
    wav = waveforms(made)
    assert wav.ndim == 3
    assert wav.shape[-1] / adapter_for(pipe).sample_rate == pytest.approx(seconds, rel=0.01)
    assert pipe.scheduler.timesteps.shape == (2,)


def test_a_distilled_model_is_called_without_a_scale():
    assert "guidance_scale" not in call_arguments(make_stable_audio_3(stochastic=True), 7.0)
    assert call_arguments(make_stable_audio_3(), 7.0)["guidance_scale"] == 7.0


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_number_of_steps_that_a_call_does_not_name_is_the_pipelines_own(stochastic):
    pipe = make_stable_audio_3(stochastic)
    pipe("a dog barks", duration=0.5, generator=torch.Generator().manual_seed(0))
    assert default_steps(pipe) == len(pipe.scheduler.timesteps)


def test_sound_of_no_named_length_is_the_calls_default_and_never_over_the_longest():
    pipe = make_stable_audio_3()
    assert (sound_seconds(pipe), length_argument(pipe)) == (10.0, {"duration": 10.0})
    pipe.duration_embedder.register_to_config(max_val=2.0)
    assert (sound_seconds(pipe), length_argument(pipe)) == (2.0, {"duration": 2.0})
    stable_audio = make("StableAudioPipeline")  # its call's default is None: its longest
    assert length_argument(stable_audio) == {"audio_end_in_s": sound_seconds(stable_audio)}
    assert length_argument(make("LongCatAudioDiTPipeline")) == {}  # as long as its words take


def test_a_window_that_is_longer_than_the_conditioner_takes_is_not_asked_for():
    pipe = make("StableAudioPipeline")
    window = sound_seconds(pipe)
    longest = window / 2
    pipe.projection_model.register_to_config(max_value=longest)
    with pytest.raises(ValueError, match="audio_end_in_s"):
        pipe("a dog barks", num_inference_steps=2)
    made = waveforms(pipe("a dog barks", num_inference_steps=2, **length_argument(pipe)))
    assert made.shape[-1] == int(longest * adapter_for(pipe).sample_rate)


def test_a_scale_at_which_a_pipeline_is_not_guided_is_none_to_start_from():
    assert default_scale(make_stable_audio_3()) is None  # 1.0
    assert default_scale(make("StableAudioPipeline")) == 7.0


run = partial(exit_code, "generate", "a dog barks", "--model", "model", "-o", "out.wav")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_generate_writes_the_sound_of_audioldm2(here):
    make("AudioLDM2Pipeline").save_pretrained("model")
    assert run("--guard", "static", "--steps", "3", "--seconds", "0.004") == 0
    wav, sample_rate = audio.read(here / "out.wav")
    assert (wav.shape, sample_rate) == ((1, 64), 16_000)


def test_generate_on_a_distilled_model_says_what_it_cannot_be_given(here, capfd):
    alive(make_stable_audio_3(stochastic=True)).save_pretrained("model")
    assert run("--guard", "static", "--seconds", "2") == 2
    assert "no unconditional half" in capfd.readouterr().err
    assert run("--guard", "noise", "--seconds", "2") == 0


def test_generate_refuses_a_model_of_images(here, capfd):
    make("StableDiffusionPipeline").save_pretrained("model")
    assert run("--guard", "static") == 2
    assert "makes images; guard it in Python" in capfd.readouterr().err
