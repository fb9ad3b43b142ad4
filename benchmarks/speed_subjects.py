"""What is generated with in `speed.py`: the demo model, and Stable Audio Open in two sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from anechoic_lab.demo import assets
from anechoic_lab.demo.model import make_tokenizer
from torch import Tensor

from anechoic import guard
from anechoic.embedders import embedder
from anechoic.guidance import AntiMemorization, Guidance, LogSNR
from anechoic.guidance.step import Guided, Needs, Step, StepInfo
from anechoic.index import TrainingIndex

MEMORIZED, ORDINARY = "memorized", "ordinary"
CAPTIONS = ["a solo violin in a hall", "rain on a tin roof", "a dog barks twice"]
RANDOM_NUMBERS = 10_000 * 512  # in the index of a model with random weights: 10,000 clips by CLAP


@dataclass(frozen=True)
class Subject:
    """A pipeline, what it is asked for, and the settings of AMG that fit it."""

    name: str
    pipe: Any
    prompts: Mapping[str, list[str]]  # of each kind, at least 8
    call: dict[str, Any]  # the pipeline's further arguments
    index: TrainingIndex
    embed: Any
    scale: float
    amg: Mapping[str, dict[str, Any]]  # settings for each kind of prompt
    about: str
    full: Callable[[Any, Tensor], Tensor]  # latents to all the sound, as the published code decodes
    over: float | None = None  # of the screen; None: weights that tell nothing
    rows: tuple[str, ...] = ("targets",)  # what is measured on it: "targets", "levers"
    batches: tuple[int, ...] = (1,)
    pairs: int = 3  # of generations, for each row
    small: bool = False  # its steps take milliseconds
    most: int = 0  # ... where these do not tell on which side of its target it is

    def of_steps(self, steps: int) -> Subject:
        """The same in another number of steps."""
        return replace(self, call=self.call | {"num_inference_steps": steps})


@dataclass(frozen=True)
class Published(Guidance):
    """The schedule of work of AMG-audio's published code: at each step, whether its gate is open or
    not, three separate passes through the network, the whole window decoded and embedded, and the
    similarity back-propagated through all of it. (Not its embedder, loaded again for each clip.)
    """

    subject: Subject

    def needs(self, info: StepInfo) -> Needs:
        return "uncond"  # the pipeline's own call: the first of the three passes

    def __call__(self, step: Step) -> Guided:
        index, embed, scale = self.subject.index, self.subject.embed, self.subject.scale
        with torch.enable_grad():
            x = step.x.detach().requires_grad_(True)
            cond = step.denoise(x, "cond")
            emb = index.project(embed(self.subject.full(self.subject.pipe, cond), step.sample_rate))
            nearest = index.search(emb, 1)
            other = step.denoise(x, [index.captions[row] for row in nearest.rows[:, 0].tolist()])
            (gradient,) = torch.autograd.grad(nearest.scores.sum(), x)
        delta = scale * (cond - step.uncond) + 0.0 * (other - step.uncond) - 1e-6 * gradient
        return Guided(0.0, delta.detach())


def demo() -> Subject:
    """The demo model, with its own settings, on the prompts that these were chosen on."""
    from anechoic_lab.demo.methods import METHODS
    from anechoic_lab.demo.show import prompts_to_tune

    memorized, ordinary = prompts_to_tune(assets.training_clips())
    index = assets.index()
    settings = dict(METHODS["amg"].settings)
    return Subject(
        "demo",
        assets.pipeline(),
        {MEMORIZED: [c.caption for c in memorized], ORDINARY: [c.caption for c in ordinary]},
        {"num_inference_steps": assets.STEPS},
        index,
        embedder(index.embedder_name),
        assets.CFG_SCALE,
        {MEMORIZED: settings, ORDINARY: settings | {"lambda_min": 0.9999, "lambda_max": 0.9999}},
        f"the demo model, {assets.STEPS} steps, {len(index)} training clips",
        lambda pipe, x0: pipe.vae.decode(x0).sample,
        over=8.5,
        small=True,
        rows=("targets", "levers"),
        batches=(1, 8),
        pairs=9,
        most=61,
    )


def shaped() -> Subject:
    """Stable Audio Open's classes with random weights, as large as two cores bear.

    In the real one's proportions: the pipeline's own number of steps; half of its latents, of which
    a fifth is asked for, as in `real`. The decoder is slow for its work, as narrow ones are: for
    all latents three to four times an evaluation, where the real one has 1.1 times its operations.
    The network is small, three layers of 768, but large enough that half of its rows
    are half of its work. CLAP's real size would be as much as the network here, where it is a
    four-hundredth of the real one: MagMel stands in its place.
    """
    pipe = _stable_audio(layers=3, heads=12, tokens=512, decoder=12, text=64)
    about = "Stable Audio Open's classes, 3 layers of 768, 5 of 23.8 s, 100 steps"
    return _random(pipe, "shaped", about, 100, 5.0, embedder("magmel:seconds=5.0"))


def middle() -> Subject:
    """A smaller one, for the levers, with a decoder that is large beside its network."""
    pipe = _stable_audio(layers=4, heads=6, tokens=256, decoder=12, text=64)
    about = "Stable Audio Open's classes, 4 layers of 384, 3 of 11.9 s, 30 steps"
    made = _random(pipe, "middle", about, 30, 3.0, embedder("magmel:seconds=3.0"))
    return replace(made, rows=("levers",), pairs=5)


def real(device: str, steps: int = 50, seconds: float = 10.0) -> Subject:
    """Stable Audio Open 1.0's own configuration in bf16, with random weights."""
    pipe = _stable_audio(layers=24, heads=24, tokens=1024, decoder=128, text=768)
    pipe.to(device, torch.bfloat16)
    about = f"Stable Audio Open's configuration, bf16, {seconds:g} of 47.6 s, {steps} steps"
    made = _random(pipe, "real", about, steps, seconds, _clap(device))
    return replace(made, batches=(1, 8), pairs=5)


def _stable_audio(layers: int, heads: int, tokens: int, decoder: int, text: int) -> Any:
    from diffusers import (
        AutoencoderOobleck,
        CosineDPMSolverMultistepScheduler,
        StableAudioDiTModel,
        StableAudioPipeline,
        StableAudioProjectionModel,
    )
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    tokenizer = make_tokenizer(CAPTIONS)
    encoder = T5Config(
        vocab_size=len(tokenizer), d_model=text, d_kv=64, d_ff=4 * text, num_layers=12,
        num_heads=max(1, text // 64), dropout_rate=0.0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    pipe = StableAudioPipeline(
        vae=AutoencoderOobleck(
            encoder_hidden_size=8, downsampling_ratios=[2, 4, 4, 8, 8], decoder_channels=decoder,
            decoder_input_channels=64, audio_channels=2, channel_multiples=[1, 2, 4, 8, 16],
            sampling_rate=44_100,
        ),
        text_encoder=T5EncoderModel(encoder),
        projection_model=StableAudioProjectionModel(text, text, 0, 512),
        tokenizer=tokenizer,
        transformer=StableAudioDiTModel(
            sample_size=tokens, in_channels=64, num_layers=layers, attention_head_dim=64,
            num_attention_heads=heads, num_key_value_attention_heads=heads // 2, out_channels=64,
            cross_attention_dim=text, time_proj_dim=256, global_states_input_dim=2 * text,
            cross_attention_input_dim=text,
        ),
        scheduler=CosineDPMSolverMultistepScheduler(
            sigma_min=0.3, sigma_max=500, sigma_data=1.0, sigma_schedule="exponential",
            prediction_type="v_prediction", solver_order=2,
        ),
    )  # fmt: skip
    for module in (pipe.transformer, pipe.text_encoder, pipe.vae, pipe.projection_model):
        module.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _clap(device: str) -> Any:
    """CLAP of the real size, with random weights."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    from anechoic.embedders.clap import Clap, Parts

    torch.manual_seed(0)
    extractor = ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad", frequency_min=50)
    model = ClapModel(ClapConfig()).eval().requires_grad_(False).to(device)
    return Clap(parts=Parts(model, extractor, "random", None))


def _random(pipe: Any, name: str, about: str, steps: int, seconds: float, embed: Any) -> Subject:
    """A pipeline with random weights, and an index of random clips.

    What it generates is noise, so the gate is held shut, or open from `start` to the end: the most
    that a memorized prompt can cost.
    """
    generator = torch.Generator().manual_seed(0)
    clips = RANDOM_NUMBERS // embed.dim
    index = TrainingIndex.from_embeddings(
        torch.randn(clips, embed.dim, generator=generator),
        [CAPTIONS[i % len(CAPTIONS)] for i in range(clips)],
        embedder_name=embed.name,
        sample_rate=embed.sample_rate,
        revision=getattr(embed, "revision", None),
    )
    common = {"c1": 4.0, "c2": 3.0, "c3": 1e-3, "gradient": "x0", "start": LogSNR(-2.0), "every": 5}
    prompts = [CAPTIONS[0]] * 8
    return Subject(
        name,
        pipe,
        {MEMORIZED: prompts, ORDINARY: prompts},
        {"num_inference_steps": steps, "audio_end_in_s": seconds},
        index,
        embed,
        7.0,
        {
            MEMORIZED: common | {"lambda_min": -1.0, "lambda_max": -1.0},
            ORDINARY: common | {"lambda_min": 0.9999, "lambda_max": 0.9999},
        },
        f"{about}, {embed.name} on {clips:,} random clips",
        lambda pipe, x0: pipe.vae.decode(x0.to(pipe.vae.dtype)).sample[
            :, :, : math.ceil(seconds * 44_100)
        ].float(),
    )  # fmt: skip


def amg(subject: Subject, kind: str, **changes: Any) -> AntiMemorization:
    """AMG as it is set for a subject and a kind of prompt."""
    settings = {**subject.amg[kind], **changes}
    return AntiMemorization(subject.index, subject.embed, subject.scale, **settings)


MAKERS: dict[str, Callable[[], Subject]] = {
    "demo": demo,
    "middle": middle,
    "shaped": shaped,
    "real": partial(real, "cuda"),
}


def generate(subject: Subject, prompt: str, batch: int, guidance: Any) -> Any:
    """One generation under the same seeds; its trace, or None for the plain pipeline."""
    device = subject.pipe.device
    call = subject.call | {
        "prompt": subject.prompts[prompt][:batch],
        "guidance_scale": subject.scale,
        "generator": [torch.Generator(device).manual_seed(seed) for seed in range(batch)],
    }
    if guidance is None:
        subject.pipe(**call)
        return None
    with guard(subject.pipe, guidance) as trace:
        subject.pipe(**call)
    return trace
