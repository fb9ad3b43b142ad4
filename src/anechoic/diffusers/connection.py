"""A pipeline under a guard: what is heard of it, asked of it, and done around its network."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from anechoic.diffusers.adapters import Adapter, CallRecorder
from anechoic.diffusers.adapters.adapter import by_name
from anechoic.diffusers.denoiser_call import (
    DenoiserInputs,
    PipelineRun,
    check_known,
    encoded_pieces,
    pack,
)
from anechoic.diffusers.fingerprints import network_fingerprint
from anechoic.diffusers.schedules import Schedule, check_scheduler, moved_sample
from anechoic.engine.call import whole_words
from anechoic.engine.memory_efficient import Part, memory_efficient, saving_memory
from anechoic.engine.model import Makes, weights_fingerprint
from anechoic.engine.run import GuardedModel
from anechoic.engine.wrapping import (
    Block,
    Hook,
    Method,
    call_of,
    compiled_call,
    frozen,
    is_running,
    on_stack,
    refuse_rest,
    surround,
)
from anechoic.errors import GuardError

Begin = Callable[[list[str] | None, bool], None]


class Connection:
    """A pipeline that can be guarded, and its row of the table."""

    def __init__(self, pipe: Any, adapter: Adapter):
        self.pipe = pipe
        self.adapter = adapter
        self.network: nn.Module = getattr(pipe, adapter.network)
        self.sample_rate: int = adapter.sound.sample_rate(pipe) if adapter.sound else 0
        self.recorder = CallRecorder(pipe, {})
        self._encoded: dict[tuple[str, int], list[Tensor]] = {}
        self._batches: dict[tuple[tuple[str, ...], tuple[int, ...]], Tensor] = {}
        self._undo: list[Callable[[], None]] = []
        self._wrapped: list[Method] = []
        self.block = Block()  # the guard's
        self._originals: dict[str, Callable[..., Any]] = {}  # the pipeline's own methods, by name
        self._frame: FrameType | None = None  # of the pipeline's call that is being guarded
        self._other: FrameType | None = None  # of one that was there before the guard
        self._compiled = compiled_call(self.network)
        self.compiled = is_compiled(self.network)
        within = getattr(self.network, "_orig_mod", self.network)  # of torch.compile
        self._parameters = tuple(inspect.signature(type(within).forward).parameters)[1:]

    # ------------------------------------------------- what the engine asks: see `engine.model`

    @property
    def name(self) -> str:
        return type(self.pipe).__name__

    @property
    def owner(self) -> Any:
        return self.pipe

    @property
    def makes(self) -> Makes:
        return "images" if self.adapter.sound is None else "sound"

    guided_by = (
        "call the pipeline with guidance_scale=7.0 (any value above 1: inside the guard the "
        "guidance owns the scale)"
    )

    def fingerprint(self) -> str:
        """A short name of the network's weights and of the adapters in them, the same in every
        number format: it is made of the weights' signs, which casting keeps."""
        return network_fingerprint(self.network)

    def codec_fingerprint(self) -> str:
        """A short name of the codec's weights and settings; "": it has none."""
        codec = getattr(self.pipe, "vae", None)
        settings = {k: v for k, v in getattr(codec, "config", {}).items() if k[0] != "_"}
        known = repr(sorted(settings.items()))
        return "" if codec is None else weights_fingerprint(codec, known)

    def frozen(self) -> AbstractContextManager[None]:
        """No weight wants a gradient. A compiled part is left as it is, for it would be compiled
        anew."""
        return frozen(changeable(self.pipe))

    # ------------------------------------------------------------------------------ listening

    def attach(self, block: Block, begin: Begin) -> None:
        """Listen to the pipeline, where the block reaches. When it starts a generation, call
        `begin` with its prompts, or None where it is given encoded ones, and whether it has an
        unconditional half.

        Raises:
            GuardError: while generating, one that cannot be guarded, before its first step.
        """
        self.block = block
        names = ("check_inputs", "encode_prompt", *self.adapter.records)
        self._originals = {name: getattr(self.pipe, name) for name in names}
        for name, method in self._originals.items():
            if isinstance(method, nn.Module):
                hook = Hook(block, partial(self._module_called, name))
                self._undo.append(surround(method, hook))
            else:
                self._wrap(self.pipe, name, partial(self._called, name, method, begin))

    def watch_scheduler(self, stepped: Callable[[], Tensor | None]) -> None:
        """Call this before each step that the guarded generation makes with its scheduler. It may
        return by how much the network's input was moved, which the step then starts from.

        Raises:
            GuardError: another guarded pipeline steps with it; or, in such a step, the scheduler's
                latents have another shape.
        """
        scheduler = self.pipe.scheduler
        if any(method.owner is scheduler for method in self._wrapped):
            return
        original = scheduler.step
        if isinstance(original, Method):
            raise GuardError(
                "the pipeline's scheduler is that of another guarded pipeline, and counts the "
                "steps of one; give each pipeline its own, as a PipelinePool does"
            )

        def step(*args: Any, **kwargs: Any) -> Any:
            self._beside()
            moved = stepped() if self.generating() else None
            if moved is None:
                return original(*args, **kwargs)
            return original(**moved_sample(scheduler, by_name(original, args, kwargs), moved))

        self._wrap(scheduler, "step", step)
        if (scale := getattr(scheduler, "scale_model_input", None)) is not None:

            def scaled(*args: Any, **kwargs: Any) -> Any:  # some find their place in the schedule
                self._beside()
                return scale(*args, **kwargs)

            self._wrap(scheduler, "scale_model_input", scaled)

    def generating(self) -> bool:
        """Whether the code that asks runs inside the guarded generation.

        The pipeline's own call has to be on the stack: the network may be called by hand, by
        another pipeline, or in another thread.
        """
        return self._frame is not None and on_stack(self._frame)

    def surround(
        self, pre_forward: Callable[..., Any], post_forward: Callable[..., Any] | None = None
    ) -> None:
        """Call these before and after each evaluation of the network, as forward hooks."""
        after = None if post_forward is None else Hook(self.block, post_forward)
        before = Hook(self.block, pre_forward, self._beside)
        self._undo.append(surround(self.network, before, after))

    def detach(self) -> None:
        """Leave the pipeline as it was.

        Raises:
            GuardError: it is still generating, such as in a thread: the rest is refused there, too.
        """
        self.block.ended = True
        for method in self._wrapped:
            method.undo()
        for undo in self._undo:
            undo()
        frame, self._frame = self._frame, None
        if frame is not None and is_running(frame):
            raise refuse_rest(self.network, frame)

    def _wrap(self, owner: Any, name: str, call: Callable[..., Any]) -> None:
        self._wrapped.append(Method(owner, name, call))

    def _called(
        self, name: str, method: Callable[..., Any], begin: Begin, *args: Any, **kwargs: Any
    ) -> Any:
        if name == "check_inputs":  # each pipeline's first word
            frame = call_of(self.pipe)
            if frame is not None and frame is not self._frame:  # else: called by hand
                self._check_alone()
                self._frame = frame
                self.recorder = CallRecorder(self.pipe, self._originals)
                self._encoded.clear()
                self._batches.clear()
        calls = self.recorder.calls
        if name not in calls and self.generating():
            calls[name] = by_name(method, args, kwargs)
            if name == "encode_prompt":
                if reason := self.adapter.refusal(self.recorder):
                    raise GuardError(reason)
                prompt = calls[name]["prompt"]
                texts = [prompt] if isinstance(prompt, str) else prompt
                begin(texts, self.adapter.guided(self.recorder))
        return method(*args, **kwargs)

    def _check_alone(self) -> None:
        """Refuse a call of the pipeline that the guard does not reach, or that runs beside another.

        Raises:
            GuardError: it is such a call.
        """
        if not self.block.entered():
            raise GuardError(
                "this pipeline is guarded by another thread or task than the one that calls it; "
                "for a guarded call, open the guard in the thread that calls, or run the call with "
                "asyncio.to_thread or contextvars.copy_context().run; for one beside the guard, "
                "take another pipeline from a PipelinePool"
            )
        if is_running(self._frame) or is_running(self._other):
            raise GuardError(
                "another thread is in the middle of a call of this pipeline, which serves one at a "
                "time; give each thread a pipeline of its own with PipelinePool"
            )

    def _beside(self) -> None:
        """The network is evaluated, or a step is made. Where the guard does not reach, this may be
        in a call of the pipeline that was there before the guard.

        Raises:
            GuardError: it is, and a guarded call has begun meanwhile.
        """
        if self.block.entered() or (frame := call_of(self.pipe)) is None:
            return
        if is_running(self._frame):
            raise GuardError(
                "a guarded call of this pipeline began in the middle of this one, in another "
                "thread, and a pipeline serves one at a time; give each thread a pipeline of its "
                "own with PipelinePool"
            )
        self._other = frame

    def _module_called(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.generating():
            called = by_name(type(module).forward, (None, *args), kwargs)
            self.recorder.calls.setdefault(name, called)

    # ------------------------------------------------------------------------------- encoding

    def encode(self, texts: Sequence[str], places: Sequence[int]) -> list[list[Tensor]]:
        """The pieces of captions, encoded as the pipeline would alone, once a generation.

        Args:
            texts: captions.
            places: for each the prompt whose lyrics and the like it shares.
        """
        keys = list(zip(texts, places, strict=True))
        for key in keys:
            if key not in self._encoded:
                with torch.no_grad():
                    encoded = self.adapter.encode(self.recorder, [key[0]], [key[1]])
                self._encoded[key] = encoded_pieces(self.adapter, encoded)
        return [self._encoded[key] for key in keys]

    def encode_prompts(self, texts: Sequence[str], places: Sequence[int]) -> Tensor:
        """Texts in the place of these prompts, as one tensor [b, s, d]: encoded as the pipeline
        does a batch of them, once a generation."""
        key = (tuple(texts), tuple(places))
        if key not in self._batches:
            with torch.no_grad():
                encoded = self.adapter.encode(self.recorder, list(texts), places)
            self._batches[key] = pack(encoded_pieces(self.adapter, encoded))
        return self._batches[key]

    def words(self) -> list[str]:
        """Whole words that the pipeline's tokenizer has a token for."""
        return whole_words(getattr(self.pipe, self.adapter.tokenizer).get_vocab())

    def decode(self, x0: Tensor, rows: Tensor | None = None) -> Tensor:
        """Latents to sound [b, c, t], cut to the requested seconds, or images [b, 3, h, w]. All
        samples of a pipeline are equally long, whichever `rows` these are."""
        wants_gradient = torch.is_grad_enabled() and x0.requires_grad
        casts = torch.is_autocast_enabled(x0.device.type)  # then a gradient is cast, too
        with (
            _in_place(self.pipe),
            saving_memory(self._efficient if wants_gradient and not casts else ()),
        ):
            return self.adapter.decode(self.recorder, x0)

    @cached_property
    def _efficient(self) -> list[Part]:
        """Modules that can save memory for a gradient; of them the decoder's are called."""
        return memory_efficient(changeable(self.pipe))

    # ---------------------------------------------------------------------------- the network

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DenoiserInputs:
        """The arguments of a call of the network by name."""
        return dict(zip(self._parameters, args, strict=False), **kwargs)

    def predict(self, half: DenoiserInputs) -> Tensor:
        """The network's prediction. `forward` as a method bypasses hooks, the guard's too."""
        forward = self._compiled or self.network.forward
        return self.kept(forward(**half)[0])

    def kept(self, prediction: Tensor) -> Tensor:
        """A prediction that stays: CUDA graphs write the next one over it."""
        return prediction.clone() if self.compiled else prediction


@dataclass
class Hooks:
    """What is called before and after the network."""

    connection: Connection
    guarded: GuardedModel
    pipeline: PipelineRun | None = field(init=False, default=None)  # None before `begin`

    def __post_init__(self) -> None:
        self.changes_prompt = self.guarded.guidance.changes_prompt  # asked once a guard

    def begin(self, texts: list[str] | None, guided: bool) -> None:
        """A generation starts.

        Raises:
            GuardError: it has no unconditional half, and the guidance cannot do without; or the
                pipeline has another network.
            UnsupportedPipeline: the pipeline has another scheduler, which is not known.
        """
        connection = self.connection
        if getattr(connection.pipe, connection.adapter.network) is not connection.network:
            raise GuardError(
                f"the pipeline's {connection.adapter.network} was replaced inside the guard's "
                "block, and the guard is on the earlier one; replace it before the block"
            )
        check_scheduler(connection.pipe.scheduler)
        run = self.guarded.begin(guided)
        schedule = Schedule(connection.pipe.scheduler)
        combine = connection.adapter.combine()
        self.pipeline = PipelineRun(connection, run, texts, guided, schedule, combine)
        connection.watch_scheduler(self.stepped)

    def stepped(self) -> Tensor | None:
        """The scheduler makes a step: it has to be of one guided prediction.

        Returns:
            By how much the guidance moved the network's input, [b, *latent].

        Raises:
            GuardError: it is of none, or of several.
        """
        pipeline = self.pipeline
        if pipeline is not None and pipeline.waiting is not None:
            raise _switched_off()
        if pipeline is None or len(pipeline.run.records) != pipeline.steps + 1:
            raise GuardError(
                "the pipeline made a step of a prediction that the guard did not make: its network "
                "was replaced, called past its hooks, or called once more in between; call the "
                "pipeline as it is"
            )
        pipeline.steps += 1
        moved, pipeline.moved = pipeline.moved, None
        return moved

    def pre_forward(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The forward pre-hook: what cannot be guarded is refused, and the prompt becomes what
        the guidance wants."""
        arguments = self.connection.arguments(args, kwargs)
        pipeline = self._checked(arguments)
        batched = pipeline.guided and self.connection.adapter.halves != "cond, then uncond"
        changed = self.changes_prompt and pipeline.waiting is None  # else: the second of two calls
        if changed:
            call = pipeline.call(arguments, None if batched else arguments)
            arguments = call.under(pipeline.run.change_prompt(call), arguments, batched)
        if batched:
            call = pipeline.call(arguments)
            needs = pipeline.run.needs(call)
            pipeline.called = call, needs
            if needs != "both":
                cond, uncond = call.halves
                assert uncond is not None  # a batched call has both
                return (), cond if needs == "cond" else uncond
        return ((), arguments) if changed else None

    def post_forward(
        self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """The forward hook: the halves' predictions to guided ones.

        The pipeline computes u + w*(c - u), or the like, of what it is given; given g for both, it
        gets g + w*(g - g) = g, for any w.
        """
        pipeline, prediction = self.pipeline, self.connection.kept(output[0])
        assert pipeline is not None  # `pre_forward` saw to it
        run = pipeline.run
        if pipeline.called is not None:
            (call, needs), pipeline.called = pipeline.called, None
            order = self.connection.adapter.order if needs == "both" else (needs,)
            guided = run.guide(call, dict(zip(order, prediction.chunk(len(order)), strict=True)))
            return _with(output, torch.cat([guided, guided]))
        arguments = self.connection.arguments(args, kwargs)
        if not pipeline.guided:
            call = pipeline.call(arguments, arguments)
            return _with(output, run.guide(call, {"cond": prediction}))
        if pipeline.waiting is None:  # the first of two calls
            pipeline.waiting = arguments, prediction.clone()
            return _with(output, pipeline.waiting[1])
        (conditional, first), pipeline.waiting = pipeline.waiting, None
        call = pipeline.call(arguments, conditional, arguments)
        guided = run.guide(call, {"cond": first.clone(), "uncond": prediction})
        first.copy_(guided)  # which the pipeline holds as its conditional prediction
        return _with(output, guided)

    def _checked(self, arguments: DenoiserInputs) -> PipelineRun:
        """The running generation; a call of the network that cannot be guarded is refused.

        Raises:
            GuardError: it is such a call.
        """
        check_known(self.connection.adapter, arguments)
        if self.pipeline is None or not self.connection.generating():
            raise GuardError(
                "the guarded network was called outside its pipeline's own loop; call the pipeline"
            )
        if arguments.get("skip_layers") is not None:
            raise GuardError(
                "skip_guidance_layers adds an evaluation to the guidance that a guard does not "
                "see; call the pipeline without it"
            )
        if self.connection.pipe.scheduler is not self.pipeline.schedule.scheduler:
            raise GuardError(
                "the pipeline's scheduler was replaced in the middle of a generation, so its noise "
                "levels are not known; replace it before the generation"
            )
        timesteps = self.connection.pipe.scheduler.timesteps
        if timesteps is not (self.pipeline.timesteps if self.pipeline.rows else timesteps):
            raise GuardError(
                "the scheduler was set to other timesteps in the middle of a generation, such as "
                "by another pipeline that has the same scheduler; give each pipeline its own"
            )
        self.pipeline.timesteps = timesteps
        rows = len(arguments[self.connection.adapter.x])
        if rows != (self.pipeline.rows or rows):
            raise _switched_off()
        self.pipeline.rows = rows
        return self.pipeline


def _switched_off() -> GuardError:
    return GuardError(
        "the pipeline switched its guidance on or off in the middle of a generation, such as in a "
        "callback, so the halves of its predictions cannot be told from each other; leave its "
        "guidance on, and guard it with Interval or During"
    )


def is_compiled(part: nn.Module) -> bool:
    """Whether it was compiled, wrapped by torch.compile or in place."""
    return hasattr(part, "_orig_mod") or part._compiled_call_impl is not None


def changeable(pipe: Any) -> Iterator[nn.Module]:
    """The modules of a pipeline that may be set otherwise for a while: a part that was compiled
    would be compiled anew."""
    for part in pipe.components.values():
        if isinstance(part, nn.Module) and not is_compiled(part):
            yield from part.modules()


@contextmanager
def _in_place(pipe: Any) -> Iterator[None]:
    """Without accelerate's moving the network off its device when the decoder comes onto it: the
    gradient still has to go back through both."""
    hooks: list[Any] = [getattr(module, "_hf_hook", None) for module in pipe.components.values()]
    chained = {hook: hook.prev_module_hook for hook in hooks if hasattr(hook, "prev_module_hook")}
    for hook in chained:
        hook.prev_module_hook = None
    try:
        yield
    finally:
        for hook, previous in chained.items():
            hook.prev_module_hook = previous


def _with(output: Any, prediction: Tensor) -> Any:
    """The network's output with another prediction."""
    if isinstance(output, tuple):
        return (prediction, *output[1:])
    first = dataclasses.fields(output)[0].name
    return dataclasses.replace(output, **{first: prediction})
