"""A model of stable-audio-tools under a guard: what is asked of it, and what is put around it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from anechoic.engine.call import whole_words
from anechoic.engine.memory_efficient import memory_efficient, saving_memory
from anechoic.engine.model import SEPARATOR, Makes, weights_fingerprint
from anechoic.engine.run import GuardedModel
from anechoic.engine.wrapping import (
    Hook,
    Method,
    callers,
    frozen,
    is_running,
    refuse_rest,
    surround,
)
from anechoic.errors import GuardError, UnsupportedPipeline
from anechoic.stable_audio_tools.call import ANSWER, Generation, TransformerCall

CLASS = "ConditionedDiffusionModelWrapper"
ADAPTED = ".parametrizations.weight.original"  # a weight without its adapters
GENERATES = ("generate_diffusion_cond", "generate_diffusion_cond_inpaint")
NOT_TEXT = {  # conditioners; any other one is taken to hold the prompt
    "CLAPAudioConditioner", "IntConditioner", "ListConditioner", "NumberConditioner",
    "PretransformConditioner", "SATCLAPAudioConditioner", "SourceMixConditioner",
}  # fmt: skip
REFUSED = {  # settings that the network is called with: their defaults, and the way on
    "cfg_interval": ((0, 1), "hides evaluations from the guidance; guard with Interval"),
    "cfg_dropout_prob": (0.0, "drops prompts at random, for training"),
    "exit_layer_ix": (None, "leaves the network early"),
}
OUTSIDE = (
    "the guarded network was called outside of generate_diffusion_cond, such as by a loop of your "
    "own or another model; call generate_diffusion_cond(model, ...) with the guarded model, in the "
    "same thread"
)


class NativeModel:
    """A `ConditionedDiffusionModelWrapper`: see `anechoic.engine.model.Model`.

    Raises:
        UnsupportedPipeline: its network is another than a `DiffusionTransformer`, or compiled.
    """

    name = CLASS
    makes: Makes = "sound"
    guided_by = (
        "call generate_diffusion_cond with cfg_scale=7.0 (any value but 1: inside the guard the "
        "guidance owns the scale)"
    )

    def __init__(self, wrapper: Any):
        network: Any = getattr(getattr(wrapper, "model", None), "model", None)
        if type(network).__name__ != "DiffusionTransformer":
            raise UnsupportedPipeline(
                f"a {CLASS} around a DiffusionTransformer was expected, got one around a "
                f"{type(network).__name__}, whose halves a guard does not know"
            )
        parts = (wrapper, wrapper.model, network)
        if any(hasattr(part, "_orig_mod") or part._compiled_call_impl for part in parts):
            raise UnsupportedPipeline(
                "a network that is compiled as a whole cannot be guarded; compile its transformer "
                "alone: model.model.model.transformer.compile()"
            )
        self.wrapper, self.network, self.owner = wrapper, network, network
        self.sample_rate: int = wrapper.sample_rate
        # bound before anything is put around them
        self.forward, self.predict = network.forward, network._forward
        self.conditioning_inputs = wrapper.get_conditioning_inputs
        self._generations: dict[FrameType, Generation] = {}
        self._wrapped: list[Method] = []

    # ------------------------------------------------- what the engine asks: see `engine.model`

    def fingerprint(self) -> str:
        """That of the converted model, whose index serves this one, where it can be converted;
        with the library's own adapters "base+adapter+adapter"."""
        from anechoic.diffusers.lora_files import live_fingerprints
        from anechoic.diffusers.original.names import transformer_weights

        weights = {
            name.replace(ADAPTED, ".weight"): value
            for name, value in self.network.state_dict().items()
            if ".parametrizations." not in name or name.endswith(ADAPTED)
        }
        layers = getattr(getattr(self.network, "transformer", None), "layers", ())
        base = weights_fingerprint(transformer_weights(weights, len(layers)) or weights)
        adapters = live_fingerprints(self.wrapper.model, self.wrapper.conditioner)
        return SEPARATOR.join((base, *adapters))

    def codec_fingerprint(self) -> str:
        codec = self.wrapper.pretransform
        return "" if codec is None else weights_fingerprint(codec)

    def frozen(self) -> AbstractContextManager[None]:
        return frozen(self.wrapper.modules())

    # ------------------------------------------------------------------------------ listening

    @contextmanager
    def listening(self, guarded: GuardedModel) -> Iterator[None]:
        """A block in which the model's generations are guarded.

        Raises:
            GuardError: at the end, one was not guarded from its start to its end.
        """
        block, changes_prompt = guarded.block, guarded.guidance.changes_prompt

        def begin(encoded: Mapping[str, Any], negative: bool = False) -> Any:
            frame = next(filter(self._generates, callers(sys._getframe(1))), None)
            if frame is not None and not negative and frame not in self._generations:
                self._begin(guarded, frame, encoded)
            return self.conditioning_inputs(encoded, negative=negative)

        def forward(x: Tensor, t: Tensor, **keywords: Any) -> Any:
            if not block.entered():  # a plain model of another thread, on the same network
                return self.forward(x, t, **keywords)
            generation = self._checked(keywords)
            call = TransformerCall(self, generation, x, t, keywords, range(len(x)))
            return self._guided(generation, changes_prompt, call)

        def predict(*args: Any, **kwargs: Any) -> Any:
            if not block.entered():
                return self.predict(*args, **kwargs)
            if (answer := ANSWER.get()) is None:
                raise GuardError(OUTSIDE)
            return answer(*args, **kwargs)

        undo = surround(self.network, Hook(block, lambda *call: None))  # refuses in a copy of it
        self._wrapped = [
            Method(self.wrapper, "get_conditioning_inputs", begin),
            Method(self.network, "forward", forward),
            Method(self.network, "_forward", predict),
        ]
        try:
            yield
            self._check_whole()
        finally:
            block.ended = True
            for method in self._wrapped:
                method.undo()
            undo()
            running = [frame for frame in self._generations if is_running(frame)]
            self._generations.clear()
            for frame in running:
                raise refuse_rest(self.network, frame)

    def _generates(self, frame: FrameType) -> bool:
        """Whether a frame is a generation by this model."""
        return frame.f_code.co_name in GENERATES and frame.f_locals.get("model") is self.wrapper

    def _check_whole(self) -> None:
        """Check that each generation that is over has as many evaluations as its sampler makes."""
        for frame, generation in list(self._generations.items()):
            if is_running(frame):
                continue
            self._generations.pop(frame, None)
            made, expected = len(generation.run.records), generation.evaluations
            if expected not in (None, made):
                raise GuardError(
                    f"{made} of the {expected} evaluations of a generation were guarded; it was "
                    "broken off, or the network was replaced or called past the guard meanwhile"
                )

    def _begin(self, guarded: GuardedModel, frame: FrameType, encoded: Mapping[str, Any]) -> None:
        """A generation starts; one that cannot be guarded is refused."""
        self._check_whole()
        if not guarded.block.entered():
            raise GuardError(
                "this model is guarded by another thread or task than the one that calls it; open "
                "the guard in the thread that calls, or run the call with asyncio.to_thread or "
                "contextvars.copy_context().run"
            )
        within = getattr(getattr(self.wrapper, "model", None), "model", None)
        if within is not self.network or any(
            vars(method.owner).get(method.name) is not method for method in self._wrapped
        ):
            raise GuardError(
                "the model's network was replaced inside the guard's block, and the guard is on "
                "the earlier one; replace it before the block"
            )
        given = frame.f_locals
        if given.get("inversion_params") is not None:
            raise GuardError(
                "an inversion calls the network for what it does not generate; invert outside of "
                "the guard"
            )
        settings, v = given["sampler_kwargs"], self.wrapper.diffusion_objective == "v"
        old = not hasattr(self.network, "apg_project")  # 0.0.19
        sampler = settings.get("sampler_type", "dpmpp-2m-sde" if v and old else "euler")
        if v and sampler == "rk4":  # what is a sampler of flows alone becomes DDIM
            sampler = "euler"
        steers = self.wrapper.cross_attn_cond_ids or self.wrapper.prepend_cond_ids
        guided = given["cfg_scale"] != 1.0 and bool(steers)
        self._generations[frame] = Generation(
            run=guarded.begin(guided),
            guided=guided,
            encoded=encoded,
            conditioning=given["conditioning"],
            sampler=sampler,
            steps=given["steps"],
            sigma_min=settings.get("sigma_min", 0.01),
        )

    # ------------------------------------------------------------------------- an evaluation

    def _checked(self, keywords: Mapping[str, Any]) -> Generation:
        """The generation that calls the network; a call that cannot be guarded is refused.

        Raises:
            GuardError: it is such a call.
        """
        frames = (frame for frame in callers(sys._getframe(1)) if frame in self._generations)
        if (frame := next(frames, None)) is None:
            raise GuardError(OUTSIDE)
        for name, (default, why) in REFUSED.items():
            value = keywords.get(name, default)
            if (tuple(value) if isinstance(value, list) else value) != default:
                raise GuardError(f"{name}={value} {why}; leave it out")
        return self._generations[frame]

    def _guided(self, generation: Generation, changes_prompt: bool, call: TransformerCall) -> Any:
        run = generation.run
        names = ("lora_interval", "lora_configs")
        own_levels = isinstance(call.noise.alpha, Tensor)
        if own_levels and any(call.keywords.get(name) not in (None, (0, 1)) for name in names):
            raise GuardError(
                "a LoRA for a part of the schedule and a schedule for each sample cannot "
                "be guarded together; generate the samples one by one"
            )
        if changes_prompt:
            call = call.under(run.change_prompt(call))
        predictions = call.evaluate(run.needs(call))
        return call.output(run.guide(call, predictions), predictions)

    # ----------------------------------------------------------------------------- the prompt

    def text(self) -> str:
        """The name of the conditioner that holds the prompt.

        Raises:
            GuardError: there is none, or more than one.
        """
        conditioners = self.wrapper.conditioner.conditioners
        names = [name for name, part in conditioners.items() if type(part).__name__ not in NOT_TEXT]
        if len(names) != 1:
            raise GuardError(
                "the guidance changes the prompt or tries other captions, which needs a model with "
                f"one conditioner of text, and this one has {len(names)}: {', '.join(names)}; use "
                "a method that leaves the prompt alone"
            )
        return str(names[0])

    def texts(self, conditioning: Sequence[Mapping[str, Any]] | None) -> list[str] | None:
        """The prompts; None: the model was given encoded ones."""
        name = self.text()
        other = self.wrapper.conditioner.default_keys.get(name)
        texts = [_alone(row[name if name in row else other]) for row in conditioning or ()]
        return texts if texts and all(isinstance(text, str) for text in texts) else None

    def encode(self, generation: Generation, texts: Sequence[str]) -> Tensor:
        """Captions as the conditioner encodes them, [n, s, d], once a generation."""
        if (key := tuple(texts)) not in generation.captions:
            conditioner = self.wrapper.conditioner.conditioners[self.text()]
            device = next(self.network.parameters()).device
            with torch.no_grad():
                generation.captions[key] = conditioner(list(texts), device)[0].float()
        return generation.captions[key]

    def words(self) -> list[str]:
        """Whole words that the tokenizer has a token for."""
        conditioner = self.wrapper.conditioner.conditioners[self.text()]
        return whole_words(conditioner.tokenizer.get_vocab())

    # ------------------------------------------------------------------------------ the sound

    def seconds(self, conditioning: Sequence[Mapping[str, Any]] | None) -> list[float] | None:
        """What each sample was asked to last; None: nothing was asked for."""
        asked = [_alone(row.get("seconds_total")) for row in conditioning or ()]
        return [float(s) for s in asked] if asked and all(asked) else None

    def decode(self, x0: Tensor) -> Tensor:
        """Latents to sound [b, c, t]."""
        codec = self.wrapper.pretransform
        if codec is None:
            return x0
        wants_gradient = torch.is_grad_enabled() and x0.requires_grad
        casts = torch.is_autocast_enabled(x0.device.type)  # then a gradient is cast, too
        inner = getattr(getattr(codec, "model", None), "pretransform", None)
        parts = memory_efficient(codec.modules()) if wants_gradient and not casts else []
        with saving_memory(parts), _with_gradient(inner if wants_gradient else None):
            sound: Tensor = codec.decode(x0.to(next(codec.parameters()).dtype))
        return sound.float()


@contextmanager
def _with_gradient(codec: Any) -> Iterator[None]:
    """A codec within a codec passes gradients on: by default it stops them without a word."""
    if codec is None or codec.enable_grad:
        yield
        return
    codec.enable_grad = True
    try:
        yield
    finally:
        codec.enable_grad = False


def _alone(value: Any) -> Any:
    """A value that a collation of a batch may have wrapped."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
