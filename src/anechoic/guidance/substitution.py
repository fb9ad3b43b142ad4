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
    check_comparison,
    compared_at,
    has_started,
    log_abar,
    read_off,
    require_finite,
    why_idle,
)
from anechoic.guidance.step import Guided, Prompt, Record, Step
from anechoic.guidance.triggers import LogSNR, Progress, Timestep
from anechoic.types import Embedder, VectorIndex

OPENS = 0.95  # share of unrelated sound that comes less near to the training set
# the caption in place of the prompt: a row of the index; -1: none; -2, -3, ...: the first, second,
# ... of the shorter prompts. In memory, one more, since what has no memory yet is 0.
SUBSTITUTE = "substitute"
NO_SUBSTITUTE = -1
BESIDE = "beside"  # whether the run follows a second sample, in notes and memory
ESTIMATE, NOISE = "estimate", "noise"  # of the second sample, in memory


@dataclass(frozen=True)
class CaptionSubstitution(ComparingGuidance):
    """Guides by another caption where the prompt's own leads to a training clip.

    A memorized prompt gives itself away early, in noise: its conditional estimate is the training
    clip already, where that of any other prompt is a blur of many sounds.
    So no gradient has to push the sample out of what the prompt means to the model; it is another
    prompt that is needed, for something as near to the wish as can be had:

        c is over `opens` near clip j:  c <- the estimate under the caption of clip k
        out = u + scale*(c - u)

    Clip k is one of those near clip j, but not nearer than `opens`; its caption has the most words
    in common with that of j, and its estimate is not over `opens` itself. The caption is used to
    the end of the run and watched like the prompt: if it leads to a training clip later on, it is
    replaced, too.

    Once the sample holds much of the clip, every caption leads back to it. Then a second sample is
    started beside it, under another caption and from its noise, eps = (x - alpha*c) / sigma, which
    holds nothing of the clip. It goes on by steps of DDIM, and the run follows its estimate:

        x' = alpha*x0' + sigma*eps',   x0' <- u' + scale*(c' - u'),   eps' <- (x' - alpha*x0')/sigma

    If the captions that are tried all lead to a clip even so, the one that comes least near is
    taken, and the next comparison decides anew. Where the clips near clip j have no captions, the
    prompt itself is tried without some of its words.

    While no sample comes near a training clip, its output is classifier-free guidance bit for bit.
    Nothing is optimised, so the embedder that compares cannot be fooled, as it can by a gradient.

    Args:
        index: the training set to stay away from, with its captions.
        embedder: the embedder that built the index; it needs no gradient.
        scale: classifier-free guidance scale.
        opens: similarity of an estimate above which its caption is replaced; None: read off the
            index, so that one in twenty unrelated sounds comes nearer.
        start: the first point at which anything is compared with the training set. In more noise
            than that nothing is decided yet, and an estimate is such a blur that it can come nearer
            to a clip than any sound does. None: the first step.
        watch: distance between comparisons in the logarithm of abar, whatever the number of steps:
            in noise that is log-SNR, and once signal prevails nothing is left to decide. A sample
            that was started again is compared at this distance in log-SNR itself.
        candidates: captions that are tried at a comparison, or shorter prompts.
        pool: nearest training clips whose captions are candidates.

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
    start: LogSNR | Progress | Timestep | float | None = LogSNR(-5.0)
    watch: float = 1.5
    candidates: int = 8
    pool: int = 256

    changes_prompt = True

    def __post_init__(self) -> None:
        check_scale(self.scale)
        object.__setattr__(self, "start", check_comparison(self.start, 1))
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
        if SUBSTITUTE not in prompt.memory:
            return prompt.encoded
        codes = prompt.memory[SUBSTITUTE] - 1
        own = prompt.texts or [""] * len(codes)
        captions = [
            self._caption(code, text) for code, text in zip(codes.tolist(), own, strict=True)
        ]
        new, old = prompt.encode(captions).to(prompt.encoded), prompt.encoded
        length = max(new.shape[1], old.shape[1])
        new, old = (pad(one, (0, 0, 0, length - one.shape[1])) for one in (new, old))
        changed = (codes != NO_SUBSTITUTE).to(old.device)
        return torch.where(changed[:, None, None], new, old)

    # ------------------------------------------------------------------------ one evaluation

    def __call__(self, step: Step) -> Guided:
        b = step.batch
        similarity, neighbour = torch.full((b,), torch.nan), torch.full((b,), -1)
        substitute = step.memory.get(SUBSTITUTE, torch.zeros_like(neighbour)) - 1
        beside = step.memory.get(BESIDE, torch.zeros(b, dtype=torch.bool)).clone()
        seen = _with_second_samples(step, beside)
        followed = beside.clone()  # whose estimate is another than the run's own
        noise, last = torch.tensor(step.noise.log_snr), compared_at(step)
        moved = torch.where(beside, noise - last, log_abar(noise) - log_abar(last))
        due = (moved >= self.watch).nonzero()[:, 0]
        if len(due) and has_started(step, self.start):
            cond = seen.cond[due.to(step.x.device)]
            similarity[due], neighbour[due] = self._nearest(seen.of(due), cond)
        for sample in (similarity > self.threshold).nonzero()[:, 0].tolist():
            one = seen.of(torch.tensor([sample]))
            nearest, failed = int(neighbour[sample]), int(substitute[sample])
            substitute[sample], other = self._another(one, nearest, failed)
            beside[sample] |= other.x is not one.x
            followed[sample] = True
            seen = _put(seen, torch.tensor([sample], device=step.x.device), other)
        changed = substitute != NO_SUBSTITUTE
        notes = {
            "similarity": similarity, "neighbour": neighbour, "gate": changed,
            SUBSTITUTE: substitute, BESIDE: beside,
        }  # fmt: skip
        memory = {SUBSTITUTE: substitute + 1} if bool(changed.any()) else {}
        if not bool(followed.any()):
            return Guided(self.scale, notes=notes, memory=memory)
        estimate = seen.guided(self.scale)
        rows = step.per_sample(followed) > 0
        delta = torch.where(rows, estimate - step.guided(self.scale), 0.0)
        if bool(beside.any()):
            eps = (seen.x - step.noise.alpha * estimate) / step.noise.sigma
            memory |= {BESIDE: beside, ESTIMATE: estimate, NOISE: eps}
        return Guided(self.scale, delta, notes, memory=memory, exact=followed)

    def _similarity(self) -> SimilarityGradient:
        return SimilarityGradient(self.index, self.embedder, self.scale, "cond", "x0")

    def _nearest(self, step: Step, x0: Tensor) -> tuple[Tensor, Tensor]:
        """The similarity of estimates to the nearest clip, and its row; [b], on the CPU."""
        with torch.no_grad():
            emb = self._similarity().embed_estimate(step, x0.detach())
        nearest = self.index.search(emb, 1)
        require_finite(nearest)
        return nearest.scores[:, 0].float().cpu(), nearest.rows[:, 0].cpu()

    def _another(self, step: Step, row: int, failed: int) -> tuple[int, Step]:
        """A substitute that leads away from a training clip, and the step under it; its `x` is
        another if the sample has to start again.

        Args:
            step: the sample alone.
            row: the training clip that it comes too near to.
            failed: the substitute that led there; -1: it was the prompt.
        """
        (prompt,) = step.texts() or [""]
        codes = self._candidates(prompt, row, failed)
        alpha, sigma = step.noise.alpha, step.noise.sigma
        eps = (step.x - alpha * step.cond) / sigma
        tried: list[tuple[float, int, Step]] = []
        for again in (False, True):
            for code in codes:
                caption, x = [self._caption(code, prompt)], step.x
                if again:
                    size = eps.square().mean().sqrt() / math.hypot(alpha, sigma)
                    x = alpha * step.denoise(eps / size, caption) + sigma * eps
                cond = step.denoise(x, caption)
                score = self._nearest(step, cond)[0].item()
                tried.append((score, code, replace(step, x=x, cond=cond)))
                if score <= self.threshold:
                    break
            if tried[-1][0] <= self.threshold:
                break
        _, code, found = min(tried, key=lambda one: one[0])
        if found.x is not step.x and step.has_uncond:
            found = replace(found, uncond=step.denoise(found.x, "uncond"))
        return code, found

    def _candidates(self, prompt: str, row: int, failed: int) -> list[int]:
        """The substitutes to try, best first.

        Raises:
            GuardError: there are none.
        """
        every = self._similar(row, self.threshold)
        every = every or [-2 - number for number in range(len(shorter(prompt)))]
        every = every or self._similar(row, math.inf)
        if not every:
            raise GuardError(
                "a sample comes near a training clip, and there is no other prompt to lead it "
                "away: the clips near that one have no captions of their own, and the prompt is "
                "empty or was not given as text; give a text, or index the clips with captions"
            )
        last = self._caption(failed, prompt)
        others = [code for code in every if self._caption(code, prompt) != last] or every
        return others[: self.candidates]

    def _caption(self, code: int, prompt: str) -> str:
        return caption_of(code, prompt, self.index.captions)

    def _similar(self, row: int, highest: float) -> list[int]:
        """Rows near a row of the index but not over a similarity, one for each caption; those
        first whose captions have most in common with its own."""
        query = self.index.vectors(torch.tensor([row]))
        near = self.index.search(query, min(self.pool, len(self.index)))
        captions, own = self.index.captions, self.index.captions[row]
        rows = {
            captions[other]: other
            for score, other in reversed(
                list(zip(near.scores[0].tolist(), near.rows[0].tolist(), strict=True))
            )
            if score <= highest and captions[other] and captions[other] != own
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


def _with_second_samples(step: Step, beside: Tensor) -> Step:
    """A step with the second samples in place of those that they are beside."""
    rows = beside.nonzero()[:, 0]
    if len(rows) == 0:
        return step
    alpha, sigma, here = step.noise.alpha, step.noise.sigma, rows.to(step.x.device)
    x = alpha * step.memory[ESTIMATE][here] + sigma * step.memory[NOISE][here]
    uncond = step.denoise(x, "uncond", here) if step.has_uncond else step.uncond[here]
    return _put(step, here, replace(step, x=x, cond=step.denoise(x, "cond", here), uncond=uncond))


def _put(step: Step, rows: Tensor, samples: Step) -> Step:
    """A step with other samples in these rows."""
    return replace(
        step,
        **{
            name: getattr(step, name).index_copy(0, rows, getattr(samples, name))
            for name in ("x", "cond", "uncond")
        },
    )


def substitutes(records: Sequence[Record], guidance: Guidance, prompts: Sequence[str]) -> list[str]:
    """The caption that each sample of a generation was guided by in the end, in place of its
    prompt; "": by the prompt.

    Args:
        records: what the guidance recorded of the generation.
        guidance: the guidance, alone or in a sequence.
        prompts: of the samples.
    """
    codes = records[-1].notes.get(SUBSTITUTE) if records else None
    if codes is None:
        return [""] * len(prompts)
    captions = guidance.indexes()[0].captions
    return [
        "" if code == NO_SUBSTITUTE else caption_of(code, prompt, captions) or "(an empty prompt)"
        for code, prompt in zip(codes.tolist(), prompts, strict=True)
    ]


def caption_of(substitute: int, prompt: str, captions: Sequence[str]) -> str:
    """The caption that a substitute stands for."""
    if substitute >= 0:
        return captions[substitute]
    return prompt if substitute == NO_SUBSTITUTE else shorter(prompt)[-2 - substitute]


def shorter(prompt: str) -> list[str]:
    """A prompt without an eighth, a quarter and a half of its words: the last, the first or those
    in the middle.

    >>> shorter("low cello note")
    ['low cello', 'cello note', 'low note', 'low', 'note']
    >>> shorter("rain")
    ['']
    """
    every, found = prompt.split(), []
    for share in (8, 4, 2):
        without = max(1, round(len(every) / share))
        for start in (len(every) - without, 0, (len(every) - without) // 2):
            found.append(" ".join(every[:start] + every[start + without :]))
    return [text for text in dict.fromkeys(found) if text or len(every) == 1]


def words(caption: str) -> list[str]:
    """The words of a caption, in lower case.

    >>> words("Low cello, note F#2")
    ['low', 'cello', 'note', 'f#2']
    """
    return [word for word in caption.lower().replace(",", " ").replace(".", " ").split() if word]
