"""An engine in pure torch: a network of two matrices, its prompts, its decoder, its own loop."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anechoic.engine.call import EncodedPrompt
from anechoic.guidance.noise import NoiseLevel

LENGTH, TOKENS, WIDTH = 64, 3, 4
VOCABULARY = ["dog", "rain", "flute", "loud", "soft"]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TinyModel:
    """See `anechoic.engine.model.Model`."""

    name, makes, sample_rate = "TinyModel", "sound", 16
    guided_by = "generate with uncond=True"

    def __init__(self):
        self.network = torch.nn.Linear(LENGTH + WIDTH, LENGTH)
        with torch.no_grad():
            self.network.weight.copy_(drawn(1, LENGTH, LENGTH + WIDTH) / 8)
            self.network.bias.zero_()
        self.owner = self
        self.evaluated = []  # the rows of each evaluation

    def fingerprint(self) -> str:
        return "tiny"

    def codec_fingerprint(self) -> str:
        return ""

    def frozen(self):
        return nullcontext()

    def predict(self, x: Tensor, text: Tensor) -> Tensor:
        self.evaluated.append(len(x))
        return self.network(torch.cat([x, text.mean(1)[:, None]], 2))

    def encode(self, texts) -> Tensor:
        """Texts to tokens, [b, s, d]."""
        return torch.stack([drawn(sum(map(ord, text)), TOKENS, WIDTH) for text in texts])


@dataclass
class TinyCall:
    """See `anechoic.engine.call.OwnCall`."""

    model: TinyModel
    x: Tensor
    text: Tensor
    texts: list[str]
    noise: NoiseLevel
    progress: float
    seconds: Tensor  # of each sample
    projects: bool = False
    guided: bool = True
    kind = "v_prediction"
    may_spare = True

    @property
    def batch(self) -> int:
        return len(self.x)

    def prompt(self) -> EncodedPrompt:
        def encode(texts, rows):
            assert len(texts) == len(rows)
            return self.model.encode(texts)

        mask = torch.ones(self.text.shape[:2], dtype=torch.bool)
        return EncodedPrompt(self.text, mask, self.texts, encode, lambda: VOCABULARY, False)

    def under(self, encoded):
        return replace(self, text=encoded)

    def evaluate(self, needs):
        texts = {"cond": self.text, "uncond": torch.zeros_like(self.text)}
        halves = ("cond", "uncond") if needs == "both" else (needs,)
        both = self.model.predict(
            self.x.repeat(len(halves), 1, 1), torch.cat([texts[half] for half in halves])
        )
        return dict(zip(halves, both.chunk(len(halves)), strict=True))

    def combine(self, predictions, scale, rows=None):
        cond, uncond = predictions["cond"], predictions["uncond"]
        if not self.projects:
            return uncond + scale * (cond - uncond)
        if isinstance(scale, Tensor):  # as an engine whose own guidance takes one number
            among = torch.arange(self.batch) if rows is None else rows
            parts = (half.split(1) for half in (cond, uncond, scale, among))
            each = zip(*parts, strict=True)
            return torch.cat([self.projected(c, u, w.item(), row) for c, u, w, row in each])
        return self.projected(cond, uncond, scale, slice(None) if rows is None else rows)

    def projected(self, cond, uncond, scale, rows):
        """Adaptive projected guidance in x0 space, over the seconds of each sample."""
        x, noise = self.x[rows], self.noise.of(torch.arange(self.batch)[rows])
        there = torch.arange(LENGTH) < (self.seconds[rows] * TinyModel.sample_rate)[:, None, None]
        c, u = noise.to_x0(x, cond, self.kind), noise.to_x0(x, uncond, self.kind)
        unit = c * there / (c * there).norm(dim=2, keepdim=True)
        along = ((c - u) * unit).sum(2, keepdim=True) * unit
        return noise.from_x0(x, c + (scale - 1.0) * (c - u - along), self.kind)

    def again(self, x, condition, rows=None):
        among = torch.arange(self.batch) if rows is None else rows
        if isinstance(condition, Tensor):
            text = condition
        elif isinstance(condition, str):
            text = self.text[among] * (condition == "cond")
        else:
            text = self.model.encode(condition)
        return self.model.predict(x, text)

    def move(self, x, rows=None):
        self.x[slice(None) if rows is None else rows] = x  # the loop's own tensor

    def decode(self, x0, rows=None):
        """Sound of the longest of these samples; a shorter one ends in silence."""
        seconds = self.seconds if rows is None else self.seconds[rows]
        ends = (seconds * TinyModel.sample_rate).long()
        there = torch.arange(LENGTH) < ends[:, None, None]
        return (x0 * there)[..., : int(ends.max())]


def levels(steps: int, start: float = 4.0) -> list[NoiseLevel]:
    """Noise levels that fall from `start`."""
    return [NoiseLevel.from_ratio(start * 0.6**step) for step in range(steps)]


def stacked(one, other) -> list[NoiseLevel]:
    """Two schedules as one, a row for each."""
    return [
        NoiseLevel(torch.tensor([a.alpha, b.alpha], dtype=torch.float64),
                   torch.tensor([a.sigma, b.sigma], dtype=torch.float64))
        for a, b in zip(one, other, strict=True)
    ]  # fmt: skip


def generate(model, guarded, x, texts, schedule, *, seconds=None, scale=3.0, **settings) -> Tensor:
    """The engine's own loop: DDIM, from noise [b, 1, LENGTH]; plain where `guarded` is None."""
    seconds = torch.full((len(x),), 4.0) if seconds is None else seconds
    x = x.clone()  # a guidance may move it
    run = None if guarded is None else guarded.begin(settings.get("guided", True))
    for done, noise in enumerate(schedule):
        call = TinyCall(
            model, x, model.encode(texts), texts, noise, done / len(schedule), seconds, **settings
        )
        with torch.no_grad():
            pred = call.combine(call.evaluate("both"), scale) if run is None else run(call)
            following = (schedule[done + 1 :] or [NoiseLevel(1.0, 0.0)])[0]
            x0 = noise.to_x0(x, pred, call.kind)
            eps = noise.from_x0(x, x0, "epsilon")
            x = _scaled(following.alpha, x0) + _scaled(following.sigma, eps)
    return x


def _scaled(value, x: Tensor) -> Tensor:
    return value * x if not isinstance(value, Tensor) else value.reshape(-1, 1, 1).to(x) * x
