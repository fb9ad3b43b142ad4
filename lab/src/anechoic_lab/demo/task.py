"""The demo model as the task of a bench: its scenarios, prompts, guards and judges."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anechoic.diffusers import fingerprint
from anechoic.embedders import embedder
from anechoic.errors import BadSetting
from anechoic.guidance import registry
from anechoic.guidance.base import Guidance
from anechoic.index import TrainingIndex
from anechoic_lab.bench.listening import Pair
from anechoic_lab.bench.plan import Method
from anechoic_lab.bench.task import MEMORIZED, BenchPrompt, Request, SampleScore
from anechoic_lab.demo import assets, scenarios
from anechoic_lab.demo.build import round_trip
from anechoic_lab.demo.codec import MelCodec
from anechoic_lab.demo.corpus import SAMPLE_RATE, Clip
from anechoic_lab.demo.evaluate import unique_prompts
from anechoic_lab.demo.judge import RANK
from anechoic_lab.demo.run import Bench, DemoBatch, generate
from anechoic_lab.demo.show import prompts_to_tune
from anechoic_lab.guidance.latents import LatentBank
from anechoic_lab.metrics import leave_one_out

ORDINARY = 12  # ordinary notes of each split
REFERENCE = 256  # drawn training clips, after the codec, as the reference of FAD and KAD
SPLITS = ("tune", "report")


def open_demo(
    folder: str | None = None, scenarios: str | None = None, quality: str = "aisfx"
) -> DemoTask:
    """Open the demo model with its judges.

    Args:
        folder: made by `anechoic demo train`; by default the shipped one.
        scenarios: folder made by `anechoic demo scenarios`; without it there is one scenario,
            the shipped model.
        quality: embedder for FAD and KAD.
    """
    return DemoTask(
        Path(folder) if folder else assets.SHIPPED, Path(scenarios) if scenarios else None, quality
    )


@dataclass(frozen=True, eq=False)
class Stage:
    """One scenario, ready to generate and judge."""

    pipe: Any
    bench: Bench
    memorized: list[Clip]  # one for each caption that the model has seen far more often


class DemoTask:
    """See `anechoic_lab.bench.Task`."""

    name = "demo"

    def __init__(self, folder: Path, trained: Path | None, quality: str):
        self.folder, self.trained = folder, trained
        self.quality = embedder(quality)
        self.scenarios: list[str] = [scenarios.SHIPPED]
        if trained is not None:
            self.scenarios += [name for name in scenarios.SCENARIOS if (trained / name).is_dir()]
            if len(self.scenarios) == 1:
                raise BadSetting(
                    f"'{trained}' has no trained scenario; train them with "
                    f"'anechoic demo scenarios -o {trained}'"
                )
        self._stage = cache(self._open)
        self._warm: set[str] = set()

    def about(self) -> Mapping[str, str]:
        described = {
            "model": f"the demo model, {fingerprint(self._stage(scenarios.SHIPPED).pipe)}, "
            f"scale {assets.CFG_SCALE:g}, {assets.STEPS} steps if the plan names none, 1.024 s at "
            "16 kHz",
            "similarity": "cosine to the nearest training clip by the guide's magmel, centred",
            "mel": "centred log-mel correlation with the caption's own training clip",
            "envelope": "centred correlation of the energy of eight bands every 8 ms with it",
            "waveform": "peak of the normalised cross-correlation with it, as the codec gives it "
            "back, which loses its phase",
            "rank": "rank correlation of the log mel with it, which loud spots do not change",
            "copy": f"mel over {self._stage(scenarios.SHIPPED).bench.thresholds['mel']:g}, or rank "
            f"over {RANK:g}",
            "adherence": "family and register of a note, each right or wrong, by a classifier "
            "trained on real notes; recordings have none",
            "quality": f"{self.quality.name} against {REFERENCE} training clips through the codec",
        }
        for name in self.scenarios[1:]:
            described[f"scenario {name}"] = scenarios.SCENARIOS[name].about
        return described

    def fingerprint(self, scenario: str) -> str:
        stage = self._stage(scenario)
        digest = hashlib.sha256(json.dumps([asdict(c) for c in stage.bench.clips]).encode())
        for part in (stage.pipe.transformer, stage.pipe.text_encoder, stage.pipe.projection_model):
            assert isinstance(part, nn.Module)
            for name, value in sorted(part.state_dict().items()):
                digest.update(name.encode() + value.numpy().tobytes())
        digest.update(stage.bench.index.content.encode())
        digest.update((self.folder / assets.CLASSIFIER).read_bytes())
        judges = [stage.bench.thresholds, {"rank": RANK}, self.quality.name]
        digest.update(json.dumps(judges).encode())
        return digest.hexdigest()

    def prompts(self, scenario: str, split: str) -> Sequence[BenchPrompt]:
        """Memorized captions, even ones in one split and odd ones in the other, and ordinary
        notes that differ between the splits."""
        if split not in SPLITS:
            raise BadSetting(f"the demo has the splits {' and '.join(SPLITS)}, got '{split}'")
        stage = self._stage(scenario)
        offset = SPLITS.index(split)
        memorized = stage.memorized[offset::2]
        taken = {clip.caption for clip in stage.memorized}
        ordinary = [clip for clip in self._ordinary[split] if clip.caption not in taken]
        return [BenchPrompt(clip.id, clip.caption, MEMORIZED) for clip in memorized] + [
            BenchPrompt(clip.id, clip.caption, "ordinary") for clip in ordinary[:ORDINARY]
        ]

    def guidance(self, scenario: str, method: Method) -> Guidance | None:
        if not method.guard:
            return None
        bench = self._stage(scenario).bench
        given = {
            "index": bench.index,
            "embedder": bench.embedder,
            "scale": assets.CFG_SCALE,
            "statistics": str(self.folder / assets.STEP_STATISTICS),
            "network": self._stage(scenario).pipe.transformer,
            "latents": LatentBank(partial(training_latents, bench.codec, self.folder)),
        }
        return registry.build(method.guard, method.settings, given)

    def generate(self, request: Request) -> Sequence[SampleScore]:
        stage, seed = self._stage(request.scenario), request.seed
        made, clips = self._made(request)
        with torch.no_grad():
            quality = self.quality(made.wav[:, None], SAMPLE_RATE).tolist()
        return [
            SampleScore(
                *key,
                similarity=judged.similarity,
                copied=judged.copied or judged.by_rank,
                seconds=made.seconds,
                evaluations=made.passes,
                adherence=judged.adherence,
                scores={
                    "mel": judged.mel,
                    "envelope": judged.envelope,
                    "rank": judged.rank,
                    "waveform": judged.waveform,
                },
                quality=emb,
                verdict=judged.verdict.status,
                p_value=judged.verdict.p_value,
            )
            for key, judged, emb in zip(
                request.keys, stage.bench.judge(made.wav, clips, seed), quality, strict=True
            )
        ]

    @torch.no_grad()
    def pairs(self, request: Request) -> Sequence[Pair]:
        """Generations beside their captions' own clips, as the codec gives these back."""
        made, clips = self._made(request)
        known, sound = assets.training_set(self.folder)
        rows = {clip.id: row for row, clip in enumerate(known)}
        own = sound[[rows[clip.id] for clip in clips]]
        heard = round_trip(self._stage(request.scenario).bench.codec, own)
        return [
            Pair(wav[None], clip[None], SAMPLE_RATE, one.id)
            for wav, clip, one in zip(made.wav, heard, clips, strict=True)
        ]

    def _made(self, request: Request) -> tuple[DemoBatch, list[Clip]]:
        """The generations, and the training clip of each one's prompt."""
        scenario, seed, captions = request.scenario, request.seed, request.captions
        stage, guide = self._stage(scenario), self.guidance(scenario, request.method)
        if scenario not in self._warm:  # the first call of a process is slower
            generate(stage.pipe, captions[:1], seed, None, steps=3)
            self._warm.add(scenario)
        made = generate(stage.pipe, captions, seed, guide, steps=request.steps or assets.STEPS)
        by_id = {clip.id: clip for clip in assets.training_clips(self.folder)}
        by_caption = {clip.caption: clip for clip in stage.memorized}
        return made, [
            by_caption.get(prompt.caption, by_id[prompt.id]) for prompt in request.prompts
        ]

    @torch.no_grad()
    def reference(self, scenario: str) -> Sequence[Sequence[float]]:
        stage = self._stage(scenario)
        _, sound = assets.training_set(self.folder)
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(sound), generator=generator)[:REFERENCE]
        heard = round_trip(stage.bench.codec, sound[chosen])
        return self.quality(heard[:, None], SAMPLE_RATE).tolist()

    def baseline(self, scenario: str) -> Sequence[float]:
        index = self._stage(scenario).bench.index
        nearest: list[float] = leave_one_out(index.vectors(torch.arange(len(index)))).tolist()
        return nearest

    @cached_property
    def _ordinary(self) -> Mapping[str, list[Clip]]:
        """Ordinary notes of each split; the report has none that the demo was tuned on."""
        clips = assets.training_clips(self.folder)
        notes = [c for c in unique_prompts(clips) if c.kind == "note" and c.copies == 1]
        tuned = {clip.caption for clip in prompts_to_tune(clips)[1]}
        drawn = [notes[i] for i in np.random.default_rng(2).permutation(len(notes))]
        rest = [clip for clip in drawn if clip.caption not in tuned]
        return {"tune": rest[1::2], "report": rest[::2]}

    def _open(self, scenario: str) -> Stage:
        if scenario == scenarios.SHIPPED:
            pipe = assets.pipeline(self.folder)
            bench = Bench.load(self.folder, pipe)
            return Stage(pipe, bench, [c for c in unique_prompts(bench.clips) if c.copies > 1])
        assert self.trained is not None  # else there is only the shipped scenario
        pipe, rows, kept = scenarios.load(self.trained / scenario, self.folder)
        bench = Bench.load(self.folder, pipe)
        changed = dict(zip(rows, kept, strict=True))
        clips = [
            # clips that the fine-tuning left out are still compared, with their old caption
            changed.get(row, replace(clip, copies=1))
            for row, clip in enumerate(bench.clips)
        ]
        bench = replace(
            bench, clips=clips, verifier=bench.verifier.over(_of_model(bench.index, clips, pipe))
        )
        return Stage(pipe, bench, [c for c in unique_prompts(clips) if c.copies > 1])


@torch.no_grad()
@cache
def training_latents(codec: MelCodec, folder: Path) -> Tensor:
    """The training clips as the codec encodes them, [n, *latent]."""
    _, sound = assets.training_set(folder)
    return torch.cat([codec.encode(wav[:, None]).latent_dist.mean for wav in sound.split(64)])


def _of_model(index: TrainingIndex, clips: Sequence[Clip], pipe: Any) -> TrainingIndex:
    """The index for a fine-tuned model, with the captions that it was tuned on."""
    captioned = [
        replace(row, caption=clip.caption) for row, clip in zip(index.clips, clips, strict=True)
    ]
    return replace(index, clips=captioned, about=replace(index.about, model=fingerprint(pipe)))
