"""Measures guards on several models: copies by two judges that guide nothing, adherence, seconds.

Each generation is a line of a work file, so that a run that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from anechoic.diffusers import Trace
from anechoic.errors import BadSetting
from anechoic.guidance import registry
from anechoic.guidance.base import Guidance
from anechoic.types import Embedder, VectorIndex
from anechoic_lab.bench.task import MEMORIZED
from anechoic_lab.demo import assets
from anechoic_lab.demo.build import round_trip
from anechoic_lab.demo.evaluate import unique_prompts
from anechoic_lab.demo.judge import FRAGMENT, RANK, heard
from anechoic_lab.demo.run import BATCH, Bench, Judgement, generate
from anechoic_lab.images.task import SCENARIO, SPLITS, open_images
from anechoic_lab.instruments import models, text_judge
from anechoic_lab.instruments.guards import NAMED

ORDINARY = "ordinary"
UNGUARDED = "none"
SOUND = ("demo", "drums", "flow", "loops", "lora")
MODELS = (*SOUND, "images")


@dataclass(frozen=True)
class Asked:
    """A prompt, and how often its clip was repeated in training."""

    id: str
    caption: str
    group: str  # MEMORIZED or ORDINARY
    copies: int


@dataclass(frozen=True)
class Line:
    """One generation, as it stands in the work file."""

    model: str
    guard: str
    settings: str  # a hash of the guard's
    scale: float
    steps: int
    seed: int
    prompt: str
    group: str
    copies: int
    copied: bool  # of its own clip, by the first judge
    confirmed: bool  # ... and by the second
    elsewhere: bool  # both judges find a copy of a clip with another caption
    by_rank: bool | None  # ... by ranks, which loud spots do not deceive; None: an image
    first: float
    second: float
    adherence: float
    seconds: float  # of the wall clock, for each clip of its batch
    processor: float  # seconds of processor time
    passes: float
    in_part: bool | None = None  # a second is one of a clip of its caption; None: not so long
    fragment: float | None = None  # the correlation of that second
    lag: float | None = None  # where it begins, and in the clip: their difference in seconds
    # what the guard recorded at each evaluation: the distance of the predictions with and without
    # the prompt, and the similarity of the estimate to the nearest training clip
    distances: Sequence[float | None] | None = None
    similarities: Sequence[float | None] | None = None
    # by the second judge of adherence, of the sound and its caption; None: not judged
    text_similarity: float | None = None
    text_rank: float | None = None  # the share of the model's other captions that fit it worse

    @property
    def cell(self) -> tuple[str, str, float, int]:
        return self.model, self.guard, self.scale, self.steps


@dataclass(frozen=True)
class HonestTakes:
    """What the judges say of real sound that copies nothing: shares, and out of how many."""

    first: float
    second: float
    confirmed: float
    by_rank: float | None
    n: int
    in_part: float | None = None


class Subject(Protocol):
    """A model with its index, judges and prompts."""

    scale: float  # its own

    @property
    def index(self) -> VectorIndex: ...

    @property
    def embedder(self) -> Embedder: ...

    def prompts(self) -> list[Asked]:
        """All prompts, in an order that does not change: the first few are a sample of all."""

    def measure(
        self, prompts: Sequence[Asked], seed: int, guidance: Guidance | None, scale: float,
        steps: int,
    ) -> tuple[list[dict[str, Any]], float]:  # fmt: skip
        """The judges' fields of a `Line` for each prompt, and the passes of each."""

    def honest(self) -> HonestTakes:
        """The judges' false positives."""


class SoundSubject:
    """A folder like the demo's; one of `SOUND` has a name, by which the text judge knows it."""

    scale = assets.CFG_SCALE

    def __init__(self, folder: Path, name: str = "") -> None:
        self.name = name
        self.pipe = assets.pipeline(folder)
        self.bench = Bench.load(folder, self.pipe)
        self._index = assets.every_index(folder)
        own = {clip.id for clip in assets.own_clips(folder)}
        # what the base of a fine-tuned model had memorized is measured on the base
        asked = [clip for clip in self.bench.clips if clip.copies == 1 or clip.id in own]
        self._clips = {clip.id: clip for clip in unique_prompts(asked)}

    @property
    def index(self) -> VectorIndex:
        return self._index

    @property
    def embedder(self) -> Embedder:
        return self.bench.embedder

    def prompts(self) -> list[Asked]:
        clips = list(self._clips.values())
        order = np.random.default_rng(3).permutation(len(clips))
        return [
            Asked(clips[i].id, clips[i].caption, MEMORIZED if clips[i].copies > 1 else ORDINARY,
                  clips[i].copies)
            for i in order
        ]  # fmt: skip

    def measure(
        self, prompts: Sequence[Asked], seed: int, guidance: Guidance | None, scale: float,
        steps: int,
    ) -> tuple[list[dict[str, Any]], float]:  # fmt: skip
        captions = [prompt.caption for prompt in prompts]
        made = generate(self.pipe, captions, seed, guidance, scale, steps)
        clips = [self._clips[prompt.id] for prompt in prompts]
        judged = [
            _told(one) | fit
            for one, fit in zip(
                self.bench.judge(made.wav, clips, seed),
                self._text_fits(made.wav, prompts),
                strict=True,
            )
        ]
        return _with_course(judged, made.traces[0] if made.traces else None), made.passes

    def _text_fits(self, wav: torch.Tensor, prompts: Sequence[Asked]) -> list[dict[str, float]]:
        """The text judge's fields of a `Line`, where it judges; empty elsewhere."""
        judge = text_judge.shipped()
        if judge is None or self.name not in {cell.model for cell in judge.judged}:
            return [{} for _ in prompts]
        captions = [prompt.caption for prompt in prompts]
        among = [clip.caption for clip in self.bench.clips]
        fits = judge.fits(text_judge.embed(wav, self.bench.rate), captions, among)
        return [
            {"text_similarity": round(fit.similarity, 4), "text_rank": round(fit.rank, 6)}
            if judge.cell(self.name, prompt.group, prompt.caption) in judge.judged
            else {}
            for prompt, fit in zip(prompts, fits, strict=True)
        ]

    @torch.no_grad()
    def honest(self) -> HonestTakes:
        """Training clips that are not repeated, after the codec, against the others of their
        caption."""
        clips, sound = self.bench.clips, self.bench.sound
        captions = np.array([clip.caption for clip in clips])
        rows = [i for i, clip in enumerate(clips) if clip.copies == 1]
        siblings = {i: np.flatnonzero(captions == captions[i]).tolist() for i in rows}
        rows = [i for i in rows if len(siblings[i]) > 1]
        decoded = heard(round_trip(self.bench.codec, sound[rows]), self.bench.rate)
        scores = {name: self.bench.judges[name](decoded) for name in ("mel", "envelope")}
        said = {"mel": [], "envelope": [], "both": []}  # type: dict[str, list[bool]]
        ranks, ranked = self.bench.judges["rank"](decoded), []
        parts = []
        for place, row in enumerate(rows):
            others = [i for i in siblings[row] if i != row]
            own = others[int(scores["mel"][place, others].argmax())]  # as `Bench.judge` chooses
            ranked.append(ranks[place, own].item() > RANK)
            part = self.bench.fragment(decoded[place], others)
            parts += [] if part is None else [part.score > FRAGMENT]
            hits = [
                self.bench.rule(name).is_copy(scores[name][place, own].item()) for name in scores
            ]
            for name, hit in zip(said, [*hits, all(hits)], strict=True):
                said[name].append(hit)
        first, second, both = (float(np.mean(hits)) for hits in said.values())
        by_rank = float(np.mean(ranked))
        in_part = float(np.mean(parts)) if parts else None
        return HonestTakes(first, second, both, by_rank, len(rows), in_part)


def _told(one: Judgement) -> dict[str, Any]:
    followed = float(one.recognized or False) if one.adherence is None else one.adherence
    return {
        "copied": one.copied,
        "confirmed": one.confirmed,
        "elsewhere": one.elsewhere,
        "by_rank": one.by_rank,
        "first": one.mel,
        "second": one.envelope,
        "adherence": followed,
        "in_part": one.in_part,
        "fragment": one.fragment and one.fragment.score,
        "lag": one.fragment and one.fragment.at_s - one.fragment.from_s,
    }


def _with_course(found: list[dict[str, Any]], trace: Trace | None) -> list[dict[str, Any]]:
    """Add what a batch's guard recorded along the run."""
    if trace is None:
        return found
    recorded = {"distances": trace.column("distance")}
    if "similarity" in trace.records[0].notes:
        recorded["similarities"] = trace.column("similarity")
    for row, one in enumerate(found):
        for name, values in recorded.items():
            course = values[:, row].tolist()
            one[name] = [round(x, 4) if math.isfinite(x) else None for x in course]
    return found


class ImagesSubject:
    """The small Stable Diffusion."""

    def __init__(self) -> None:
        self.task = open_images()
        self.scale = self.task.scale
        self.embedder: Embedder = self.task.embedder

    @property
    def index(self) -> VectorIndex:
        return self.task.index

    def prompts(self) -> list[Asked]:
        repeats = {tile.caption: tile.copies for tile in self.task.tiles if tile.plate}
        return [
            Asked(one.id, one.caption, one.group, repeats.get(one.caption, 1))
            for split in SPLITS
            for one in self.task.prompts(SCENARIO, split)
        ]

    def measure(
        self, prompts: Sequence[Asked], seed: int, guidance: Guidance | None, scale: float,
        steps: int,
    ) -> tuple[list[dict[str, Any]], float]:  # fmt: skip
        captions = [prompt.caption for prompt in prompts]
        self.task.scale = scale
        made = self.task.make(captions, seed, guidance, steps)
        told = self.task.judge(captions, made.samples)
        found = [
            {
                "copied": self.task.rules["grey"].is_copy(told["grey"][i].item()),
                "confirmed": bool(told["copied"][i]),
                "by_rank": None,
                "elsewhere": False,  # a copy is one of any training image here
                "first": told["grey"][i].item(),
                "second": told["ssim"][i].item(),
                "adherence": told["kept"][i].item(),
            }
            for i in range(len(captions))
        ]
        return _with_course(found, None if guidance is None else made.trace), made.passes

    @torch.no_grad()
    def honest(self) -> HonestTakes:
        """Tiles that were never trained on, after the codec."""
        from anechoic_lab.images.folder import round_trip as image_round_trip

        held_out = torch.tensor([tile.copies == 0 for tile in self.task.tiles])
        seen = image_round_trip(self.task.pipe.vae, self.task.images[held_out])
        told = self.task.judge([""] * len(seen), seen)
        hits = [
            [self.task.rules[name].is_copy(score) for score in told[name].tolist()]
            for name in ("grey", "ssim")
        ]
        return HonestTakes(
            float(np.mean(hits[0])), float(np.mean(hits[1])), told["copied"].float().mean().item(),
            None, len(seen),
        )  # fmt: skip


@cache
def subject(name: str) -> Subject:
    """One of `MODELS`, or a folder that `instruments.build` made."""
    if name == "images":
        return ImagesSubject()
    if name == "demo":
        return SoundSubject(assets.SHIPPED, name)
    return SoundSubject(models.folder(name), name) if name in SOUND else SoundSubject(Path(name))


def guidance(name: str, given: Subject, scale: float) -> Guidance | None:
    """A guard of `guards.NAMED`, or another method at its class's defaults; or with settings, as
    "amg:lambda_min=0.9,lambda_max=0.9", to see what they change."""
    if name == UNGUARDED:
        return None
    text = NAMED[name].text if name in NAMED else name
    name, _, texts = text.partition(":")
    settings = registry.parse(registry.method(name), texts.split(",") if texts else [])
    filled = {"index": given.index, "embedder": given.embedder, "scale": scale}
    return registry.build(name, settings, filled)


@dataclass(frozen=True)
class Unit:
    """A batch: prompts of one group under one guard."""

    model: str
    guard: str
    scale: float
    steps: int
    seed: int
    prompts: tuple[Asked, ...]


def units(
    names: Sequence[str], guards: Sequence[str], scales: Sequence[float], steps: Sequence[int],
    seeds: Sequence[int], prompts: int | None,
) -> Iterator[Unit]:  # fmt: skip
    """All batches, of `prompts` prompts of each group; a group's batch is of one group alone, so
    that its time is its own."""
    for name in names:
        asked = subject(name).prompts()
        for scale in scales:
            for count in steps:
                for seed in seeds:
                    for guard in guards:
                        for group in (MEMORIZED, ORDINARY):
                            chosen = [one for one in asked if one.group == group][:prompts]
                            for first in range(0, len(chosen), BATCH):
                                yield Unit(name, guard, scale, count, seed,
                                           tuple(chosen[first : first + BATCH]))  # fmt: skip


def settings_hash(guide: Guidance | None) -> str:
    """Short name of a guard's settings, so that old lines are not taken for new ones."""
    text = json.dumps(registry.settings_as_text(guide), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def key(line: Mapping[str, Any] | Line) -> tuple[Any, ...]:
    """What tells lines apart."""
    found = asdict(line) if isinstance(line, Line) else line
    names = ("model", "guard", "settings", "scale", "steps", "seed", "prompt")
    return tuple(found[name] for name in names)


def run(unit: Unit) -> list[Line]:
    """Generate and judge a batch."""
    made = subject(unit.model)
    guide = guidance(unit.guard, made, unit.scale)
    _warm(unit.model)
    wall, processor = time.perf_counter(), time.process_time()
    told, passes = made.measure(unit.prompts, unit.seed, guide, unit.scale, unit.steps)
    each = len(unit.prompts)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return [
        Line(
            unit.model, unit.guard, settings_hash(guide), unit.scale, unit.steps, unit.seed,
            asked.id, asked.group, asked.copies, seconds=wall / each, processor=processor / each,
            passes=passes, **fields,
        )
        for asked, fields in zip(unit.prompts, told, strict=True)
    ]  # fmt: skip


@cache
def _warm(model: str) -> None:
    """The first generation of a process is slower, and is no guard's."""
    made = subject(model)
    made.measure(made.prompts()[:1], 0, None, made.scale, 3)


def read(path: Path) -> list[Line]:
    """The lines of a work file, each generation once; a line that a kill cut off is left out."""
    lines: dict[tuple[Any, ...], Line] = {}
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            line = Line(**json.loads(text))
        except json.JSONDecodeError:
            continue
        lines.setdefault(key(line), line)
    return list(lines.values())


def refused(todo: Iterable[Unit]) -> dict[tuple[str, str], str]:
    """The guards that cannot act on a model, as (model, guard), and why.

    Raises:
        BadSetting: a guard that cannot act on any of the models, such as one that there is not.
    """
    asked = dict.fromkeys((unit.model, unit.guard) for unit in todo)
    found: dict[tuple[str, str], BadSetting] = {}
    for model, guard in asked:
        try:
            guidance(guard, subject(model), 2.0)
        except BadSetting as error:
            found[model, guard] = error
    for (_, guard), refusal in found.items():
        if all((model, guard) in found for model, other in asked if other == guard):
            raise refusal
    return {place: str(refusal) for place, refusal in found.items()}


def unfinished(todo: Iterable[Unit], done: Iterable[Line]) -> list[Unit]:
    """The batches of which a line is missing, without the prompts whose line is there."""
    known = {key(line) for line in done}

    @cache
    def settings(model: str, guard: str, scale: float) -> str:
        return settings_hash(guidance(guard, subject(model), scale))

    def missing(unit: Unit) -> tuple[Asked, ...]:
        hashed = settings(unit.model, unit.guard, unit.scale)
        head = (unit.model, unit.guard, hashed, unit.scale, unit.steps, unit.seed)
        return tuple(asked for asked in unit.prompts if (*head, asked.id) not in known)

    left = [replace(unit, prompts=missing(unit)) for unit in todo]
    return [unit for unit in left if unit.prompts]


def append(path: Path, lines: Iterable[Line]) -> None:
    """Add lines to a work file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write("\n" * bool(cut))
        file.writelines(json.dumps(asdict(line)) + "\n" for line in lines)


# ------------------------------------------------------------------------------------- tables


def _upper(hits: int, n: int) -> float:
    """The upper end of Wilson's 95 % interval."""
    from scipy.stats import binomtest

    return float(binomtest(hits, n).proportion_ci(method="wilson").high)


def share(hits: Sequence[bool]) -> str:
    """A count, and the upper end of its share's interval.

    >>> share([True] + [False] * 59)
    '1 of 60 (<= .089)'
    """
    if not hits:
        return ""
    found = sum(hits)
    return f"{found} of {len(hits)} (<= {_upper(found, len(hits)):.3f})".replace("0.", ".")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


Pick = Callable[[Line], bool]


def copies_table(lines: Sequence[Line]) -> str:
    """Copies of each model under each guard, and of all models together."""
    rows = []
    for guard in _order(line.guard for line in lines):
        for model in (*_order(line.model for line in lines), ""):
            of = [x for x in lines if x.guard == guard and model in ("", x.model)]
            memorized = [x for x in of if x.group == MEMORIZED]
            ordinary = [x for x in of if x.group == ORDINARY]
            if memorized and ordinary:
                rows.append((
                    guard, model or "**all**", share([x.copied for x in memorized]),
                    share([x.confirmed for x in memorized]),
                    share([x.by_rank for x in memorized if x.by_rank is not None]),
                    share([x.confirmed for x in ordinary]),
                    share([x.elsewhere for x in of]),
                ))  # fmt: skip
    head = ("guard", "model", "memorized prompts: copied", "... confirmed", "by ranks",
            "ordinary: confirmed", "confirmed copies of another caption's clip")  # fmt: skip
    return table(head, rows)


def cells_table(lines: Sequence[Line]) -> str:
    """Confirmed copies and adherence at each scale and number of steps."""
    rows = []
    for cell in sorted({line.cell for line in lines}):
        of = [line for line in lines if line.cell == cell]
        memorized = [x for x in of if x.group == MEMORIZED]
        if memorized:
            rows.append((
                cell[0], f"{cell[2]:g}", str(cell[3]), cell[1],
                share([x.confirmed for x in memorized]), _mean(of, MEMORIZED), _mean(of, ORDINARY),
            ))  # fmt: skip
    head = ("model", "scale", "steps", "guard", "confirmed copies", "adherence, memorized",
            "adherence, ordinary")  # fmt: skip
    return table(head, rows)


def cost_table(lines: Sequence[Line]) -> str:
    """Adherence and processor time of each guard over those of the unguarded model, on the same
    prompts, seeds, scales and steps."""
    plain = {place(line): line for line in lines if line.guard == UNGUARDED}
    rows = []
    for guard in _order(line.guard for line in lines if line.guard != UNGUARDED):
        for model in _order(line.model for line in lines):
            cells = []
            for group in (MEMORIZED, ORDINARY):
                of = [x for x in lines if (x.guard, x.model, x.group) == (guard, model, group)]
                pairs = [(x, plain[place(x)]) for x in of if place(x) in plain]
                if not pairs:
                    break
                cells.append(_ratio([(a.adherence, b.adherence) for a, b in pairs]))
                ratios = [a.processor / b.processor for a, b in pairs]
                cells.append(f"{np.median(ratios):.2f}")
            else:
                rows.append((guard, model, cells[0], cells[2], cells[1], cells[3]))
    head = ("guard", "model", "adherence kept, memorized", "ordinary", "time, memorized",
            "ordinary")  # fmt: skip
    return table(head, rows)


def honest_table(found: Mapping[str, HonestTakes]) -> str:
    """The judges' false positives."""
    rows = [
        (
            name,
            str(one.n),
            f"{one.first:.3f}",
            f"{one.second:.3f}",
            f"{one.confirmed:.3f}",
            "" if one.by_rank is None else f"{one.by_rank:.3f}",
            "" if one.in_part is None else f"{one.in_part:.3f}",
        )
        for name, one in found.items()
    ]
    head = ("model", "honest takes", "first judge", "second", "confirmed", "by ranks", "a second")
    return table(head, rows)


def degrees_table(lines: Sequence[Line]) -> str:
    """Confirmed copies of the unguarded models by how often the clip was repeated."""
    plain = [x for x in lines if x.guard == UNGUARDED and x.group == MEMORIZED]
    rows = []
    for model in _order(line.model for line in plain):
        for copies in sorted({x.copies for x in plain if x.model == model}):
            of = [x for x in plain if (x.model, x.copies) == (model, copies)]
            rows.append((model, str(copies), f"{sum(x.confirmed for x in of)} of {len(of)}"))
    return table(("model", "repeated", "confirmed copies, unguarded"), rows)


def place(line: Line) -> tuple[Any, ...]:
    """What a line has in common with those of other guards that it is compared with."""
    return line.model, line.scale, line.steps, line.seed, line.prompt


def _mean(lines: Sequence[Line], group: str) -> str:
    of = [x.adherence for x in lines if x.group == group]
    return f"{np.mean(of):.2f}" if of else ""


def _ratio(pairs: Sequence[tuple[float, float]]) -> str:
    guarded, plain = (float(np.mean(side)) for side in zip(*pairs, strict=True))
    return f"{guarded / plain:.3f}" if plain else "not defined"


def _order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
