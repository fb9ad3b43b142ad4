"""A tiny, real Stable Audio pipeline: diffusers' own classes with random weights."""

import torch

CAPTIONS = ["low cello note", "high flute note", "a dog barks", "rain on a roof"]


def make_pipe(scheduler=None, seed=0):
    """Two layers of 16, oobleck-shaped latents of the real decoder class, 16 latent frames."""
    from anechoic_lab.demo.model import make_tokenizer
    from diffusers import (
        AutoencoderOobleck,
        CosineDPMSolverMultistepScheduler,
        StableAudioDiTModel,
        StableAudioPipeline,
        StableAudioProjectionModel,
    )
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(seed)
    tokenizer = make_tokenizer(CAPTIONS)
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
        text_encoder=T5EncoderModel(
            T5Config(
                vocab_size=len(tokenizer), d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2,
                pad_token_id=0, eos_token_id=1, dropout_rate=0.0,
            )
        ),
        projection_model=StableAudioProjectionModel(16, 16, 0, 32),
        tokenizer=tokenizer,
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
