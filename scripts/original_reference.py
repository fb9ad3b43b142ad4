"""Make tests/data/original_reference.safetensors with the original code, stable-audio-tools.

Run where stable-audio-tools 0.0.20 is installed:

    PYTHONPATH=src:lab/src:tests python scripts/original_reference.py

It holds the names and shapes of a tiny model's weights, the noise that `generate_diffusion_cond`
starts with and adds on its way, and the sound that it makes of them. Its sampler, dpmpp-2m-sde, is
the solver of diffusers' scheduler for Stable Audio.
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import save_file
from stable_audio_tools.inference.generation import generate_diffusion_cond
from stable_audio_tools.inference.k_diffusion import sampling
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.models.conditioners import T5Conditioner
from support import original_model as model
from torch import Tensor

SEED = 3
ROTARY = "model.model.transformer.rotary_pos_emb.inv_freq"


class Recorded(sampling.BrownianTreeNoiseSampler):  # type: ignore[misc]
    """The sampler's own source of noise, and what it gave."""

    given: list[Tensor]

    def __call__(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        Recorded.given.append(noise := super().__call__(sigma, sigma_next))
        return noise


def main() -> None:
    """Write the file."""
    T5Conditioner.T5_MODEL_DIMS = {**T5Conditioner.T5_MODEL_DIMS, "t5-small": 64}
    config = model.config()
    with tempfile.TemporaryDirectory() as folder:
        text = str(model.save_text_encoder(Path(folder) / "t5"))
        config["model"]["conditioning"]["configs"][0]["config"]["model_path"] = text
        original = create_model_from_config(config).eval()
    own = original.state_dict()
    shapes = {name: list(value.shape) for name, value in own.items()}
    original.load_state_dict({**model.weights(shapes), ROTARY: own[ROTARY]})
    rows = config["sample_size"] // model.HOP
    torch.manual_seed(SEED)
    noise = torch.randn([1, model.LATENT, rows])
    about = {
        "stable-audio-tools": version("stable-audio-tools"),
        "torch": torch.__version__,
        "shapes": json.dumps(shapes),
    }
    asked = {"prompt": model.CAPTION, "seconds_start": 0, "seconds_total": model.SECONDS}
    sampling.BrownianTreeNoiseSampler = Recorded
    made = {"noise": noise, ROTARY: own[ROTARY]}
    for name in ("sound", "sound_float32"):  # as it comes, its text encoder in half precision
        if name == "sound_float32":
            original.conditioner.conditioners["prompt"].model.float()
        Recorded.given = []
        made[name] = generate_diffusion_cond(
            original,
            steps=model.STEPS,
            cfg_scale=model.SCALE,
            conditioning=[asked],
            sample_size=config["sample_size"],
            seed=SEED,
            device="cpu",
            sampler_type="dpmpp-2m-sde",
            sigma_min=model.SIGMAS[0],
            sigma_max=model.SIGMAS[1],
            apg_scale=0.0,
        ).contiguous()
        sound = made[name]
        print(name, tuple(sound.shape), "rms", float(sound.pow(2).mean().sqrt()))
    save_file(made | {"added": torch.stack(Recorded.given)}, model.REFERENCE, metadata=about)


if __name__ == "__main__":
    main()
