"""A model of ComfyUI, and one evaluation of it, as a guard wants them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from anechoic.engine.call import EncodedPrompt, Predictions
from anechoic.engine.model import Makes, weights_fingerprint
from anechoic.errors import GuardError, UnsupportedPipeline
from anechoic.guidance.noise import NoiseLevel, Prediction
from anechoic.guidance.step import Condition
from anechoic.stable_audio_tools.call import picked

EXPLODING = {"EPS", "V_PREDICTION_DDPM", "COSMOS_RFLOW"}  # whose x is x0 + sigma * eps
NETWORK = "diffusion_model."  # how ComfyUI's names of its weights begin
OF_THE_TEXT = ("attention_mask", "pooled_output")  # besides the encoded prompt


@contextmanager
def normal_tensors() -> Iterator[None]:
    """A block whose new tensors may be part of a gradient, inside inference_mode."""
    with torch.inference_mode(False), torch.no_grad():
        yield


@dataclass(eq=False)
class ComfyModel:
    """A `comfy.model_base.BaseModel`: see `anechoic.engine.model.Model`.

    Raises:
        UnsupportedPipeline: its noise is of a kind that a guard does not know.
    """

    base: Any
    clip: Any = None  # a comfy.sd.CLIP
    vae: Any = None  # a comfy.sd.VAE
    # weights as they were before ComfyUI wrote a LoRA into them, which it does while it samples
    backup: Mapping[str, Any] = field(default_factory=dict)
    makes: Makes = field(default="sound", init=False)
    guided_by: str = field(default="connect a negative prompt to the sampler", init=False)
    _captions: dict[str, Tensor] = field(default_factory=dict, init=False)  # encoded, [s, d]
    _weights: dict[str, Tensor] = field(default_factory=dict, init=False)  # of the codec

    def __post_init__(self) -> None:
        kinds = {cls.__name__ for cls in type(self.base.model_sampling).__mro__}
        self.flow = "CONST" in kinds
        unknown = any(name.startswith("IMG_TO_IMG") for name in kinds)
        if unknown or not (self.flow or kinds & EXPLODING):
            raise UnsupportedPipeline(
                f"expected a model of noise (EPS, v or a flow), got {self.name}, which is of "
                "another kind; a guard cannot read its estimates"
            )
        self.owner = self.network = self.base.diffusion_model
        vae = self.vae
        rate = getattr(vae, "audio_sample_rate_output", getattr(vae, "audio_sample_rate", 44_100))
        self.sample_rate: int = rate

    @property
    def name(self) -> str:
        return type(self.base).__name__

    def fingerprint(self) -> str:
        """That of the model without its LoRAs, whether they are written into it now or not."""
        weights = self.network.state_dict()
        kept = {name.removeprefix(NETWORK): one for name, one in self.backup.items()}
        weights |= {name: one.weight for name, one in kept.items() if name in weights}
        return weights_fingerprint(weights)

    def codec_fingerprint(self) -> str:
        return "" if self.vae is None else weights_fingerprint(self.vae.first_stage_model)

    def frozen(self) -> AbstractContextManager[None]:
        return nullcontext()  # gradients go through copies of the weights alone

    def forget(self) -> None:
        """Free what belongs to one sampling."""
        self._captions.clear()
        self._weights.clear()

    # ------------------------------------------------------------------------ ComfyUI's own code

    def evaluate(self, conds: Sequence[Any], x: Tensor, sigma: Tensor, options: Any) -> Any:
        """The x0 estimates of an input under each of some conditionings."""
        from comfy.samplers import calc_cond_batch

        with torch.inference_mode():
            return calc_cond_batch(self.base, list(conds), x, sigma, options)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Captions as the text encoder encodes them, [n, s, d]; short ones end in zeros."""
        if self.clip is None:
            raise GuardError("the guidance tries other captions; connect the CLIP to the guard")
        for text in {*texts} - {*self._captions}:
            with torch.inference_mode():
                encoded = self.clip.encode_from_tokens(self.clip.tokenize(text))
            self._captions[text] = encoded[0].float().clone()
            self._load()
        padded: Tensor = pad_sequence([self._captions[text] for text in texts], batch_first=True)
        return padded

    def decode(self, x0: Tensor) -> Tensor:
        """Latents to sound [b, c, t], with a gradient where the latents want one."""
        if self.vae is None:
            raise GuardError("the guidance compares sound; connect the VAE to the guard")
        self._load(self.vae.patcher)
        codec = self.vae.first_stage_model
        latents = self.base.process_latent_out(x0).to(self.vae.device, self.vae.vae_dtype)
        if not latents.requires_grad:
            with torch.inference_mode():
                sound: Tensor = codec.decode(latents)
            return sound.float().clone().to(x0.device)
        if not self._weights:  # those of ComfyUI cannot be part of a gradient
            with torch.no_grad():
                named = [*codec.named_parameters(), *codec.named_buffers()]
                self._weights |= {f"codec.{name}": weight.clone() for name, weight in named}
        decoded: Tensor = torch.func.functional_call(_Decoder(codec), self._weights, (latents,))
        return decoded.float().to(x0.device)

    def _load(self, *patchers: Any) -> None:
        """Have the network on its device, and some other models: each may push out the others."""
        from comfy.model_management import load_models_gpu

        with torch.inference_mode():
            load_models_gpu([self.base.current_patcher, *patchers])


class _Decoder(nn.Module):
    """A codec whose call decodes."""

    def __init__(self, codec: Any):
        super().__init__()
        self.codec = codec

    def forward(self, latents: Tensor) -> Any:
        return self.codec.decode(latents)


@dataclass
class ComfyCall:
    """One evaluation: see `anechoic.engine.call.Call`."""

    model: ComfyModel
    input: Tensor  # the sampler's own
    sigma: Tensor  # [b]
    options: dict[str, Any]
    cond: Sequence[dict[str, Any]]
    uncond: Sequence[dict[str, Any]] | None = None
    kind: Prediction = field(default="sample", init=False)  # ComfyUI gives x0
    may_spare: bool = field(default=False, init=False)  # both halves are there already

    def __post_init__(self) -> None:
        self.batch, self.guided = len(self.input), bool(self.uncond)
        if len({*self.sigma.flatten().tolist()}) > 1:
            raise GuardError("the samples have noise levels of their own; sample them one by one")

    @cached_property
    def noise(self) -> NoiseLevel:
        level = max(float(self.sigma.flatten()[0]), 1e-6)
        return NoiseLevel.flow(level) if self.model.flow else NoiseLevel.from_ratio(level)

    @property
    def _scale(self) -> float:
        """What x is multiplied by to be alpha * x0 + sigma * eps."""
        return 1.0 if self.model.flow else self.noise.alpha

    @cached_property
    def x(self) -> Tensor:
        return self.input.float() * self._scale

    @cached_property
    def progress(self) -> float:
        levels = self.options["transformer_options"]["sample_sigmas"]
        done = int((levels > self.sigma.max() * (1 + 1e-6)).sum())
        return min(done / max(len(levels) - 1, 1), 1 - 1e-6)

    def prompt(self) -> EncodedPrompt:
        others = [name for name in OF_THE_TEXT if self.cond[0].get(name) is not None]
        if len(self.cond) != 1 or others:
            what = " and ".join(others) or f"{len(self.cond)} prompts at once"
            raise GuardError(
                f"the guidance changes the prompt, and this conditioning holds {what}, which it "
                "cannot change; use one prompt of text, or a method that leaves the prompt alone"
            )
        encoded = self.cond[0]["cross_attn"].float().clone()
        encoded = encoded.expand(self.batch, -1, -1) if len(encoded) == 1 else encoded
        mask = (encoded != 0).any(2)  # padding is encoded as zeros
        return EncodedPrompt(
            encoded=encoded,
            mask=mask,
            texts=None,
            encode=lambda texts, rows: self.model.encode(texts),
            words=_no_words,
            any_length=True,
        )

    def under(self, encoded: Tensor) -> ComfyCall:
        """The same call with another encoded prompt [b, s, d]."""
        self.prompt()
        cond, base = self.cond[0], self.model.base
        changed = {**cond, "cross_attn": encoded.to(cond["cross_attn"])}
        with torch.inference_mode():
            made = base.extra_conds(
                **changed, noise=self.input, device=self.input.device, prompt_type="positive"
            )
        return replace(self, cond=[{**changed, "model_conds": {**cond["model_conds"], **made}}])

    def combine(
        self, predictions: Predictions, scale: Tensor | float, rows: Tensor | None = None
    ) -> Tensor:
        """By ComfyUI's own code, and what nodes before the guard add to it."""
        from comfy.samplers import cfg_function

        if isinstance(scale, Tensor):  # theirs takes one number
            each = scale.flatten().tolist()
            made = {one: self.combine(predictions, one) for one in {*each}}
            return torch.stack([made[one][row] for row, one in enumerate(each)])
        with torch.inference_mode():
            combined: Tensor = cfg_function(
                self.model.base, predictions["cond"], predictions["uncond"], scale, self.input,
                self.sigma, model_options=self.options, cond=self.cond, uncond=self.uncond,
            )  # fmt: skip
        return combined.clone()

    def again(
        self, x: Tensor, condition: Condition | Sequence[str] | Tensor, rows: Tensor | None = None
    ) -> Tensor:
        given = [one for one in (x, condition) if isinstance(one, Tensor)]
        if torch.is_grad_enabled() and any(one.requires_grad for one in given):
            raise GuardError("a gradient through the network cannot be had in ComfyUI")
        index = list(range(self.batch)) if rows is None else rows.tolist()
        call = replace(
            self,
            input=x / self._scale,
            sigma=self.sigma[index],
            cond=[_rows(cond, index, self.batch) for cond in self.cond],
            uncond=[_rows(cond, index, self.batch) for cond in self.uncond or ()],
        )
        if not isinstance(condition, str):
            encoded = condition if isinstance(condition, Tensor) else self.model.encode(condition)
            call, condition = call.under(encoded), "cond"
        chosen = call.uncond if condition == "uncond" else call.cond
        if not chosen:
            raise GuardError(f"the guidance asked for the other half; {self.model.guided_by}")
        (made,) = self.model.evaluate([chosen], call.input, call.sigma, call.options)
        copied: Tensor = made.clone()
        return copied

    def decode(self, x0: Tensor, rows: Tensor | None = None) -> Tensor:
        return self.model.decode(x0)

    def move(self, x: Tensor, rows: Tensor | None = None) -> None:
        raise GuardError(
            "the guidance moves the latents, and ComfyUI's samplers go on from their own; use "
            "another method"
        )


def _no_words() -> Sequence[str]:
    raise GuardError("ComfyUI passes encoded prompts on, whose words cannot be changed")


def _rows(cond: dict[str, Any], rows: Sequence[int], total: int) -> dict[str, Any]:
    """A conditioning of some samples of the batch."""
    if list(rows) == list(range(total)):
        return cond
    own = {
        name: type(one)(picked(one.cond, rows, total)) for name, one in cond["model_conds"].items()
    }
    rest = {name: value for name, value in cond.items() if name != "model_conds"}
    return {**picked(rest, rows, total), "model_conds": own}
