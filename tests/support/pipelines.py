"""Tiny pipelines of the real diffusers classes, with random weights, made without a download."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn

CAPTIONS = ["low cello note", "high flute note", "a dog barks", "rain on a roof"]
SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
VAE_CHANNELS = (8, 16)


def alive(pipe: Any) -> Any:
    """Ready for a test: outputs that are zero at first would make every prompt the same."""
    generator = torch.Generator().manual_seed(1)
    for module in pipe.components.values():
        if isinstance(module, nn.Module):
            module.eval().requires_grad_(False)
            for parameter in module.parameters():
                if parameter.abs().sum() == 0 and parameter.dim() > 1:
                    parameter.normal_(std=0.3, generator=generator)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def words() -> Any:
    from anechoic_lab.demo.model import make_tokenizer

    return make_tokenizer(CAPTIONS)


@cache
def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = [*string.ascii_lowercase, *string.digits]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)


@cache
def roberta_tokenizer() -> Any:
    from transformers import RobertaTokenizer

    letters = [*string.ascii_lowercase]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "\u0120", *letters]
    tokens += [f"\u0120{c}" for c in letters]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [("\u0120", c) for c in letters]
    return RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=16)


def clip_encoder(width: int = 16, projection: int | None = None) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(clip_tokenizer()), hidden_size=width, intermediate_size=16,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=16,
        projection_dim=projection or width, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projection else CLIPTextModel(config)


def t5_encoder(width: int = 16) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(words()), d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2,
            pad_token_id=0, eos_token_id=1, dropout_rate=0.0,
        )
    )  # fmt: skip


def image_vae(channels: int = 3, latents: int = 4, **config: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=channels, out_channels=channels, latent_channels=latents,
        block_out_channels=VAE_CHANNELS, layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        **config,
    )  # fmt: skip


def unet(**config: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **config,
    )  # fmt: skip


def make_pipe(scheduler: Any = None, seed: int = 0) -> Any:
    """Stable Audio: two layers of 16, and 16 latent frames that the real decoder class takes."""
    from diffusers import (
        AutoencoderOobleck,
        CosineDPMSolverMultistepScheduler,
        StableAudioDiTModel,
        StableAudioPipeline,
        StableAudioProjectionModel,
    )

    torch.manual_seed(seed)
    pipe = StableAudioPipeline(
        vae=AutoencoderOobleck(
            encoder_hidden_size=6,
            downsampling_ratios=[2, 2],
            decoder_channels=3,
            decoder_input_channels=3,
            audio_channels=2,
            channel_multiples=[2, 4],
            sampling_rate=4,
        ),
        text_encoder=t5_encoder(),
        projection_model=StableAudioProjectionModel(16, 16, 0, 32),
        tokenizer=words(),
        transformer=StableAudioDiTModel(
            sample_size=16, in_channels=3, num_layers=2, attention_head_dim=4,
            num_attention_heads=4, num_key_value_attention_heads=2, out_channels=3,
            cross_attention_dim=8, time_proj_dim=8, global_states_input_dim=32,
            cross_attention_input_dim=16,
        ),
        scheduler=scheduler
        or CosineDPMSolverMultistepScheduler(
            sigma_min=0.3, sigma_max=500, sigma_data=1.0, sigma_schedule="exponential",
            prediction_type="v_prediction", solver_order=2,
        ),
    )  # fmt: skip
    for module in (pipe.transformer, pipe.text_encoder, pipe.vae, pipe.projection_model):
        module.eval()
    with torch.no_grad():  # zero-initialised outputs would make every prompt the same
        for parameter in pipe.transformer.parameters():
            if parameter.abs().sum() == 0:
                parameter.normal_(std=0.3)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def schedulers() -> dict[str, Any]:
    """Schedulers that a Stable Audio pipeline runs on; None is its own."""
    import diffusers as d

    vp = {"prediction_type": "v_prediction"}
    return {
        "cosine": None,
        "ddim": d.DDIMScheduler(**vp),
        "dpm++": d.DPMSolverMultistepScheduler(**vp),
        "euler": d.EulerDiscreteScheduler(**vp),
        "heun": d.HeunDiscreteScheduler(**vp),
    }


def make_stable_diffusion(**config: Any) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    torch.manual_seed(0)
    return StableDiffusionPipeline(
        vae=image_vae(), text_encoder=clip_encoder(), tokenizer=clip_tokenizer(),
        unet=unet(cross_attention_dim=16, attention_head_dim=2, **config),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                                **SD_SCHEDULE),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def make_stable_diffusion_xl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    torch.manual_seed(0)
    return StableDiffusionXLPipeline(
        vae=image_vae(force_upcast=True), text_encoder=clip_encoder(),
        text_encoder_2=clip_encoder(16, 12), tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(cross_attention_dim=32, attention_head_dim=2, use_linear_projection=True,
                  addition_embed_type="text_time", addition_time_embed_dim=8,
                  transformer_layers_per_block=(1, 1),
                  projection_class_embeddings_input_dim=12 + 6 * 8),
        scheduler=EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading",
                                         **SD_SCHEDULE),
        force_zeros_for_empty_prompt=True, add_watermarker=False,
    )  # fmt: skip


def make_stable_diffusion_3() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    torch.manual_seed(0)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8, patch_size=1, in_channels=4, out_channels=4, num_layers=2,
            attention_head_dim=8, num_attention_heads=2, caption_projection_dim=16,
            joint_attention_dim=40, pooled_projection_dim=20, pos_embed_max_size=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=image_vae(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=clip_encoder(16, 10), tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(16, 10), tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder(40), tokenizer_3=words(),
    )  # fmt: skip


def make_audioldm2() -> Any:
    from diffusers import (
        AudioLDM2Pipeline,
        AudioLDM2ProjectionModel,
        AudioLDM2UNet2DConditionModel,
        DDIMScheduler,
    )
    from transformers import (
        ClapAudioConfig,
        ClapConfig,
        ClapFeatureExtractor,
        ClapModel,
        ClapTextConfig,
        GPT2Config,
        GPT2LMHeadModel,
        SpeechT5HifiGan,
        SpeechT5HifiGanConfig,
    )

    torch.manual_seed(0)
    text = ClapTextConfig(
        vocab_size=len(roberta_tokenizer()), hidden_size=16, intermediate_size=16,
        num_attention_heads=2, num_hidden_layers=1, projection_dim=16, max_position_embeddings=20,
        bos_token_id=0, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    sound = ClapAudioConfig(
        spec_size=64, window_size=4, num_mel_bins=64, intermediate_size=16, depths=[1, 1],
        num_attention_heads=[2, 2], num_hidden_layers=2, hidden_size=24, projection_dim=16,
        patch_size=4, patch_stride=4, patch_embed_input_channels=4, patch_embeds_hidden_size=12,
    )  # fmt: skip
    language = GPT2LMHeadModel(
        GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=4, n_ctx=99, n_positions=99,
                   bos_token_id=0, eos_token_id=0)
    )  # fmt: skip
    language.config.max_new_tokens = 3
    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=8, sampling_rate=16000, upsample_initial_channel=8,
            upsample_rates=[2, 2], upsample_kernel_sizes=[4, 4], resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1, 3]], normalize_before=False, initializer_range=0.2,
        )
    )  # fmt: skip
    return AudioLDM2Pipeline(
        vae=image_vae(channels=1), vocoder=vocoder,
        text_encoder=ClapModel(
            ClapConfig(text_config=text.to_dict(), audio_config=sound.to_dict(), projection_dim=16)
        ),
        tokenizer=roberta_tokenizer(), text_encoder_2=t5_encoder(), tokenizer_2=words(),
        feature_extractor=ClapFeatureExtractor(),
        language_model=language,
        projection_model=AudioLDM2ProjectionModel(16, 16, 8),
        unet=AudioLDM2UNet2DConditionModel(
            sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=4,
            block_out_channels=(8, 16), attention_head_dim=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=([None, 8, 16], [None, 8, 16]),
        ),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                                **SD_SCHEDULE),
    )  # fmt: skip


def make_ace_step(**config: Any) -> Any:
    from diffusers import AutoencoderOobleck, FlowMatchEulerDiscreteScheduler
    from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel
    from diffusers.pipelines.ace_step import AceStepConditionEncoder, AceStepPipeline
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2,
             "num_key_value_heads": 1, "head_dim": 8, "rope_theta": 10000.0}  # fmt: skip
    encoder = AceStepConditionEncoder(
        text_hidden_dim=16, timbre_hidden_dim=4, num_lyric_encoder_hidden_layers=1,
        num_timbre_encoder_hidden_layers=1, sliding_window=16, **sizes,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(2)
    encoder.silence_latent.copy_(torch.randn(1, 15000, 4, generator=generator))
    return AceStepPipeline(
        transformer=AceStepTransformer1DModel(
            num_hidden_layers=2, in_channels=12, audio_acoustic_hidden_dim=4, patch_size=2,
            sliding_window=16, **sizes, **config,
        ),
        condition_encoder=encoder,
        vae=AutoencoderOobleck(
            encoder_hidden_size=6, downsampling_ratios=[2, 2], decoder_channels=3,
            decoder_input_channels=4, audio_channels=2, channel_multiples=[2, 4], sampling_rate=4,
        ),
        text_encoder=Qwen3Model(
            Qwen3Config(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                        num_attention_heads=2, num_key_value_heads=1, head_dim=8,
                        vocab_size=len(words()), max_position_embeddings=256)
        ),
        tokenizer=words(), scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1),
    )  # fmt: skip


def make_longcat() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        LongCatAudioDiTPipeline,
        LongCatAudioDiTTransformer,
        LongCatAudioDiTVae,
    )
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(0)
    return LongCatAudioDiTPipeline(
        vae=LongCatAudioDiTVae(in_channels=1, channels=4, c_mults=[1, 2], strides=[2],
                               latent_dim=4, encoder_latent_dim=8, downsampling_ratio=4,
                               sample_rate=16),
        text_encoder=UMT5EncoderModel(
            UMT5Config(d_model=16, num_layers=1, num_heads=2, d_kv=4, d_ff=16,
                       vocab_size=len(words()), dropout_rate=0.0)
        ),
        tokenizer=words(),
        transformer=LongCatAudioDiTTransformer(dit_dim=16, dit_depth=2, dit_heads=2,
                                               dit_text_dim=16, latent_dim=4),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, invert_sigmas=True),
    )  # fmt: skip


def make_stable_audio_3(stochastic: bool = False) -> Any:
    from diffusers import (
        AutoencoderSAME,
        FlowMatchEulerDiscreteScheduler,
        StableAudio3DiTModel,
        StableAudio3Pipeline,
    )
    from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import (
        StableAudio3DurationEmbedder,
    )
    from transformers import T5GemmaConfig, T5GemmaEncoderModel
    from transformers.models.t5gemma.configuration_t5gemma import T5GemmaModuleConfig

    torch.manual_seed(0)
    text = T5GemmaModuleConfig(
        vocab_size=len(words()), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=64,
        sliding_window=64, layer_types=["full_attention"],
    )  # fmt: skip
    return StableAudio3Pipeline(
        vae=AutoencoderSAME(
            audio_channels=2, patch_size=2, encoder_channels=8, encoder_c_mults=(2,),
            encoder_strides=(2,), encoder_transformer_depths=(1,), latent_dim=4,
            use_differential_attention=False, dim_heads=4, ff_mult=2, sampling_rate=16,
        ),
        text_encoder=T5GemmaEncoderModel(
            T5GemmaConfig(encoder=text.to_dict(), decoder=text.to_dict(),
                          is_encoder_decoder=False)
        ),
        tokenizer=words(),
        duration_embedder=StableAudio3DurationEmbedder(output_dim=16, fourier_dim=16),
        transformer=StableAudio3DiTModel(
            io_channels=4, embed_dim=16, depth=2, num_heads=2, cond_token_dim=16,
            global_cond_dim=16, local_add_cond_dim=5, timestep_features_dim=16, ff_mult=2,
            num_memory_tokens=2, use_differential_attention=False,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0,
                                                  stochastic_sampling=stochastic),
    )  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A pipeline under the contract, and what a generation with it is asked for."""

    name: str  # of its class
    make: Callable[[], Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    several: str | None = None  # the argument for several outputs a prompt
    negative: bool = True  # it takes a negative prompt
    images: bool = False
    lyrics: tuple[str, ...] = ()  # of each prompt

    def generate(
        self, pipe: Any, prompt: Any = ("low cello note", "a dog barks"), scale: float = 7.0,
        steps: int = 3, seed: int = 0, count: int | None = None, **more: Any,
    ) -> Any:  # fmt: skip
        """Latents, from the same noise for the same seed."""
        prompt = list(prompt) if isinstance(prompt, tuple) else prompt
        prompts = len(prompt) if isinstance(prompt, list) else 1
        count = count or prompts
        if self.lyrics:
            more = {"lyrics": list(self.lyrics[:prompts]), **more}
        made = pipe(
            prompt,
            num_inference_steps=steps,
            guidance_scale=scale,
            generator=[torch.Generator().manual_seed(seed + i) for i in range(count)],
            **{"output_type": "latent", **self.arguments, **more},
        )
        return made.images if self.images else made.audios


SEVERAL = "num_waveforms_per_prompt"
SIZE = {"height": 16, "width": 16}
CASES = {
    case.name: case
    for case in (
        Case(
            "StableAudioPipeline",
            make_pipe,
            {"audio_start_in_s": 1.0, "audio_end_in_s": 12.0},
            SEVERAL,
        ),
        Case("StableAudio3Pipeline", make_stable_audio_3, {"duration": 2.0}, SEVERAL),
        Case("AudioLDM2Pipeline", make_audioldm2, {"audio_length_in_s": 0.004}, SEVERAL),
        Case(
            "AceStepPipeline",
            make_ace_step,
            {"audio_duration": 8.0},
            negative=False,
            lyrics=("a dog", "rain on a roof"),
        ),
        Case("LongCatAudioDiTPipeline", make_longcat, {"audio_duration_s": 2.0}),
        Case("StableDiffusionPipeline", make_stable_diffusion, SIZE,
             "num_images_per_prompt", images=True),
        Case("StableDiffusionXLPipeline", make_stable_diffusion_xl, SIZE,
             "num_images_per_prompt", images=True),
        Case("StableDiffusion3Pipeline", make_stable_diffusion_3,
             {**SIZE, "max_sequence_length": 8}, "num_images_per_prompt", images=True),
    )
}  # fmt: skip


def make(name: str) -> Any:
    return alive(CASES[name].make())


def require_alone_as_together(method: Any, pipe: Any, generate: Callable[..., Any]) -> None:
    """Each sample of a guarded batch is what it is alone."""
    from anechoic import guard

    with guard(pipe, method):
        together = generate(pipe)
    for i, text in enumerate(("low cello note", "a dog barks")):
        with guard(pipe, method):
            alone = generate(pipe, text, seed=i)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-3)
