"""Caption substitution: a memorized caption gives way to that of a similar training clip."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from anechoic.errors import BadSetting, GuardError
from anechoic.guidance.base import ComparingGuidance, Guidance
from anechoic.guidance.cfg import check_scale
from anechoic.guidance.similarity import (
    SimilarityGradient,
    compared_at,
    log_abar,
    read_off,
    require_finite,
    why_idle,
)
from anechoic.guidance.step import Guided, Prompt, Record, Step
from anechoic.types import Embedder, VectorIndex

OPENS = 0.95  # share of unrelated sound that comes less near to the training set
SUBSTITUTE = "substitute"  # the row whose caption is used, in notes and memory; -1: none


@dataclass(frozen=True)
class CaptionSubstitution(ComparingGuidance):
    """Guides by another caption where the prompt's own leads to a training clip.

    A memorized prompt gives itself away at the first evaluation, in pure noise: its conditional
    estimate is the training clip already, where that of any other prompt is a blur of many sounds.
    So no gradient has to push the sample out of what the prompt means to the model; it is another
    prompt that is needed, for something as near to the wish as can be had:

        c is over `opens` near clip j:  c <- the estimate under the caption of clip k
        out = u + scale*(c - u)

    Clip k is one of those near clip j, but not nearer than `opens`; its caption has the most words
    in common with that of j, and its estimate is not over `opens` itself. The caption is used to
    the end of the run and watched like the prompt: if it leads to a training clip later on, it is
    replaced, too. Where no caption serves, guidance is reversed until the next comparison, which
    leaves the basin at the price of the prompt (opposite guidance, Jain et al.).

    While no sample comes near a training clip, its output is classifier-free guidance bit for bit.
    Nothing is optimised, so the embedder that compares cannot be fooled, as it can by a gradient.

    Args:
        index: the training set to stay away from, with its captions.
        embedder: the embedder that built the index; it needs no gradient.
        scale: classifier-free guidance scale.
        opens: similarity of an estimate above which its caption is replaced; None: read off the
            index, so that one in twenty unrelated sounds comes nearer.
        watch: distance between comparisons in the logarithm of abar, whatever the number of steps:
            in noise that is log-SNR, and once signal prevails nothing is left to decide. A sample
            that no caption serves is compared at this distance in log-SNR itself.
        candidates: captions that are tried at a comparison.
        pool: nearest training clips whose captions are candidates.
        before: scale of the guidance while no caption serves.

    Raises:
        IndexMismatch: the index was built with another embedder, or is empty.
        BadSetting: a setting out of range.
        GuardError: while generating, sound longer than the window of a fixed-length embedder; an
            estimate that is not finite.

    Source: our own; docs/evidence/auto.md has the measurements. That memorized captions should be
    changed is from Somepalli et al., 2023 (arXiv:2305.20086), who add random words.
    """

    index: VectorIndex
    embedder: Embedder
    scale: float = 7.0
    opens: float | None = None
    watch: float = 1.5
    candidates: int = 8
    pool: int = 256
    before: float = -1.0

    changes_prompt = True

    def __post_init__(self) -> None:
        check_scale(self.scale)
        self._similarity()  # refuses an embedder and an index that do not match
        if self.opens is None:
            (read,) = read_off(self.index, OPENS)
            object.__setattr__(self, "opens", read)
        if not -1 <= self.threshold < 1:
            raise BadSetting(f"expected opens, a cosine, of -1 to below 1, got {self.opens}")
        if not 0 <= self.watch < 100:
            raise BadSetting(
                f"expected watch, a distance in log abar, from 0 to 100, got {self.watch}"
            )
        for name in ("candidates", "pool"):
            if getattr(self, name) < 1:
                raise BadSetting(f"expected {name} of 1 or more, got {getattr(self, name)}")
        if not -100 < self.before <= 1:
            raise BadSetting(f"expected before, a scale, of 1 or below, got {self.before}")

    @property
    def threshold(self) -> float:
        """`opens`, as a number."""
        assert self.opens is not None
        return self.opens

    def requires_uncond(self) -> bool:
        return False

    def with_threshold(self, similarity: float) -> CaptionSubstitution:
        return replace(self, opens=similarity)

    def idle(self, records: Sequence[Record]) -> str | None:
        return why_idle(records, self.embedder.name)

    # -------------------------------------------------------------------------- the prompt

    def condition(self, prompt: Prompt) -> Tensor:
        rows = prompt.memory.get(SUBSTITUTE)
        if rows is None or bool((rows < 0).all()):
            return prompt.encoded
        own = prompt.texts or [""] * len(rows)
        captions = [
            self.index.captions[row] if row >= 0 else text
            for row, text in zip(rows.tolist(), own, strict=True)
        ]
        new, old = prompt.encode(captions).to(prompt.encoded), prompt.encoded
        length = max(new.shape[1], old.shape[1])
        new, old = (pad(one, (0, 0, 0, length - one.shape[1])) for one in (new, old))
        return torch.where((rows >= 0).to(old.device)[:, None, None], new, old)

    # ------------------------------------------------------------------------ one evaluation

    def __call__(self, step: Step) -> Guided:
        b = step.batch
        similarity, neighbour = torch.full((b,), torch.nan), torch.full((b,), -1)
        substitute = step.memory.get(SUBSTITUTE, torch.full((b,), -1)).clone()
        lost = torch.zeros(b, dtype=torch.bool)  # no caption serves
        if step.history and "lost" in step.history[-1].notes:
            lost = step.history[-1].notes["lost"].clone()
        now, last = torch.tensor(step.noise.log_snr), compared_at(step)
        moved = torch.where(lost, now - last, log_abar(now) - log_abar(last))
        due = (moved >= self.watch).nonzero()[:, 0]
        delta = None
        if len(due):
            some = step.of(due)
            similarity[due], neighbour[due] = self._nearest(some, step.cond[due.to(step.x.device)])
            lost[due] = False
            near = (similarity > self.threshold).nonzero()[:, 0]
            for sample in near.tolist():
                row = torch.tensor([sample])
                found = self._caption(step.of(row), int(neighbour[sample]), int(substitute[sample]))
                if found is None:
                    lost[sample] = True
                    continue
                substitute[sample], estimate = found
                delta = torch.zeros_like(step.cond) if delta is None else delta
                delta[sample] = self.scale * (estimate[0] - step.cond[sample])
        if bool(lost.any()) and bool(step.distance.isnan().any()):
            raise GuardError(
                "no caption of the index leads away from a training clip, and this generation has "
                "no unconditional half by which guidance could be reversed; generate with a "
                "guidance_scale above 1"
            )
        scale: Tensor | float = self.scale
        if bool(lost.any()):
            scale = torch.where(lost, self.before, self.scale)
        gate = lost | (substitute >= 0)
        notes = {
            "similarity": similarity, "neighbour": neighbour, "gate": gate,
            SUBSTITUTE: substitute, "lost": lost,
        }  # fmt: skip
        memory = {SUBSTITUTE: substitute} if bool((substitute >= 0).any()) else {}
        return Guided(scale, delta, notes, memory=memory)

    def _similarity(self) -> SimilarityGradient:
        return SimilarityGradient(self.index, self.embedder, self.scale, "cond", "x0")

    def _nearest(self, step: Step, x0: Tensor) -> tuple[Tensor, Tensor]:
        """The similarity of estimates to the nearest clip, and its row; [b], on the CPU."""
        with torch.no_grad():
            emb = self._similarity().embed_estimate(step, x0.detach())
        nearest = self.index.search(emb, 1)
        require_finite(nearest)
        return nearest.scores[:, 0].float().cpu(), nearest.rows[:, 0].cpu()

    def _caption(self, step: Step, row: int, failed: int) -> tuple[int, Tensor] | None:
        """A row whose caption serves one sample, and the estimate under it; None: there is none.

        Args:
            step: the sample alone.
            row: the training clip that it comes too near to.
            failed: the row whose caption led there; -1: it was the prompt's own.
        """
        captions, tried = self.index.captions, 0
        for other in self._similar(row):
            if failed >= 0 and captions[other] == captions[failed]:
                continue
            if tried == self.candidates:
                return None
            tried += 1
            estimate = step.denoise(step.x, [captions[other]])
            if self._nearest(step, estimate)[0].item() <= self.threshold:
                return other, estimate
        return None

    def _similar(self, row: int) -> list[int]:
        """Rows near a row of the index but not over the threshold, one for each caption; those
        first whose captions have most in common with its own."""
        query = self.index.vectors(torch.tensor([row]))
        near = self.index.search(query, min(self.pool, len(self.index)))
        captions, own = self.index.captions, self.index.captions[row]
        rows = {
            captions[other]: other
            for score, other in reversed(
                list(zip(near.scores[0].tolist(), near.rows[0].tolist(), strict=True))
            )
            if score <= self.threshold and captions[other] and captions[other] != own
        }
        frequency = Counter(word for caption in rows for word in set(words(caption)))
        weight = {word: math.log(1 + len(rows) / count) for word, count in frequency.items()}

        def overlap(caption: str) -> float:
            shared = set(words(caption)) & set(words(own))
            union = set(words(caption)) | set(words(own))
            total = sum(weight.get(word, math.log(1 + len(rows))) for word in union)
            return sum(weight[word] for word in shared) / max(total, 1e-9)

        nearest = reversed(rows)  # a stable sort leaves the nearer one first
        return [rows[caption] for caption in sorted(nearest, key=overlap, reverse=True)]


def substitutes(records: Sequence[Record], guidance: Guidance) -> list[str]:
    """The caption that each sample of a generation was guided by in the end, in place of its
    prompt; "": by the prompt.

    Args:
        records: what the guidance recorded of the generation.
        guidance: the guidance, alone or in a sequence.
    """
    rows = records[-1].notes.get(SUBSTITUTE) if records else None
    if rows is None:
        return [""] * (len(records[-1].scale) if records else 0)
    captions = guidance.indexes()[0].captions
    return ["" if row < 0 else captions[int(row)] for row in rows.tolist()]


def words(caption: str) -> list[str]:
    """The words of a caption, in lower case.

    >>> words("Low cello, note F#2")
    ['low', 'cello', 'note', 'f#2']
    """
    return [word for word in caption.lower().replace(",", " ").replace(".", " ").split() if word]
