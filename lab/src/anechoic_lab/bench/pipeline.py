"""Benches any diffusers pipeline, with an index, prompts and judges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anechoic import audio
from anechoic.diffusers import fingerprint
from anechoic.diffusers.generate import GeneratedBatch, generate
from anechoic.diffusers.loading import load_pipeline
from anechoic.diffusers.pipelines import adapter_for, call_arguments, weights_sha256
from anechoic.embedders import embedder
from anechoic.engine.model import require_own_index
from anechoic.errors import BadAudio, UnknownEmbedder
from anechoic.guidance import registry
from anechoic.guidance.base import Guidance
from anechoic.types import Embedder
from anechoic_lab.bench.judges import Judges, describe
from anechoic_lab.bench.listening import Pair
from anechoic_lab.bench.plan import Method
from anechoic_lab.bench.prompts import PromptFile
from anechoic_lab.bench.task import BenchPrompt, Request, SampleScore
from anechoic_lab.metrics import cosine_per_pair, leave_one_out

SCALE = 7.0
WARM_UP_STEPS = 3  # run before anything is timed


def open_pipeline(
    model: str,
    index: str,
    prompts: str,
    *,
    judges: tuple[str, ...] = (),
    adherence: str | None = None,
    quality: str | None = None,
    reference: str | None = None,
    threshold: float | None = None,
    scale: float = SCALE,
    seconds: float | None = None,
    device: str | None = None,
    dtype: str = "float32",
    loras: tuple[str, ...] = (),
) -> PipelineSubject:
    """Open a pipeline with its index, prompts and judges.

    Args:
        model: folder or hub id of a diffusers pipeline.
        index: folder of the index of its training set, with the descriptor that guards follow.
        prompts: file of prompts (`PromptFile`).
        judges: folders of indexes of the same clips by other embedders.
        adherence: embedder of sound and text, such as "clap"; by default adherence is not
            measured.
        quality: embedder for FAD and KAD; by default that of the index.
        reference: folder of real sound for FAD and KAD; by default the training set.
        threshold: similarity above which a clip is a copy; by default the index's own.
        scale: guidance scale of the plain pipeline and of methods that set none.
        seconds: length of the sound; by default the model's own.
        device, dtype, loras: as `load_pipeline`.

    Raises:
        AnechoicError: the model, an index, the prompts or an embedder cannot be used.
    """
    asked = PromptFile(prompts)
    judged = Judges.load(index, judges, threshold)
    guide = judged.guide.embedder
    text = None if adherence is None else embedder(adherence)
    if text is not None and not hasattr(text, "text"):
        raise UnknownEmbedder(
            f"adherence needs an embedder of sound and text, but '{adherence}' embeds only sound; "
            "use 'clap'"
        )
    pipe = load_pipeline(model, device, dtype, loras=loras)
    pipe.set_progress_bar_config(disable=True)
    _require_own(judged, pipe)
    return PipelineSubject(
        name=model,
        pipe=pipe,
        prompt_file=asked,
        judges=judged,
        adherence=text,
        quality=guide if quality in (None, guide.name) else embedder(str(quality)),
        reference_folder=None if reference is None else Path(reference),
        scale=scale,
        seconds=seconds,
    )


@dataclass(eq=False)
class PipelineSubject:
    """A pipeline to bench, made by `open_pipeline`."""

    name: str
    pipe: Any
    prompt_file: PromptFile
    judges: Judges
    adherence: Any  # an embedder with `text`, or None
    quality: Embedder
    reference_folder: Path | None
    scale: float
    seconds: float | None

    def __post_init__(self) -> None:
        self.scenarios = self.prompt_file.scenarios
        self.sample_rate = adapter_for(self.pipe).sample_rate
        self.waveforms = self.judges.can_read_waveforms
        self._warm = False
        self._dtype = next(adapter_for(self.pipe).network.parameters()).dtype

    def about(self) -> Mapping[str, str]:
        text = self.adherence and f"cosine of prompt and sound by {_called(self.adherence)}"
        length = "the model's own length" if self.seconds is None else f"{self.seconds:g} s"
        return {
            "model": f"{self.name} ({fingerprint(self.pipe)}), {self._dtype} on "
            f"{self.pipe.device.type}, scale {self.scale:g}, {length}",
            "similarity": f"nearest of {describe(self.judges.guide)}",
            "copy": f"similarity over {self.judges.rule.threshold:g}; {self.judges.rule.origin}",
            **{name: f"nearest of {describe(judge)}" for name, judge in self.judges.others.items()},
            "waveform": "peak of the normalised cross-correlation with the nearest clips"
            if self.waveforms else "not measured: the sound files of the index cannot be read",
            "adherence": text or "not measured",
            "quality": f"{_called(self.quality)} against {self._reference_name}",
        }  # fmt: skip

    def fingerprint(self, scenario: str) -> str:
        """A hash of the weights of all parts, the index and the judges, and the settings."""
        settings = {
            "about": {k: v for k, v in self.about().items() if k not in ("model", "quality")},
            "scheduler": dict(self.pipe.scheduler.config),
            "device": self.pipe.device.type,
            "threshold": self.judges.rule.to_dict(),
            "quality": _called(self.quality),
            "scale": self.scale,
            "seconds": self.seconds,
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        digest.update(self._weights.encode())
        for judge in (self.judges.guide, *self.judges.others.values()):
            digest.update(judge.index.content.encode())
        for file in self._reference_files:
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def prompts(self, scenario: str, split: str) -> Sequence[BenchPrompt]:
        return [
            BenchPrompt(line["id"] or line["caption"], line["caption"], line["group"])
            for line in self.prompt_file.of(scenario, split)
        ]

    def guidance(self, scenario: str, method: Method) -> Guidance | None:
        guide = self.judges.guide
        given = {"index": guide.index, "embedder": guide.embedder, "scale": self.scale}
        return registry.build(method.guard, method.settings, given) if method.guard else None

    def generate(self, request: Request) -> Sequence[SampleScore]:
        guidance = self.guidance(request.scenario, request.method)
        made = self._make(request.captions, request.seed, guidance, request.steps)
        with torch.no_grad():
            return list(self._judged(request, made))

    @torch.no_grad()
    def pairs(self, request: Request) -> Sequence[Pair]:
        """Generations beside the training clips that they are most like."""
        guidance = self.guidance(request.scenario, request.method)
        made = self._make(request.captions, request.seed, guidance, request.steps)
        for caption, wav in zip(request.captions, made.samples, strict=True):
            audio.require_sound(wav, f"the sound generated for '{caption}'")
        found = [self.judges.beside(wav.cpu(), self.sample_rate) for wav in made.samples]
        return [Pair(wav, clip, self.sample_rate, name) for wav, clip, name in found]

    @torch.no_grad()
    def reference(self, scenario: str) -> Sequence[Sequence[float]]:
        index = self.judges.guide.index
        if self._reference_files:
            return [self._embed(*audio.read(file)) for file in self._reference_files]
        if self.quality.name == index.embedder_name:
            return index.embeddings.tolist()
        if self.waveforms:
            files = dict.fromkeys(index.file(row) for row in range(len(index)))
            return [self._embed(*audio.read(file)) for file in files if file]
        return ()

    def baseline(self, scenario: str) -> Sequence[float]:
        """Leave one out; windows of one clip are not compared with each other."""
        index = self.judges.guide.index
        vectors = index.vectors(torch.arange(len(index)))
        nearest: list[float] = leave_one_out(
            vectors, groups=[clip.id for clip in index.clips]
        ).tolist()
        return nearest

    # ------------------------------------------------------------------------------- one batch

    def _make(
        self, captions: list[str], seed: int, guidance: Guidance | None, steps: int | None
    ) -> GeneratedBatch:
        if not self._warm:  # the first call of a process also loads kernels
            self._warm = True
            generate(self.pipe, captions[:1], seed, self._arguments(WARM_UP_STEPS))
        return generate(self.pipe, captions, seed, self._arguments(steps), guidance)

    def _arguments(self, steps: int | None) -> dict[str, Any]:
        return call_arguments(self.pipe, self.scale, steps, self.seconds)

    def _judged(self, request: Request, made: GeneratedBatch) -> Iterator[SampleScore]:
        wavs = made.samples.to(self.pipe.device)  # judges are faster there
        adherences = self._adherence(request.captions, wavs)
        for key, caption, wav, adherence in zip(
            request.keys, request.captions, wavs, adherences, strict=True
        ):
            audio.require_sound(wav, f"the sound generated for '{caption}'")
            verdict, scores = self.judges(wav, self.sample_rate, caption, self.waveforms)
            yield SampleScore(
                *key,
                similarity=verdict.score,
                copied=verdict.status == "copy",
                seconds=made.seconds,
                evaluations=made.passes,
                adherence=adherence,
                scores=scores,
                quality=self._embed(wav, self.sample_rate),
                verdict=verdict.status,
                p_value=verdict.p_value,
            )

    def _adherence(self, captions: list[str], wavs: Tensor) -> Sequence[float | None]:
        if self.adherence is None:
            return [None] * len(captions)
        sound = self.adherence(wavs, self.sample_rate)
        cosines: list[float | None] = cosine_per_pair(self.adherence.text(captions), sound).tolist()
        return cosines

    def _embed(self, wav: Tensor, sample_rate: int) -> list[float]:
        return self.quality(wav[None], sample_rate)[0].tolist()

    # ------------------------------------------------------------------------ weights and reference

    @cached_property
    def _weights(self) -> str:
        return weights_sha256(self.pipe)

    @cached_property
    def _reference_files(self) -> list[Path]:
        if self.reference_folder is None:
            return []
        files = sorted(
            file for file in self.reference_folder.rglob("*")
            if file.suffix.lower() in audio.SUFFIXES
        )  # fmt: skip
        if len(files) < 2:
            raise BadAudio(
                f"expected two sound files or more in the reference '{self.reference_folder}', got "
                f"{len(files)}; check the path"
            )
        return files

    @property
    def _reference_name(self) -> str:
        if self.reference_folder is not None:
            return f"{len(self._reference_files)} clips of {self.reference_folder}"
        if self.waveforms or self.quality.name == self.judges.guide.index.embedder_name:
            return "the training set"
        return "nothing: not measured"


def _require_own(judges: Judges, pipe: Any) -> None:
    """Refuse an index that belongs to another model's training set."""
    for judge in (judges.guide, *judges.others.values()):
        require_own_index(judge.index, partial(fingerprint, pipe))


def _called(embedder: Embedder) -> str:
    return f"{embedder.name} at {embedder.revision}" if embedder.revision else embedder.name
