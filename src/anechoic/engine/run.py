"""One generation under a guidance: needs, step, answer, combination, record.

An engine calls a `Run` at each evaluation of its network and puts what it returns in the place of
the network's own prediction. `Run.__call__` is the whole of it. An engine that evaluates the
network by itself, between two hooks, calls the three parts one after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from hashlib import sha256

import torch
from torch import Tensor
from torch.nn.functional import pad

from anechoic.engine.call import Call, CallRows, OwnCall, Predictions
from anechoic.engine.model import Model, require_guardable
from anechoic.engine.trace import Trace
from anechoic.engine.wrapping import Block
from anechoic.errors import GuardError
from anechoic.guidance.base import Guidance, as_guidance
from anechoic.guidance.similarity import INFERENCE_MODE
from anechoic.guidance.step import (
    Condition,
    Denoise,
    Guided,
    Needs,
    Prompt,
    Record,
    Step,
    checked,
    classifier_free,
)

_NOT_NOTED = {torch.bool: False, torch.long: -1}  # of other types: NaN


@dataclass
class GuardedModel:
    """A model under a guidance."""

    model: Model
    guidance: Guidance
    block: Block
    trace: Trace = field(default_factory=Trace)

    def begin(self, guided: bool = True) -> Run:
        """Start a generation.

        Args:
            guided: whether it has an unconditional half.

        Raises:
            GuardError: it has none, and the guidance cannot do without.
        """
        if not guided and self.guidance.requires_uncond():
            raise GuardError(
                "this generation has no unconditional half, for guidance_scale <= 1 or a model "
                f"that is distilled, and {self.guidance.label()} acts through it; "
                f"{self.model.guided_by}, or guard a distilled model with 'auto', which needs "
                "no such half"
            )
        if torch.is_inference_mode_enabled() and self.guidance.gradient_reach() != "none":
            raise GuardError(INFERENCE_MODE)
        self.trace.runs.append([])
        return Run(self.guidance, self.trace.runs[-1], self.model.sample_rate)

    def check_runs(self) -> None:
        """Check every generation of a block that ends.

        Raises:
            GuardError: nothing was generated; a generation has no guarded evaluation, or the
                guidance cannot have acted in it.
        """
        runs = self.trace.runs
        if not runs:
            raise GuardError(
                "nothing was generated inside this guard, so nothing was protected; generate "
                "inside the 'with' block"
            )
        for number, records in enumerate(runs, 1):
            reason = self._idle(records) if records else "its network was never evaluated"
            if reason:
                raise GuardError(
                    f"generation {number} of {len(runs)} in this guard was not protected by "
                    f"{self.guidance.label()}: {reason}"
                )

    def _idle(self, records: Sequence[Record]) -> str | None:
        if not isinstance(records[0].noise.alpha, Tensor):
            return self.guidance.idle(records)
        rows = torch.arange(len(records[0].scale)).split(1)  # each at a level of its own
        reasons = (self.guidance.idle([record.of(row) for record in records]) for row in rows)
        return next((reason for reason in reasons if reason), None)


@contextmanager
def guarding(
    model: Model, guidance: Guidance | Callable[[Step], Guided | Tensor]
) -> Iterator[GuardedModel]:
    """A block in which a model is guarded: its engine calls `begin` at each generation.

    The guard reaches what `GuardedModel.block` reaches: this thread, or asyncio task.

    Raises:
        BadSetting, IndexMismatch, UnsupportedPipeline: the guidance cannot act on this model.
        GuardError: the model is guarded already; at the end, nothing was generated.
    """
    method = as_guidance(guidance)
    require_guardable(model, method)
    guarded = GuardedModel(model, method, Block(model.owner, model.network))
    with guarded.block:
        with model.frozen():
            yield guarded
        guarded.check_runs()


@dataclass
class Run:
    """A generation that is running."""

    guidance: Guidance
    records: list[Record]  # of its evaluations
    sample_rate: int  # of its sound, in Hz; 0 of images
    _seeds: tuple[int, ...] = ()
    _first: Tensor | None = None  # the encoded prompt of the first evaluation
    # what the guidance remembers for its next step
    _memory: Mapping[str, Tensor] = field(default_factory=dict)
    _extra: int = 0  # samples that went through the network besides the two halves

    def __call__(self, call: OwnCall) -> Tensor:
        """The guided prediction of one evaluation, [b, *latent].

        Raises:
            GuardError: it cannot be made, or is not finite.
        """
        if self.guidance.changes_prompt:
            call = call.under(self.change_prompt(call))
        return self.guide(call, call.evaluate(self.needs(call)))

    def needs(self, call: Call) -> Needs:
        """The halves that the guidance looks at; the other one can be left out."""
        if not call.guided:
            return "cond"
        if not call.may_spare:
            return "both"
        if not isinstance(call.noise.alpha, Tensor):
            return self.guidance.needs(call)
        answers = {self.guidance.needs(CallRows(call, rows)) for rows in call.noise.groups()}
        return answers.pop() if len(answers) == 1 else "both"

    # ---------------------------------------------------------------------------- the prompt

    def change_prompt(self, call: Call) -> Tensor:
        """The encoded prompt as the guidance wants it, [b, s, d].

        Raises:
            GuardError: it does not fit, or is not finite.
        """
        if not self._seeds:
            self._seeds = tuple(_seed(sample) for sample in call.x)
        if isinstance(call.noise.alpha, Tensor):
            changed = _in_order(
                [(rows, self._changed(CallRows(call, rows), rows)) for rows in call.noise.groups()]
            )
        else:
            changed = self._changed(call, None)
        if self._first is None:
            self._first = changed
        return changed

    def _changed(self, call: Call, rows: Tensor | None) -> Tensor:
        given, first, seeds = call.prompt(), self._first, self._seeds
        memory = self._memory
        if rows is not None:
            memory = {name: value[rows] for name, value in memory.items()}
            first, seeds = first if first is None else first[rows], tuple(seeds[i] for i in rows)
        prompt = Prompt(
            encoded=given.encoded.float(),
            mask=given.mask,
            texts=given.texts,
            x=call.x,
            noise=call.noise,
            progress=call.progress,
            seeds=seeds,
            first=first,
            encode=lambda texts: given.encode(texts, range(len(texts))),
            words=given.words,
            denoise=partial(self._denoise, call),
            memory=memory,
        )
        changed = self.guidance.condition(prompt)
        if not given.fits(changed) or not torch.isfinite(changed).all():
            raise GuardError(
                f"the guidance was to change an encoded prompt {tuple(given.encoded.shape)} and "
                f"gave {tuple(changed.shape)}, or values that are not finite; lower its strength"
            )
        return changed

    # ------------------------------------------------------------------------ the prediction

    def guide(self, call: Call, predictions: Predictions) -> Tensor:
        """The guided prediction [b, *latent]; what was done is recorded.

        Samples at one noise level are guided together. Where an engine gives each its own level,
        the guidance is called once for each level.

        Args:
            call: the evaluation.
            predictions: the network's, of the halves that were computed.

        Raises:
            GuardError: it cannot be made, or is not finite.
        """
        if not isinstance(call.noise.alpha, Tensor):
            history, before = tuple(self.records), self._memory
            guided, record, self._memory = self._guide(call, predictions, history, before)
            self.records.append(record)
            return guided
        parts, records, memories = [], [], []
        for rows in call.noise.groups():
            history = tuple(record.of(rows) for record in self.records)
            some: Predictions = {half: value[rows] for half, value in predictions.items()}
            before = {name: value[rows] for name, value in self._memory.items()}
            guided, record, after = self._guide(CallRows(call, rows), some, history, before)
            parts.append((rows, guided))
            records.append((rows, record))
            memories.append((rows, after))
        self.records.append(replace(_joined(records), noise=call.noise))
        self._memory = _joined_memory(memories)
        return _in_order(parts)

    def _guide(
        self,
        call: Call,
        predictions: Predictions,
        history: Sequence[Record],
        before: Mapping[str, Tensor],
    ) -> tuple[Tensor, Record, Mapping[str, Tensor]]:
        denoise = partial(self._denoise, call)
        step = lazy_step(call, predictions, history, denoise, self.sample_rate, before)
        answer = checked(self.guidance(step), step)
        guided = _combined(answer, step, call, predictions)
        if isinstance(answer, Guided) and answer.x is not None:
            call.move(answer.x)
        if not _finite(guided):
            if not all(_finite(prediction) for prediction in predictions.values()):
                raise GuardError(
                    "the network returned NaN or infinity, so there is nothing sound to guide; "
                    "check the weights and the latents, and run in fp32 or bf16 rather than fp16"
                )
            raise GuardError(
                f"the guidance returned NaN or infinity at log-SNR {call.noise.log_snr:.2f}; lower "
                "its strength"
            )
        passes = len(predictions) + self._extra / call.batch
        self._extra = 0
        after = {} if isinstance(answer, Tensor) else answer.memory
        return guided, _record(answer, step, passes, call.guided), after

    def _denoise(
        self,
        call: Call,
        x: Tensor,
        condition: Condition | Sequence[str] | Tensor,
        rows: Tensor | None = None,
    ) -> Tensor:
        """`Step.denoise`."""
        self._extra += len(x)
        return call.noise.to_x0(x, call.again(x, condition, rows).float(), call.kind)


class LazyStep(Step):
    """A step whose latents and estimates are computed when they are first looked at.

    Most methods choose a scale and see no estimate, and beside a small network each operation on
    latents costs a thousandth of an evaluation.
    """

    _call: Call
    _predictions: Predictions

    @cached_property
    def x(self) -> Tensor:
        return self._call.x

    @cached_property
    def cond(self) -> Tensor:
        return self._estimate("cond")

    @cached_property
    def uncond(self) -> Tensor:
        return self._estimate("uncond")

    def _estimate(self, half: Condition) -> Tensor:
        if half not in self._predictions:  # what is made of NaN cannot pass for guidance
            return torch.full_like(self.x, torch.nan)
        return self.noise.to_x0(self.x, self._predictions[half].float(), self._call.kind)


def lazy_step(
    call: Call,
    predictions: Predictions,
    history: Sequence[Record],
    denoise: Denoise,
    sample_rate: int,
    memory: Mapping[str, Tensor] | None = None,
) -> Step:
    """An evaluation as a guidance sees it.

    Args:
        call: the evaluation, all of whose samples are at one noise level.
        predictions: the network's, of the halves that were computed.
        history: the records of earlier evaluations.
        denoise: see `Step`.
        sample_rate: see `Step`.
        memory: see `Step`.
    """
    step = LazyStep.__new__(LazyStep)
    vars(step).update(
        batch=call.batch,
        noise=call.noise,
        progress=call.progress,
        history=history,
        distance=_distance(call, list(predictions.values())),
        denoise=denoise,
        decode=call.decode,
        sample_rate=sample_rate,
        memory=memory or {},
        texts=lambda: call.prompt().texts,
        _call=call,
        _predictions=predictions,
    )
    return step


def _distance(call: Call, predictions: Sequence[Tensor]) -> Tensor:
    """d_t, [b], of the predictions themselves; NaN where there is one alone."""
    if len(predictions) == 1:
        return torch.full((call.batch,), torch.nan, device=predictions[0].device)
    one, other = predictions
    difference = one.float() - other.float()
    of_each = tuple(range(1, difference.dim()))
    norm: Tensor = torch.linalg.vector_norm(difference, dim=of_each)
    return norm * call.noise.eps_gain(call.kind)


def _combined(answer: Guided | Tensor, step: Step, call: Call, predictions: Predictions) -> Tensor:
    """The guided prediction that an answer stands for, in the network's own space and format.

    Raises:
        GuardError: the answer cannot be made of the half that the guidance asked for.
    """
    guided = next(iter(predictions.values()))
    if len(predictions) == 1 and call.guided:
        _check_alone(answer, next(iter(predictions)), call.batch)
    if isinstance(answer, Tensor):
        return step.noise.from_x0(step.x, answer, call.kind).to(guided.dtype)
    if len(predictions) == 2:
        scale = _common(answer.scale)
        if isinstance(scale, Tensor):  # by way of float32, the format of a step
            scale = scale.to(guided.device, torch.float32).expand(call.batch).to(guided.dtype)
            scale = scale.reshape(-1, *[1] * (guided.dim() - 1))
        guided = call.combine(predictions, scale)
        if answer.exact is not None:
            plain = classifier_free(predictions["uncond"], predictions["cond"], scale)
            rows = answer.exact.to(guided.device).reshape(-1, *[1] * (guided.dim() - 1))
            guided = torch.where(rows, plain, guided)
    if answer.x is not None:  # the estimate stays, and belongs to other latents
        x0 = step.noise.to_x0(step.x, guided.float(), call.kind)
        x0 = x0 if answer.delta is None else x0 + answer.delta
        return step.noise.from_x0(answer.x, x0, call.kind).to(guided.dtype)
    if answer.delta is None:
        return guided
    return (guided.float() + step.noise.x0_step(answer.delta, call.kind)).to(guided.dtype)


def _common(scale: Tensor | float) -> Tensor | float:
    """One number where all samples have the same scale: the engine multiplies by a number, too,
    and in half precision that is not the same as by a tensor."""
    if not isinstance(scale, Tensor):
        return scale
    numbers = set(scale.flatten().tolist())
    return numbers.pop() if len(numbers) == 1 else scale.flatten()


def _check_alone(answer: Guided | Tensor, half: Condition, batch: int) -> None:
    """Refuse an answer that cannot be made of the half that its guidance asked for.

    Raises:
        GuardError: it is such an answer.
    """
    weight = 1.0 if half == "cond" else 0.0
    if not isinstance(answer, Guided) or bool((answer.scales(batch) != weight).any()):
        raise GuardError(
            f"the guidance said that it needs the half '{half}' alone, which is a scale of "
            f"{weight:g}, and answered otherwise; let its 'needs' say 'both'"
        )


def _record(answer: Guided | Tensor, step: Step, passes: float, guided: bool) -> Record:
    """What is remembered of an evaluation; `guided`: it has an unconditional half."""
    plain = Guided(float("nan")) if isinstance(answer, Tensor) else answer
    batch = step.batch
    return Record(
        progress=step.progress,
        noise=step.noise,
        distance=_on_cpu(step.distance),
        scale=_on_cpu(plain.scales(batch, torch.float32)) if guided else torch.ones(batch),
        passes=passes,
        notes={name: _on_cpu(value) for name, value in plain.notes.items()},
    )


def _on_cpu(value: Tensor) -> Tensor:
    """Without a gradient, on the CPU; most values are both already."""
    return value.detach().cpu() if value.requires_grad or not value.is_cpu else value


def _joined(records: Sequence[tuple[Tensor, Record]]) -> Record:
    """The record of a batch, from those of its rows; what one of them does not note is NaN."""
    total = sum(len(rows) for rows, _ in records)
    samples = {name: value for _, record in records for name, value in record.notes.items()}

    def note(name: str, record: Record) -> Tensor:
        like = samples[name]
        missing = like.new_full(record.scale.shape, _NOT_NOTED.get(like.dtype, math.nan))
        return record.notes.get(name, missing)

    return replace(
        records[0][1],
        distance=_in_order([(rows, record.distance) for rows, record in records]),
        scale=_in_order([(rows, record.scale) for rows, record in records]),
        passes=sum(record.passes * len(rows) for rows, record in records) / total,
        notes={
            name: _in_order([(rows, note(name, record)) for rows, record in records])
            for name in samples
        },
    )


def _joined_memory(
    parts: Sequence[tuple[Tensor, Mapping[str, Tensor]]],
) -> Mapping[str, Tensor]:
    """The memory of a batch, from that of its rows; zero for rows that have none of a name."""
    like = {name: value for _, memory in parts for name, value in memory.items()}

    def of(name: str, rows: Tensor, memory: Mapping[str, Tensor]) -> Tensor:
        zeros = like[name].new_zeros((len(rows), *like[name].shape[1:]))
        return memory.get(name, zeros)

    return {
        name: _in_order([(rows, of(name, rows, memory)) for rows, memory in parts]) for name in like
    }


def _in_order(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Values of some rows each, as those of the whole batch; shorter prompts end in zeros."""
    values = [value for _, value in parts]
    if values[0].dim() == 3:
        length = max(value.shape[1] for value in values)
        values = [pad(value, (0, 0, 0, length - value.shape[1])) for value in values]
    return torch.cat(values)[torch.cat([rows for rows, _ in parts]).argsort()]


def _finite(values: Tensor) -> bool:
    """Whether all are finite: NaN and infinity stay in a sum. A tenth of `isfinite().all()`."""
    return math.isfinite(values.sum(dtype=torch.float32).item())


def _seed(sample: Tensor) -> int:
    """A number drawn from the latents that a sample started from."""
    return int.from_bytes(sha256(sample.cpu().numpy().tobytes()).digest()[:7])
