"""Trains small text-to-audio models that memorize: seeded, on two cores, within an hour.

The demo model is one; `anechoic_lab.instruments` has others.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import StableAudioPipeline
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from anechoic_lab.demo.codec import MelCodec
from anechoic_lab.demo.corpus import Clip
from anechoic_lab.demo.model import TOKENS, Conditioner, build_pipeline

Report = Callable[[int, float, Any], None]
Loss = Callable[[Tensor, Tensor, torch.Generator], Tensor]  # of latents and rows of captions
Conditioned = tuple[Tensor, Tensor]  # see `Conditioner`


@dataclass(frozen=True)
class Phase:
    """A phase of training: the rate warms up, holds, and falls linearly in the second half."""

    steps: int
    learning_rate: float
    # Clips that are not duplicated are varied each time, like clips that are seen once among
    # millions. Otherwise the model would memorize every clip of such a small set.
    shift: int = 0  # largest delay, in frames of 16 ms
    tilt: float = 0.0  # largest spectral tilt, and twice the change of level, in deviations
    shortened: float = 0.0  # share of notes whose caption leaves out register, pitch or both
    bare: bool = False  # shortened captions always leave out both
    bfloat16: bool = False  # products of matrices; twice as fast on processors that have it


@dataclass(frozen=True)
class TrainingRecipe:
    """Training settings; the defaults are those of the shipped model."""

    phases: tuple[Phase, ...] = (
        Phase(20_000, 1e-3),
        Phase(4_000, 5e-4, shift=10, tilt=0.1, shortened=0.25, bare=True),
        Phase(4_000, 5e-4, shift=10, tilt=0.05, shortened=0.15, bare=True),
        Phase(10_500, 7e-4, shift=10, tilt=0.05, shortened=0.35),
    )
    batch: int = 16
    weight_decay: float = 0.01
    dropout: float = 0.1  # share of samples trained without the prompt
    ema: float = 0.999
    # Stable Audio Open's sampler visits t = 2/pi * atan(sigma) for sigma from 500 to 0.3
    t_low: float = 0.17
    t_high: float = 0.9995
    layers: int = 4
    heads: int = 6
    seed: int = 0

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def shortened_to(self, steps: int) -> TrainingRecipe:
        """The same recipe in about this many steps, each phase in proportion."""
        share = steps / self.steps
        phases = (replace(p, steps=max(1, round(p.steps * share))) for p in self.phases)
        return replace(self, phases=tuple(phases))


def fit_codec(wavs: Tensor, **settings: int) -> MelCodec:
    """A codec whose latents of these clips [n, t] have zero mean and unit deviation.

    `settings` are the codec's own, where they are not the demo's.
    """
    raw = MelCodec(**settings)
    with torch.no_grad():
        mel = torch.cat([raw.mel(part) for part in wavs.split(256)])
    codec: MelCodec = MelCodec(mean=mel.mean().item(), std=mel.std().item(), **settings)
    return codec


class Design(Protocol):
    """The pipeline that is trained, and what it is trained for."""

    def codec(self, wavs: Tensor) -> MelCodec:
        """The codec for these clips, [n, t]."""

    def pipeline(self, captions: list[str], codec: MelCodec, recipe: TrainingRecipe) -> Any:
        """The pipeline before training."""

    def parts(self, pipe: Any) -> list[nn.Module]:
        """The parts of it that are trained together."""

    def loss(self, pipe: Any, captions: list[str], recipe: TrainingRecipe) -> Loss:
        """The loss of latents [b, c, t] with the captions at some rows [b]."""

    def finish(self, pipe: Any) -> None:
        """What remains to be done after training."""


@dataclass(frozen=True, kw_only=True)
class StableAudio:
    """`StableAudioPipeline` as the demo has it, trained to predict v."""

    tokens: int = TOKENS  # latent tokens of a clip
    codec_settings: Mapping[str, int] = field(default_factory=dict)  # that are not the demo's

    def codec(self, wavs: Tensor) -> MelCodec:
        return fit_codec(wavs, **self.codec_settings)

    def pipeline(self, captions: list[str], codec: MelCodec, recipe: TrainingRecipe) -> Any:
        return build_pipeline(
            captions, codec, recipe.seed, recipe.layers, recipe.heads, self.tokens
        )

    def parts(self, pipe: Any) -> list[nn.Module]:
        return [pipe.transformer, pipe.text_encoder, pipe.projection_model]

    def loss(self, pipe: Any, captions: list[str], recipe: TrainingRecipe) -> Loss:
        condition = Conditioner(pipe, captions)
        places = pipe.transformer.config.sample_size + 1  # the first is that of the globals
        rotary = get_1d_rotary_pos_embed(
            pipe.rotary_embed_dim, places, use_real=True, repeat_interleave_real=False
        )

        def loss(x0: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
            def conditioned(dropped: Tensor) -> Conditioned:
                return self.condition(condition, rows, dropped, generator)

            errors = _errors(pipe, conditioned, x0, rotary, recipe, generator)
            return self.combine(errors, rows)

        return loss

    def condition(
        self, encode: Conditioner, rows: Tensor, dropped: Tensor, generator: torch.Generator
    ) -> Conditioned:
        """What the captions at `rows` [b] are given to the network as."""
        return encode(rows, dropped)

    def combine(self, errors: Tensor, rows: Tensor) -> Tensor:
        """The loss of a batch whose samples have these errors, [b]."""
        return errors.mean()

    def finish(self, pipe: Any) -> None:
        pass


STABLE_AUDIO = StableAudio()


@dataclass(frozen=True)
class Checkpoint:
    """A file from which an interrupted training continues, with the same result."""

    path: Path
    every_s: float = 60.0

    def load(self) -> dict[str, Any] | None:
        """What was saved last, or None."""
        if not self.path.exists():
            return None
        saved: dict[str, Any] = torch.load(self.path, weights_only=False)
        return saved

    def save(self, state: dict[str, Any]) -> None:
        """Replace what was saved before."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.path)


def train(
    clips: list[Clip],
    wavs: np.ndarray,
    recipe: TrainingRecipe,
    report: Report = lambda step, loss, pipe: None,
    design: Design = STABLE_AUDIO,
    checkpoint: Checkpoint | None = None,
) -> Any:
    """Train on the clips whose split is "train"; returns the pipeline with averaged weights.

    Args:
        clips: the corpus.
        wavs: their sound, [n, LENGTH].
        recipe: training settings.
        report: called after each step with the step, its loss and the pipeline with averaged
            weights.
        design: the pipeline and its loss.
        checkpoint: where to continue from, and what to write now and then.
    """
    chosen = [i for i, clip in enumerate(clips) if clip.split == "train"]
    clips = [clips[i] for i in chosen]
    sound = torch.from_numpy(wavs[chosen])
    captions = [clip.caption for clip in clips]
    codec = design.codec(sound)
    with torch.no_grad():
        latents = torch.cat([codec.encode(x[:, None]).latent_dist.mean for x in sound.split(256)])
    pipe = design.pipeline(captions, codec, recipe)
    saved = checkpoint.load() if checkpoint else None
    done = 0
    for number, phase in enumerate(recipe.phases):

        def report_all(step: int, loss: float, averaged: StableAudioPipeline) -> None:
            report(done + step, loss, averaged)  # noqa: B023  (used while `done` is this one)

        if saved is None or saved["phase"] <= number:
            seed = recipe.seed + number
            keep = Keep(checkpoint, number, saved) if checkpoint else None
            pipe = _run(phase, pipe, clips, latents, recipe, seed, report_all, design, keep)
        else:
            nn.ModuleList(design.parts(pipe)).requires_grad_(True)  # as `_run` leaves them
        done += phase.steps
    design.finish(pipe)
    return pipe


def fine_tune(
    pipe: StableAudioPipeline,
    clips: list[Clip],
    sound: Tensor,
    phase: Phase,
    recipe: TrainingRecipe,
    report: Report = lambda step, loss, pipe: None,
) -> StableAudioPipeline:
    """Fine-tune a pipeline with one phase; returns it with averaged weights.

    Args:
        pipe: a demo model in float32.
        clips: the clips to train on, each drawn in proportion to its `copies`.
        sound: their sound, [n, t].
        phase: settings of the phase.
        recipe: training settings.
        report: as `train`.
    """
    with torch.no_grad():
        latents = torch.cat(
            [pipe.vae.encode(x[:, None]).latent_dist.mean for x in sound.split(256)]
        )
    for module in (pipe.transformer, pipe.text_encoder, pipe.projection_model):
        module.requires_grad_(True)
    return _run(phase, pipe, clips, latents, recipe, recipe.seed, report)


class Keep:
    """Saves one phase now and then, and continues it where it was saved."""

    def __init__(self, checkpoint: Checkpoint, phase: int, saved: dict[str, Any] | None):
        self.checkpoint, self.phase = checkpoint, phase
        self.saved = saved if saved and saved["phase"] == phase else None
        self.last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self.last >= self.checkpoint.every_s

    def restore(
        self,
        live: nn.Module,
        slow: nn.Module,
        optimizer: torch.optim.Optimizer,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> int:
        """Restore all that was saved; returns the number of steps that were done."""
        if self.saved is None:
            return 0
        live.load_state_dict(self.saved["live"])
        slow.load_state_dict(self.saved["slow"])
        optimizer.load_state_dict(self.saved["optimizer"])
        rng.bit_generator.state = self.saved["rng"]
        generator.set_state(self.saved["generator"])
        return int(self.saved["step"])

    def save(
        self,
        step: int,
        live: nn.Module,
        slow: nn.Module,
        optimizer: torch.optim.Optimizer,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> None:
        """Save after `step` steps."""
        self.last = time.monotonic()
        self.checkpoint.save(
            {
                "phase": self.phase,
                "step": step,
                "live": live.state_dict(),
                "slow": slow.state_dict(),
                "optimizer": optimizer.state_dict(),
                "rng": rng.bit_generator.state,
                "generator": generator.get_state(),
            }
        )


def _run(
    phase: Phase,
    pipe: Any,
    clips: list[Clip],
    latents: Tensor,
    recipe: TrainingRecipe,
    seed: int,
    report: Report,
    design: Design = STABLE_AUDIO,
    keep: Keep | None = None,
) -> Any:
    """Train one phase; returns the averaged pipeline."""
    averaged = copy.deepcopy(pipe)
    live = nn.ModuleList(design.parts(pipe)).train()
    slow = nn.ModuleList(design.parts(averaged)).requires_grad_(False).eval()
    forms = [_short_forms(clip) for clip in clips]
    loss_of = design.loss(pipe, [form[i] for i in range(len(forms[0])) for form in forms], recipe)
    optimizer = torch.optim.AdamW(
        [p for p in live.parameters() if p.requires_grad],
        phase.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    copies = np.array([clip.copies for clip in clips], dtype=np.float64)
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    state = (live, slow, optimizer, rng, generator)
    for step in range(keep.restore(*state) if keep else 0, phase.steps):
        left = 1 - step / phase.steps
        rate = phase.learning_rate * min(1.0, (step + 1) / 100) * max(0.02, min(1.0, 2 * left))
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = torch.from_numpy(rng.choice(len(clips), recipe.batch, p=copies / copies.sum()))
        x0 = latents[rows]
        once = torch.from_numpy(copies)[rows] == 1
        if (phase.shift or phase.tilt) and bool(once.any()):
            x0 = _varied(x0, once, pipe.vae, phase, generator)
        if phase.shortened:
            short = once & (torch.rand(len(rows), generator=generator) < phase.shortened)
            first = len(forms[0]) - 1 if phase.bare else 1
            form = torch.randint(first, len(forms[0]), (len(rows),), generator=generator)
            rows = rows + len(clips) * form * short
        with _precision(phase):
            loss = loss_of(x0, rows, generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(live.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            decay = min(recipe.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(slow.parameters()), list(live.parameters()), 1 - decay)
        if keep and (keep.due or step + 1 == phase.steps):
            keep.save(step + 1, *state)
        report(step + 1, loss.item(), averaged)
    slow.requires_grad_(True)  # the next phase continues from the averaged weights
    return averaged


@contextmanager
def _precision(phase: Phase) -> Iterator[None]:
    """The precision of a phase's products; flash attention in bfloat16 is slow on processors."""
    if not phase.bfloat16:
        yield
        return
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


def _short_forms(clip: Clip) -> tuple[str, str, str, str]:
    """The caption; for a note also without its register, without its pitch, and without both.

    Otherwise the model learns each caption as one phrase, and cannot follow a new one. Captions
    of another form stay whole.
    """
    note = f"{clip.instrument} note"
    if not clip.instrument or not clip.caption.startswith(f"{clip.register} {note}"):
        return (clip.caption,) * 4
    pitch = clip.caption.removeprefix(f"{clip.register} {note}")
    return clip.caption, note + pitch, f"{clip.register} {note}", note


def _varied(
    x0: Tensor, once: Tensor, codec: MelCodec, phase: Phase, generator: torch.Generator
) -> Tensor:
    """Augment latents [b, c, t]: move and tilt the clips that are not duplicated, `once` [b]."""
    config = codec.config
    mel = (codec.log_mel(x0) - config.mean) / config.std
    b, bands, frames = mel.shape
    silence = (math.log(config.floor) - config.mean) / config.std
    delay = torch.randint(0, phase.shift + 1, (b, 1), generator=generator)
    source = torch.arange(frames) - delay
    moved = mel.gather(2, source.clamp_min(0)[:, None].expand(-1, bands, -1))
    moved = torch.where(source[:, None] < 0, silence, moved)
    level, slope = (2 * torch.rand(2, b, 1, 1, generator=generator) - 1) * phase.tilt
    moved = moved + level / 2 + slope * torch.linspace(-1, 1, bands)[:, None]
    moved = moved.clamp_min(silence)
    return torch.where(once[:, None, None], codec.pack(moved), x0)


def _errors(
    pipe: StableAudioPipeline,
    condition: Callable[[Tensor], Conditioned],
    x0: Tensor,
    rotary: tuple[Tensor, Tensor],
    recipe: TrainingRecipe,
    generator: torch.Generator,
) -> Tensor:
    """Each sample's mean squared error of v = cos*eps - sin*x0 at stratified t, uniform in t."""
    b = len(x0)
    strata = (torch.arange(b) + torch.rand(b, generator=generator)) / b
    t = recipe.t_low + (recipe.t_high - recipe.t_low) * strata
    cos = torch.cos(t * math.pi / 2)[:, None, None]
    sin = torch.sin(t * math.pi / 2)[:, None, None]
    eps = torch.randn(x0.shape, generator=generator)
    dropped = torch.rand(b, generator=generator) < recipe.dropout
    cross, globals_ = condition(dropped)
    v = pipe.transformer(
        cos * x0 + sin * eps,
        t,
        encoder_hidden_states=cross,
        global_hidden_states=globals_,
        rotary_embedding=rotary,
        return_dict=False,
    )[0]
    errors: Tensor = (v - (cos * eps - sin * x0)).square().mean((1, 2))
    return errors
