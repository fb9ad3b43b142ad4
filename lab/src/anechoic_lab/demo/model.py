"""The demo model: a small Stable Audio, built from the same diffusers classes."""

from __future__ import annotations

import string

import torch
from diffusers import (
    CosineDPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
)
from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5TokenizerFast

from anechoic_lab.demo.codec import MelCodec

TOKENS = 32  # latent tokens of a clip
TEXT_DIM = 64
MAX_WORDS = 16  # text tokens


def make_tokenizer(captions: list[str]) -> T5TokenizerFast:
    """A tokenizer with a token for each word of the captions, and characters for new words."""
    words = sorted({word for caption in captions for word in caption.split()})
    characters = sorted(set(string.ascii_letters + string.digits + "".join(words)))
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), ("\u2581", -10.0)]
    vocabulary += [("\u2581" + word, -1.0) for word in words]
    vocabulary += [(character, -10.0) for character in characters]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=MAX_WORDS)


def build_pipeline(
    captions: list[str],
    codec: MelCodec,
    seed: int,
    layers: int = 4,
    heads: int = 6,
    tokens: int = TOKENS,
) -> StableAudioPipeline:
    """An untrained pipeline around `codec` for clips of so many latent tokens; its scheduler is
    Stable Audio Open's own."""
    torch.manual_seed(seed)  # diffusers' modules draw initial weights from the global generator
    tokenizer = make_tokenizer(captions)
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=TEXT_DIM,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    width = heads * 32
    channels = codec.config.bands * codec.config.frames_per_token
    transformer = StableAudioDiTModel(
        sample_size=tokens,
        in_channels=channels,
        out_channels=channels,
        num_layers=layers,
        attention_head_dim=32,
        num_attention_heads=heads,
        num_key_value_attention_heads=heads // 2,
        cross_attention_dim=width // 2,
        time_proj_dim=128,
        global_states_input_dim=2 * TEXT_DIM,
        cross_attention_input_dim=TEXT_DIM,
    )
    projection = StableAudioProjectionModel(
        text_encoder_dim=TEXT_DIM, conditioning_dim=TEXT_DIM, min_value=0, max_value=8
    )
    scheduler = CosineDPMSolverMultistepScheduler(
        sigma_min=0.3,
        sigma_max=500,
        sigma_data=1.0,
        sigma_schedule="exponential",
        prediction_type="v_prediction",
        solver_order=2,
    )
    pipe = StableAudioPipeline(codec, text_encoder, projection, tokenizer, transformer, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Conditioner:
    """Encodes captions for the transformer's attention, as `StableAudioPipeline` does."""

    def __init__(self, pipe: StableAudioPipeline, captions: list[str]):
        self.pipe = pipe
        tokens = pipe.tokenizer(
            captions,
            padding="max_length",
            max_length=MAX_WORDS,
            truncation=True,
            return_tensors="pt",
        )
        self.ids, self.mask = tokens.input_ids, tokens.attention_mask
        codec = pipe.vae
        tokens = pipe.transformer.config.sample_size
        self.seconds = tokens * codec.hop_length / codec.config.sampling_rate

    def __call__(self, rows: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-attention states [b, s, d] and global states [b, 1, 2 d] of some captions.

        The pipeline's unconditional input has a cross-attention sequence of zeros and keeps the
        global duration. The `dropped` rows [b] are trained in the same way.
        """
        ids, mask = self.ids[rows], self.mask[rows]
        text = self.pipe.text_encoder(ids, attention_mask=mask)[0]
        text = self.pipe.projection_model(text_hidden_states=text).text_hidden_states
        start, end = self.pipe.encode_duration(0.0, self.seconds, text.device, False, len(rows))
        cross = torch.cat([text * mask.unsqueeze(-1), start, end], 1)
        cross = torch.where(dropped[:, None, None], torch.zeros_like(cross), cross)
        return cross, torch.cat([start, end], 2)
