"""guard(): guidance for a stock pipeline, through a forward hook on its network.

The pipeline's network is called with both halves of classifier-free guidance, and the pipeline
then computes u + w*(c - u). The hook replaces both halves by the guided prediction g, which
turns that line into g + w*(g - g) = g, for any w.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from anechoic.errors import GuardError, IndexMismatch
from anechoic.hf.pipelines import Adapter, adapter_for, fingerprint
from anechoic.hf.schedules import check_scheduler, noise_level, prediction_kind, progress
from anechoic.noise import NoiseLevel, Prediction
from anechoic.step import Condition, Guided, Prompt, Record, Step
from anechoic.types import Conditioning, Guidance

_guarded: WeakSet[nn.Module] = WeakSet()


@dataclass
class Trace:
    """What a guard did: for each generation, one record an evaluation of the network."""

    runs: list[list[Record]] = field(default_factory=list)

    @property
    def records(self) -> list[Record]:
        """The records of the latest generation."""
        return self.runs[-1] if self.runs else []

    def column(self, name: str) -> Tensor:
        """One quantity of the latest generation over its evaluations, [n, b].

        `name` is "distance", "scale" or a note of the method, such as "similarity" or "gate".
        """
        return torch.stack(
            [getattr(r, name) if name in ("distance", "scale") else r.notes[name]
             for r in self.records]
        )  # fmt: skip


@contextmanager
def guard(pipe: Any, guidance: Guidance) -> Iterator[Trace]:
    """Guide every generation of `pipe` inside the `with` block.

    The pipeline stays what it is: nothing is subclassed or replaced, and it is as before when the
    block ends. Inside, the guidance owns the scale; call the pipeline with any
    `guidance_scale` above 1. With `ClassifierFree(scale)` the output is bit for bit that of
    the plain pipeline at that scale.

    Args:
        pipe: a diffusers pipeline from the table in `anechoic.hf.pipelines`.
        guidance: a method, or a function of a `Step`.

    Yields:
        A `Trace` that fills while the pipeline runs.

    Raises:
        UnsupportedPipeline: the pipeline or its scheduler is not one that can be guarded.
        IndexMismatch: the guidance's index is of another model's training set.
        GuardError: a guard inside a guard; a generation without classifier-free guidance; values
            that are not finite; a block in which nothing was generated.
    """
    adapter = adapter_for(pipe)
    check_scheduler(pipe.scheduler)
    _check_model(pipe, guidance)
    network = adapter.network
    if network in _guarded:
        raise GuardError(
            "this pipeline is guarded already, and a guard inside a guard would undo it; leave "
            "the outer 'with guard(...)' block first, or compose the two methods into one"
        )
    trace = Trace()
    hooks = _Hooks(pipe, adapter, guidance, trace)
    handles = [network.register_forward_hook(hooks.after, with_kwargs=True)]
    if isinstance(guidance, Conditioning):
        handles.append(network.register_forward_pre_hook(hooks.before, with_kwargs=True))
    _guarded.add(network)
    adapter.attach(hooks.begin)
    try:
        yield trace
        if not any(trace.runs):
            raise GuardError(
                "nothing was generated inside this guard, so nothing was protected; call the "
                "guarded pipeline inside the 'with' block"
            )
    finally:
        adapter.detach()
        _guarded.discard(network)
        for handle in handles:
            handle.remove()


def _check_model(pipe: Any, guidance: Guidance) -> None:
    model = getattr(getattr(guidance, "index", None), "model", None)
    if model and model != fingerprint(pipe):
        raise IndexMismatch(
            f"the index holds the training clips of model '{model}', but this pipeline's weights "
            f"are '{fingerprint(pipe)}': it would keep away from the wrong clips; use this model's "
            "own index"
        )


@dataclass
class _Hooks:
    """What is called around each evaluation of the network."""

    pipe: Any
    adapter: Adapter
    guidance: Guidance
    trace: Trace
    texts: list[str] | None = None  # of the running generation
    seeds: tuple[int, ...] = ()
    first: Tensor | None = None  # the encoded prompt its first evaluation was given
    rows: int = 0  # that went through the network besides the two halves

    def begin(self, texts: list[str] | None) -> None:
        """A generation starts."""
        self.trace.runs.append([])
        self.texts, self.seeds, self.first, self.rows = texts, (), None, 0

    def before(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The forward pre-hook: the prompt as the guidance wants it."""
        noise, x = self._look(args)
        encoded = self.adapter.encoded(kwargs)
        if not self.seeds:
            self.seeds = tuple(_seed(sample) for sample in x)
        each = len(x) // len(self.texts) if self.texts else 1
        prompt = Prompt(
            encoded=encoded.float(),
            mask=(encoded != 0).any(-1),
            texts=[text for text in self.texts for _ in range(each)] if self.texts else None,
            x=x,
            noise=noise,
            progress=progress(self.pipe.scheduler, args[1].flatten()[0]),
            seeds=self.seeds,
            first=self.first,
            encode=self.adapter.encode,
            words=self.adapter.words,
            denoise=partial(self._denoise, network, args[1], kwargs, noise),
        )
        changed = self.guidance.condition(prompt)  # type: ignore[attr-defined]  # a Conditioning
        if changed.shape != encoded.shape or not torch.isfinite(changed).all():
            raise GuardError(
                f"the guidance was to change an encoded prompt {tuple(encoded.shape)} and gave "
                f"{tuple(changed.shape)}, or values that are not finite; lower its strength"
            )
        if self.first is None:
            self.first = changed
        return args, self.adapter.replaced(kwargs, changed)

    def after(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> tuple[Tensor, ...]:
        """The forward hook: [uncond, cond] predictions to [guided, guided]."""
        noise, x = self._look(args)
        prediction = output[0]
        if not torch.isfinite(prediction).all():
            raise GuardError(
                "the network returned NaN or infinity, so there is nothing sound to guide; check "
                "the weights and the latents, and run in fp32 or bf16 rather than fp16"
            )
        kind = prediction_kind(self.pipe.scheduler)
        uncond, cond = prediction.chunk(2)
        step = Step(
            x=x,
            noise=noise,
            cond=noise.to_x0(x, cond.float(), kind),
            uncond=noise.to_x0(x, uncond.float(), kind),
            progress=progress(self.pipe.scheduler, args[1].flatten()[0]),
            history=tuple(self.trace.records),
            denoise=partial(self._denoise, network, args[1], kwargs, noise),
            decode=self.adapter.decode,
            sample_rate=self.adapter.sample_rate,
        )
        answer = self.guidance(step)
        guided = _combine(answer, step, uncond, cond, kind)
        if not torch.isfinite(guided).all():
            raise GuardError(
                f"the guidance returned NaN or infinity at log-SNR {noise.log_snr:.2f}; lower its "
                "strength"
            )
        self.trace.records.append(_record(step, answer, 2 + self.rows / len(x)))
        self.rows = 0
        return (torch.cat([guided, guided]), *output[1:])

    def _look(self, args: tuple[Any, ...]) -> tuple[NoiseLevel, Tensor]:
        """The noise level and the input of one half, [b, *latent]."""
        halves, timestep = args[0], args[1]
        if not self.trace.runs or len(halves) % 2:
            raise GuardError(
                "the guarded network was called outside its pipeline's own loop; call the pipeline"
            )
        return noise_level(self.pipe.scheduler, timestep.flatten()[0]), halves.chunk(2)[1].float()

    def _denoise(
        self,
        network: nn.Module,
        timestep: Tensor,
        kwargs: Mapping[str, Any],
        noise: NoiseLevel,
        x: Tensor,
        condition: Condition | Sequence[str] | Tensor,
    ) -> Tensor:
        """`Step.denoise`. `forward` is called as a method, which bypasses hooks, these too."""
        half = condition if isinstance(condition, str) else "cond"
        if not isinstance(condition, str):
            encoded = condition if isinstance(condition, Tensor) else self.adapter.encode(condition)
            kwargs = self.adapter.replaced(kwargs, encoded)
        own = self.adapter.condition(kwargs, half)
        self.rows += len(x)
        if timestep.dim() and len(timestep) > 1:
            timestep = timestep[: len(x)]
        prediction = network.forward(x.to(own["encoder_hidden_states"].dtype), timestep, **own)[0]
        return noise.to_x0(x, prediction.float(), prediction_kind(self.pipe.scheduler))


def _seed(sample: Tensor) -> int:
    """A number drawn from the latents that a sample started from."""
    return int.from_bytes(sha256(sample.cpu().numpy().tobytes()).digest()[:7])


def _combine(
    answer: Guided | Tensor, step: Step, uncond: Tensor, cond: Tensor, kind: Prediction
) -> Tensor:
    """The guided prediction, in the network's own space and number format."""
    if isinstance(answer, Tensor):
        return step.noise.from_x0(step.x, answer, kind).to(cond.dtype)
    scales = answer.scales(len(step.x))
    # the pipeline multiplies by a Python float: do the same where the samples agree
    scale: Tensor | float = (
        scales[0].item()
        if bool((scales == scales[0]).all())
        else step.per_sample(scales).to(cond.device, cond.dtype)
    )
    guided = uncond + scale * (cond - uncond)
    if answer.delta is None:
        return guided
    return (guided.float() + step.noise.x0_step(answer.delta, kind)).to(cond.dtype)


def _record(step: Step, answer: Guided | Tensor, passes: float) -> Record:
    plain = Guided(float("nan")) if isinstance(answer, Tensor) else answer
    return Record(
        progress=step.progress,
        noise=step.noise,
        distance=step.distance.detach().cpu(),
        scale=plain.scales(len(step.x)).float().cpu(),
        passes=passes,
        notes={name: value.detach().cpu() for name, value in plain.notes.items()},
    )
