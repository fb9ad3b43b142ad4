"""What an engine tells of one evaluation of its network, and does for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from torch import Tensor

from anechoic.guidance.noise import NoiseLevel, Prediction
from anechoic.guidance.step import Condition, Needs

Predictions = Mapping[Condition, Tensor]  # the network's, of the halves that were computed


@dataclass(frozen=True)
class EncodedPrompt:
    """The prompt of a call, as its engine encoded it."""

    encoded: Tensor  # [b, s, d]; without what is not text, such as durations
    mask: Tensor  # which of its tokens are text, [b, s], bool
    texts: Sequence[str] | None  # of each sample; None: the engine was given encoded prompts
    encode: Callable[[Sequence[str], Sequence[int]], Tensor]  # texts for these rows, [n, s, d]
    words: Callable[[], Sequence[str]]  # that the tokenizer has a token for
    any_length: bool  # whether another prompt may have another number of tokens

    def fits(self, changed: Tensor) -> bool:
        """Whether a changed prompt can take the place of this one."""
        before, after = self.encoded.shape, changed.shape
        same = (before[0], before[2]) == (after[0], after[2])
        return same and (self.any_length or before[1] == after[1])


def whole_words(vocabulary: Iterable[str]) -> list[str]:
    """The words that are tokens of a tokenizer, in order.

    >>> whole_words(["\u2581rain", "ing", "dog</w>", "\u2581,"])
    ['dog', 'rain']
    """
    whole = set()
    for piece in vocabulary:
        if piece.startswith(("\u2581", "\u0120")):  # marks of a word's start
            whole.add(piece[1:])
        elif piece.endswith("</w>"):
            whole.add(piece[:-4])
    return sorted(word for word in whole if word.isalpha())


class Call(Protocol):
    """One evaluation of a network under classifier-free guidance.

    `rows` [n] tells which samples of the batch are meant; None: all of them.
    """

    @property
    def batch(self) -> int:
        """How many samples there are."""

    @property
    def noise(self) -> NoiseLevel[Any]:
        """The level of the input: plain numbers, or [b] where each sample has its own."""

    @property
    def progress(self) -> float:
        """The share of the schedule that is done, in [0, 1)."""

    @property
    def kind(self) -> Prediction:
        """What the network predicts."""

    @property
    def guided(self) -> bool:
        """Whether the generation has an unconditional half."""

    @property
    def may_spare(self) -> bool:
        """Whether the engine can leave one half out."""

    @property
    def x(self) -> Tensor:
        """What the network is fed, [b, *latent], in float32."""

    def prompt(self) -> EncodedPrompt:
        """The prompt that the network is fed."""

    def combine(
        self, predictions: Predictions, scale: Tensor | float, rows: Tensor | None = None
    ) -> Tensor:
        """The engine's own guidance, of both halves of these rows: plain, or with all that the
        engine adds to it, which may look at `x` and `noise`, such as adaptive projected guidance.
        `scale` is a number, or one for each row, [n, 1, ...]."""

    def again(
        self, x: Tensor, condition: Condition | Sequence[str] | Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """The network's prediction for another input: see `anechoic.guidance.step.Denoise`."""

    def decode(self, x0: Tensor, rows: Tensor | None = None) -> Tensor:
        """Latents to sound or images: see `anechoic.guidance.step.Decode`."""

    def move(self, x: Tensor, rows: Tensor | None = None) -> None:
        """Have the sampler make its next step from here, in place of `x`. An engine that cannot
        raises `GuardError`."""


class OwnCall(Call, Protocol):
    """A call that a guard evaluates by itself, where the engine does not do it in between."""

    def under(self, encoded: Tensor) -> OwnCall:
        """The same call with another encoded prompt [b, s, d]."""

    def evaluate(self, needs: Needs) -> Predictions:
        """Call the network for the halves that are needed."""


@dataclass
class CallRows:
    """Some samples of a call, all at one noise level."""

    call: Call
    rows: Tensor  # [n]

    def __post_init__(self) -> None:
        self.batch = len(self.rows)
        self.noise = self.call.noise.of(self.rows)
        self.progress, self.kind = self.call.progress, self.call.kind
        self.guided, self.may_spare = self.call.guided, self.call.may_spare

    @cached_property
    def x(self) -> Tensor:
        return self.call.x[self.rows]

    def prompt(self) -> EncodedPrompt:
        whole, rows = self.call.prompt(), self.rows.tolist()
        return EncodedPrompt(
            encoded=whole.encoded[self.rows],
            mask=whole.mask[self.rows],
            texts=whole.texts and [whole.texts[row] for row in rows],
            encode=lambda texts, among: whole.encode(texts, [rows[i] for i in among]),
            words=whole.words,
            any_length=whole.any_length,
        )

    def combine(
        self, predictions: Predictions, scale: Tensor | float, rows: Tensor | None = None
    ) -> Tensor:
        return self.call.combine(predictions, scale, self._among(rows))

    def again(
        self, x: Tensor, condition: Condition | Sequence[str] | Tensor, rows: Tensor | None = None
    ) -> Tensor:
        return self.call.again(x, condition, self._among(rows))

    def decode(self, x0: Tensor, rows: Tensor | None = None) -> Tensor:
        return self.call.decode(x0, self._among(rows))

    def move(self, x: Tensor, rows: Tensor | None = None) -> None:
        self.call.move(x, self._among(rows))

    def _among(self, rows: Tensor | None) -> Tensor:
        return self.rows if rows is None else self.rows[rows.cpu()]
