"""What happens around each evaluation of a guarded network."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from anechoic.diffusers import prompts
from anechoic.diffusers.adapters.adapter import Combine, classifier_free
from anechoic.diffusers.cfg_batch import (
    DenoiserInputs,
    check_known,
    halved,
    join,
    level,
    only,
    parted,
    put,
    split,
)
from anechoic.diffusers.combine import check_alone, combined, recorded
from anechoic.diffusers.connection import Connection
from anechoic.diffusers.evaluation import Evaluation
from anechoic.diffusers.schedules import Schedule
from anechoic.errors import GuardError
from anechoic.guidance.base import Guidance
from anechoic.guidance.step import Condition, Needs, Prompt, Record


@dataclass
class Run:
    """The generation that is running."""

    schedule: Schedule
    combine: Combine
    texts: list[str] | None  # None: the pipeline was given encoded prompts
    guided: bool  # whether it has an unconditional half
    seeds: tuple[int, ...] = ()
    first: Tensor | None = None  # the encoded prompt its first evaluation was given
    rows: int = 0  # that went through the network besides the two halves
    waiting: tuple[DenoiserInputs, Tensor] | None = (
        None  # a conditional call whose other has yet to come
    )
    called: tuple[Evaluation, Needs] | None = None  # what the network is being called with


@dataclass
class Hooks:
    """What is called before and after the network."""

    connection: Connection
    guidance: Guidance
    runs: list[list[Record]]
    run: Run = field(init=False)  # since `begin`

    def __post_init__(self) -> None:
        self.changes_prompt = self.guidance.changes_prompt  # asked once a guard

    def begin(self, texts: list[str] | None, guided: bool) -> None:
        """A generation starts.

        Raises:
            GuardError: it has no unconditional half, and the guidance cannot do without.
        """
        if not guided and self.guidance.requires_uncond():
            raise GuardError(
                "this generation has no unconditional half, for guidance_scale <= 1 or a model "
                f"that is distilled, and {self.guidance.label()} acts through it; call the "
                "pipeline with guidance_scale=7.0 (any value above 1: inside the guard the "
                "guidance owns the scale), or for a distilled model guard with the dissimilarity "
                "of AntiMemorization(c1=0, c2=0) alone"
            )
        self.runs.append([])
        schedule = Schedule(self.connection.pipe.scheduler)
        self.run = Run(schedule, self.connection.adapter.combine(), texts, guided)

    # ------------------------------------------------------------------------------- the hooks

    def before(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The forward pre-hook: what cannot be guarded is refused, and the prompt becomes what
        the guidance wants."""
        arguments = self.connection.arguments(args, kwargs)
        self._check(arguments)
        run = self.run
        batched = run.guided and self.connection.adapter.halves != "cond, then uncond"
        changed = self.changes_prompt and run.waiting is None  # else: the second of two calls
        if changed:
            arguments = self._under_changed_prompt(arguments, batched)
        if batched:
            now = self._evaluation(None, arguments)
            half = self._needed(now)
            run.called = now, half
            if half != "both":
                assert now.uncond is not None  # a batched call has both
                return (), now.cond if half == "cond" else now.uncond
        return ((), arguments) if changed else None

    def _under_changed_prompt(self, arguments: DenoiserInputs, batched: bool) -> DenoiserInputs:
        """A call with the prompt that the guidance wants."""
        adapter = self.connection.adapter
        now = self._evaluation(None if batched else arguments, arguments)
        changed = self._changed(now)
        own = prompts.pieces(adapter, now.cond)
        cond = prompts.replaced(adapter, now.cond, prompts.unpack(changed, own))
        if not batched:
            return cond
        assert now.uncond is not None
        uncond, cond = level(adapter, now.uncond, cond)
        halves = {"cond": cond, "uncond": uncond}
        return join(adapter, [halves[name] for name in adapter.order], arguments)

    def _needed(self, now: Evaluation) -> Needs:
        """The halves of a batched call that the guidance needs.

        A compiled network would be compiled anew for the smaller batch, and a guidance of the
        pipeline's own that remembers earlier halves has to see them all: there both are computed.
        """
        if self.connection.compiled or self.run.combine is not classifier_free:
            return "both"
        return self.guidance.needs(now)

    def after(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """The forward hook: the halves' predictions to guided ones.

        The pipeline computes u + w*(c - u), or the like, of what it is given; given g for both, it
        gets g + w*(g - g) = g, for any w.
        """
        run, prediction = self.run, self.connection.kept(output[0])
        if run.called is not None:
            (now, half), run.called = run.called, None
            order = self.connection.adapter.order if half == "both" else (half,)
            guided = self._guide(now, dict(zip(order, prediction.chunk(len(order)), strict=True)))
            return _with(output, torch.cat([guided, guided]))
        arguments = self.connection.arguments(args, kwargs)
        if not run.guided:
            now = self._evaluation(arguments, arguments)
            return _with(output, self._guide(now, {"cond": prediction}))
        if run.waiting is None:  # the first of two calls
            run.waiting = arguments, prediction.clone()
            return _with(output, run.waiting[1])
        (conditional, first), run.waiting = run.waiting, None
        now = self._evaluation(conditional, conditional, arguments)
        guided = self._guide(now, {"cond": first.clone(), "uncond": prediction})
        first.copy_(guided)  # which the pipeline holds as its conditional prediction
        return _with(output, guided)

    # ------------------------------------------------------------------------- one evaluation

    def _check(self, arguments: DenoiserInputs) -> None:
        """Refuse a call of the network that cannot be guarded.

        Raises:
            GuardError: it is such a call.
        """
        check_known(self.connection.adapter, arguments)
        if not self.runs:
            raise GuardError(
                "the guarded network was called outside its pipeline's own loop; call the pipeline"
            )
        if arguments.get("skip_layers") is not None:
            raise GuardError(
                "skip_guidance_layers adds an evaluation to the guidance that a guard does not "
                "see; call the pipeline without it"
            )

    def _evaluation(
        self,
        cond: DenoiserInputs | None,
        arguments: DenoiserInputs,
        uncond: DenoiserInputs | None = None,
    ) -> Evaluation:
        """Of the arguments of one half, or of both, or of a call with both in one batch."""
        adapter, schedule = self.connection.adapter, self.run.schedule
        x = arguments[adapter.x]
        return Evaluation(
            halved(len(x)) if cond is None else len(x),
            schedule.noise(arguments["timestep"]),
            schedule.progress(len(self.runs[-1])),
            (lambda: parted(adapter, x)[0]) if cond is None else lambda: cond[adapter.x],
            partial(split, adapter, arguments) if cond is None else lambda: (cond, uncond),
        )

    def _each(self, now: Evaluation) -> int:
        """Samples of one prompt."""
        return now.batch // len(self.run.texts) if self.run.texts else 1

    def _changed(self, now: Evaluation) -> Tensor:
        """The encoded prompt as the guidance wants it, [b, s, d]."""
        adapter, run, each = self.connection.adapter, self.run, self._each(now)
        encoded = prompts.pack(prompts.pieces(adapter, now.cond))
        if not run.seeds:
            run.seeds = tuple(_seed(sample) for sample in now.x)
        prompt = Prompt(
            encoded=encoded.float(),
            mask=(encoded != 0).any(-1),
            texts=[text for text in run.texts for _ in range(each)] if run.texts else None,
            x=now.x,
            noise=now.noise,
            progress=now.progress,
            seeds=run.seeds,
            first=run.first,
            encode=partial(self.connection.encode_prompts, each=each),
            words=self.connection.words,
            denoise=partial(self._denoise, now),
        )
        changed = self.guidance.condition(prompt)
        if not prompts.fits(adapter, changed, encoded) or not torch.isfinite(changed).all():
            raise GuardError(
                f"the guidance was to change an encoded prompt {tuple(encoded.shape)} and gave "
                f"{tuple(changed.shape)}, or values that are not finite; lower its strength"
            )
        if run.first is None:
            run.first = changed
        return changed

    def _guide(self, now: Evaluation, predictions: dict[Condition, Tensor]) -> Tensor:
        """The guided prediction [b, *latent]; it is recorded.

        Args:
            now: the evaluation.
            predictions: the network's, of the halves that were computed.

        Raises:
            GuardError: it cannot be made, or is not finite.
        """
        kind = self.run.schedule.kind
        cond, uncond = predictions.get("cond"), predictions.get("uncond")
        step = now.step(
            predictions,
            kind,
            history=tuple(self.runs[-1]),
            denoise=partial(self._denoise, now),
            decode=self.connection.decode,
            sample_rate=self.connection.sample_rate,
        )
        answer = self.guidance(step)
        if self.run.guided and (cond is None or uncond is None):
            check_alone(answer, "uncond" if cond is None else "cond", now.batch)
        guided = combined(answer, step, uncond, cond, kind, self.run.combine)
        if not _finite(guided):
            if not all(_finite(prediction) for prediction in predictions.values()):
                raise GuardError(
                    "the network returned NaN or infinity, so there is nothing sound to guide; "
                    "check the weights and the latents, and run in fp32 or bf16 rather than fp16"
                )
            raise GuardError(
                f"the guidance returned NaN or infinity at log-SNR {now.noise.log_snr:.2f}; lower "
                "its strength"
            )
        passes = len(predictions) + self.run.rows / now.batch
        self.runs[-1].append(recorded(answer, step, passes, self.run.guided))
        self.run.rows = 0
        return guided

    def _denoise(
        self,
        now: Evaluation,
        x: Tensor,
        condition: Condition | Sequence[str] | Tensor,
        rows: Tensor | None = None,
    ) -> Tensor:
        """`Step.denoise`."""
        adapter = self.connection.adapter
        among = list(range(now.batch)) if rows is None else rows.tolist()
        if isinstance(condition, str) and condition == "uncond":
            return self._predicted(now, x, self._of(self._unconditional(now), among))
        half = self._of(now.cond, among)
        if isinstance(condition, Tensor):
            own = prompts.pieces(adapter, half)
            half = prompts.replaced(adapter, half, prompts.unpack(condition, own))
        elif not isinstance(condition, str):
            return self._under_captions(now, x, half, condition, among)
        return self._predicted(now, x, half)

    def _of(self, half: DenoiserInputs, rows: list[int]) -> DenoiserInputs:
        """Some samples of a half."""
        adapter = self.connection.adapter
        if len(rows) == len(half[adapter.x]):
            return half
        return join(adapter, [only(adapter, half, row) for row in rows], half)

    def _unconditional(self, now: Evaluation) -> DenoiserInputs:
        """The arguments of the unconditional half."""
        if now.uncond is None and self.run.guided:  # two calls, and this is before the second
            assert self.connection.adapter.unconditional is not None
            other = self.connection.adapter.unconditional(self.connection.heard, now.cond)
            now.halves = now.cond, other
        if now.uncond is None:
            raise GuardError(
                "the guidance asked for the unconditional half, and this generation has none, for "
                "guidance_scale <= 1 or a model that is distilled; use another method"
            )
        return now.uncond

    def _under_captions(
        self,
        now: Evaluation,
        x: Tensor,
        half: DenoiserInputs,
        captions: Sequence[str],
        rows: list[int],
    ) -> Tensor:
        """The x0 estimate under a caption for each sample; `half` and `x` are of these rows."""
        adapter, each = self.connection.adapter, self._each(now)
        encoded = self.connection.encode(captions, [row // each for row in rows])
        lengths = {tuple(part.shape[1] for part in parts) for parts in encoded}
        if len(lengths) == 1 or adapter.text[-1].padded:
            half = prompts.replaced(adapter, half, prompts.stacked(encoded))
            return self._predicted(now, x, half)
        estimates = []  # one by one: filled up, a shorter caption would not be what it is alone
        for sample, (one, parts) in enumerate(zip(x.split(1), encoded, strict=True)):
            alone = prompts.replaced(adapter, only(adapter, half, sample), parts)
            estimates.append(self._predicted(now, one, alone))
        return torch.cat(estimates)

    def _predicted(self, now: Evaluation, x: Tensor, half: DenoiserInputs) -> Tensor:
        adapter = self.connection.adapter
        self.run.rows += len(x)
        given = put(half, adapter.x, x.to(half[adapter.x].dtype))
        kind = self.run.schedule.kind
        return now.noise.to_x0(x, self.connection.predict(given).float(), kind)


def _with(output: Any, prediction: Tensor) -> Any:
    """The network's output with another prediction."""
    if isinstance(output, tuple):
        return (prediction, *output[1:])
    first = dataclasses.fields(output)[0].name
    return dataclasses.replace(output, **{first: prediction})


def _finite(values: Tensor) -> bool:
    """Whether all are finite: NaN and infinity stay in a sum. A tenth of `isfinite().all()`."""
    return math.isfinite(values.sum(dtype=torch.float32).item())


def _seed(sample: Tensor) -> int:
    """A number drawn from the latents that a sample started from."""
    return int.from_bytes(sha256(sample.cpu().numpy().tobytes()).digest()[:7])
