"""What differs between pipelines, as data: the columns of the table."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

from torch import Tensor

from anechoic.guidance.step import Condition, classifier_free

# In which order a pipeline has its network evaluate the halves of classifier-free guidance: in one
# batch, or in two calls. Halves that are taken for each other run without an error.
Halves = Literal["uncond, cond", "cond, uncond", "cond, then uncond"]


@dataclass(frozen=True)
class Text:
    """An argument of the network that is made of the prompt's words: tokens, or a pooled one."""

    name: str  # dotted where it stands in a dictionary
    mask: str | None = None  # the argument that marks the tokens that are there
    padded: bool = False  # what the mask hides leaves no trace, as it does behind a convolution
    tail: int = 0  # tokens at its end that are no text, such as durations
    repeated: bool = False  # the unconditional half is one token, repeated to any length

    @property
    def any_length(self) -> bool:
        """Whether another text may have another number of tokens."""
        return self.mask is not None or self.repeated


@dataclass
class CallRecorder:
    """The calls of a pipeline's methods in the generation that is running."""

    pipe: Any
    originals: Mapping[str, Callable[..., Any]]  # the pipeline's own methods, by name
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)  # their first arguments, by name
    cache: dict[str, Any] = field(default_factory=dict)  # what an adapter makes once a generation

    def call_again(self, name: str, reuse: Sequence[str] = (), **arguments: Any) -> Any:
        """Call a method of the pipeline once more, with some of the arguments it had."""
        reused = {key: self.calls[name][key] for key in reuse}
        return self.originals[name](**reused, **arguments)


class Combine(Protocol):
    """The pipeline's own guidance, from predictions; made anew for each generation."""

    def __call__(self, uncond: Tensor, cond: Tensor, scale: Tensor | float) -> Tensor:
        """The guided prediction; `scale` is a number, or one for each sample, [b, 1, ...]."""
        ...


@dataclass(frozen=True)
class SoundSpec:
    """How long a pipeline's sound is."""

    sample_rate: Callable[[Any], int]  # in Hz
    seconds: str  # the pipeline's argument for its length
    longest_s: Callable[[Any], float]
    # sound [b, c, t] of the longest length to latents as the network makes them; None: their length
    # is that of the sound that is asked for
    encode: Callable[[Any, Tensor], Tensor] | None = None
    named: bool = False  # whether its longest is asked for, where the call names no length


@dataclass(frozen=True)
class Adapter:
    """How one pipeline calls its network, encodes its prompts and decodes its latents."""

    network: str  # the component
    x: str  # the network's argument for its input
    halves: Halves
    text: tuple[Text, ...]  # arguments made of the prompt's words; of any length: the last
    rows: tuple[str, ...]  # other arguments with one row for each sample of each half
    shared: tuple[str, ...]  # other tensors, that are the same for all
    # the text arguments of captions, each with its place among the prompts
    encode: Callable[[CallRecorder, Sequence[str], Sequence[int]], Mapping[str, Tensor]]
    # latents to sound [b, c, t], or images [b, 3, h, w]
    decode: Callable[[CallRecorder, Tensor], Tensor]
    # whether a generation has an unconditional half
    guided: Callable[[CallRecorder], bool] = lambda recorder: guided_by_prompt(recorder)
    sound: SoundSpec | None = None  # None: it makes images
    distilled: Callable[[Any], bool] = lambda pipe: False  # made to be run without both halves
    steps: Callable[[Any], int] = lambda pipe: 50  # of the sampler, where its call names no default
    refusal: Callable[[CallRecorder], str | None] = lambda recorder: None  # why not
    combine: Callable[[], Combine] = lambda: classifier_free
    # of two calls: what the second will be given, from what the first is
    unconditional: Callable[[CallRecorder, dict[str, Any]], dict[str, Any]] | None = None
    records: tuple[str, ...] = ()  # more of the pipeline's methods and modules whose calls count
    tokenizer: str = "tokenizer"

    @cached_property
    def in_rows(self) -> tuple[str, ...]:
        """All arguments that may have one row for each sample of each half."""
        masks = [text.mask for text in self.text if text.mask]
        return (self.x, *(text.name for text in self.text), *masks, *self.rows)

    @cached_property
    def order(self) -> tuple[Condition, Condition]:
        """In which the halves are evaluated."""
        return ("uncond", "cond") if self.halves == "uncond, cond" else ("cond", "uncond")

    @cached_property
    def tensors(self) -> frozenset[str]:
        """All tensors that the network may be given."""
        return frozenset({*self.in_rows, *self.shared})


def as_image(decoded: Tensor) -> Tensor:
    """What a decoder gives, in (-1, 1) or so, as an image in [0, 1], as pipelines make it."""
    return (decoded.float() / 2 + 0.5).clamp(0, 1)


def guided_by_prompt(recorder: CallRecorder) -> bool:
    """Whether the pipeline encodes an unconditional prompt, too."""
    return bool(recorder.calls["encode_prompt"]["do_classifier_free_guidance"])


def guided_by_pipeline(recorder: CallRecorder) -> bool:
    """Whether the pipeline says that it computes both halves."""
    return bool(recorder.pipe.do_classifier_free_guidance)


def of_row(value: Any, row: int) -> Any:
    """What holds for one prompt: an argument may be given once for all, or as a list."""
    return value[row] if isinstance(value, list) else value


def by_name(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by their names, with defaults."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)
