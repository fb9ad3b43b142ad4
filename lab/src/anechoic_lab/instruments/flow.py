"""A small Stable Audio 3, which learns by flow matching."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    StableAudio3DiTModel,
    StableAudio3Pipeline,
)
from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import (
    StableAudio3DurationEmbedder,
)
from torch import Tensor, nn
from transformers import T5GemmaConfig, T5GemmaEncoderModel
from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig

from anechoic_lab.demo.codec import MelCodec
from anechoic_lab.demo.model import TEXT_DIM, TOKENS, make_tokenizer
from anechoic_lab.demo.train import Loss, TrainingRecipe, fit_codec


class StableAudio3:
    """See `anechoic_lab.demo.train.Design`."""

    def finish(self, pipe: Any) -> None:
        """Make the one duration that was trained the longest one, with the same embedding."""
        codec, trained = pipe.vae, pipe.duration_embedder
        seconds = TOKENS * codec.hop_length / codec.config.sampling_rate
        one = StableAudio3DurationEmbedder(output_dim=TEXT_DIM, fourier_dim=64, max_val=seconds)
        with torch.no_grad():
            one.linear.weight.zero_()
            one.linear.bias.copy_(trained(torch.tensor([seconds]))[0])
        pipe.register_modules(duration_embedder=one)

    def codec(self, wavs: Tensor) -> MelCodec:
        return fit_codec(wavs)

    def pipeline(self, captions: list[str], codec: MelCodec, recipe: TrainingRecipe) -> Any:
        torch.manual_seed(recipe.seed)  # the modules draw their weights from the global generator
        tokenizer = make_tokenizer(captions)
        width = recipe.heads * 32
        text = T5GemmaModuleConfig(
            vocab_size=len(tokenizer), hidden_size=TEXT_DIM, intermediate_size=128,
            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, head_dim=16,
            max_position_embeddings=64, sliding_window=64, dropout_rate=0.0,
            layer_types=["full_attention", "full_attention"],
        )  # fmt: skip
        config = T5GemmaConfig(
            encoder=text.to_dict(), decoder=text.to_dict(), is_encoder_decoder=False
        )
        pipe = StableAudio3Pipeline(
            vae=codec,
            text_encoder=T5GemmaEncoderModel(config),
            tokenizer=tokenizer,
            duration_embedder=StableAudio3DurationEmbedder(
                output_dim=TEXT_DIM, fourier_dim=64, max_val=8.0
            ),
            transformer=StableAudio3DiTModel(
                io_channels=codec.config.latent_dim, embed_dim=width, depth=recipe.layers,
                num_heads=recipe.heads, cond_token_dim=TEXT_DIM, global_cond_dim=TEXT_DIM,
                local_add_cond_dim=1, timestep_features_dim=128, ff_mult=3.0, num_memory_tokens=2,
                use_differential_attention=False,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
        )  # fmt: skip
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def parts(self, pipe: Any) -> list[nn.Module]:
        return [pipe.transformer, pipe.text_encoder, pipe.duration_embedder]

    def loss(self, pipe: Any, captions: list[str], recipe: TrainingRecipe) -> Loss:
        """Mean squared error of eps - x0 at x = (1 - s) x0 + s eps, s = sin / (sin + cos) of a
        stratified t: the noise levels of the demo's recipe.

        The pipeline's unconditional input is the empty prompt, so dropped prompts are empty, too.
        """
        tokens = pipe.tokenizer(
            [*captions, ""],
            padding="max_length",
            max_length=min(pipe.tokenizer.model_max_length, 256),
            truncation=True,
            return_tensors="pt",
        )
        codec = pipe.vae
        seconds = TOKENS * codec.hop_length / codec.config.sampling_rate

        def loss(x0: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
            b = len(x0)
            strata = (torch.arange(b) + torch.rand(b, generator=generator)) / b
            angle = (recipe.t_low + (recipe.t_high - recipe.t_low) * strata) * math.pi / 2
            sigma = angle.sin() / (angle.sin() + angle.cos())
            eps = torch.randn(x0.shape, generator=generator)
            dropped = torch.rand(b, generator=generator) < recipe.dropout
            rows = torch.where(dropped, len(captions), rows)
            mask = tokens.attention_mask[rows]
            text = pipe.text_encoder(tokens.input_ids[rows], attention_mask=mask)[0]
            duration = pipe.encode_duration(seconds, x0.device, 1, b)
            context, mask = pipe.prepare_cross_attention(text, mask, duration)
            noisy = (1 - sigma)[:, None, None] * x0 + sigma[:, None, None] * eps
            velocity = pipe.transformer(
                noisy, sigma, encoder_hidden_states=context, global_hidden_states=duration,
                encoder_attention_mask=mask, return_dict=False,
            )[0]  # fmt: skip
            error: Tensor = (velocity - (eps - x0)).square().mean()
            return error

        return loss
