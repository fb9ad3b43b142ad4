"""The small Stable Diffusion: the classes of the large one, with its schedule of noise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from anechoic.diffusers.folder import quietly

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

SIDE = 32  # of an image, in pixels
LATENT_SIDE, LATENT_CHANNELS = 8, 8
TEXT_DIM = 64
MAX_TOKENS = 10


def make_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """One token for each word of the captions, characters for words that stand in none."""
    words = sorted({word for caption in captions for word in re.findall("[a-z]+", caption)})
    characters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        so_far = word[0]
        for letter in [*word[1:-1], *([word[-1] + "</w>"] if len(word) > 1 else [])]:
            merges[so_far, letter] = None
            so_far += letter
    tokens = [*characters, *(c + "</w>" for c in characters), *map("".join, merges)]
    special = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*tokens, *special]))}
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=MAX_TOKENS)


def make_autoencoder(seed: int) -> AutoencoderKL:
    """An untrained autoencoder: 32 x 32 pixels to 8 x 8 places."""
    torch.manual_seed(seed)  # diffusers' modules take their first weights from the global generator
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(16, 24, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False,
        sample_size=SIDE,
    )


def build_pipeline(
    captions: Sequence[str], vae: AutoencoderKL, seed: int
) -> StableDiffusionPipeline:
    """An untrained pipeline around an autoencoder.

    Stable Diffusion's own schedule, 1000 steps of scaled-linear noise, as the attraction basin's
    timesteps mean it; the network predicts v, as Stable Diffusion 2 does.
    """
    with quietly():  # it says that torchvision is not here, which nothing here needs
        from diffusers import StableDiffusionPipeline

    torch.manual_seed(seed)
    tokenizer = make_tokenizer(captions)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_DIM,
            intermediate_size=2 * TEXT_DIM,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(48, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=16,
        attention_head_dim=4,  # in these classes that is the number of heads
        cross_attention_dim=TEXT_DIM,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
