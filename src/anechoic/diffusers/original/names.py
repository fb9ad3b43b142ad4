"""The names of a model's weights in stable-audio-tools and in diffusers, read both ways."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anechoic.errors import UnsupportedPipeline

Row = tuple[str, str, tuple[str, ...], str]  # component, name there, names in diffusers, how
Weights = Mapping[str, Mapping[str, Tensor]]  # of diffusers' components, by name
CONDITIONERS = "conditioner.conditioners."
PROJECTION = f"{CONDITIONERS}prompt.proj_out.weight"
ROTARY = "model.model.transformer.rotary_pos_emb.inv_freq"  # diffusers computes it


def names(config: Mapping[str, Any], projected: bool, text: Iterable[str] = ()) -> Iterator[Row]:
    """Every weight: its component in diffusers, its name in stable-audio-tools, its names in that
    component, and how the tensors differ: "fused" (several here), "column", "channel" or "".

    Args:
        config: the content of a model_config.json, one that can be expressed.
        projected: whether the text has a projection.
        text: names of the text encoder's weights, where it was trained along.
    """
    depth = config["model"]["diffusion"]["config"]["depth"]
    yield from network_names(depth, projected)
    yield from (("text_encoder", f"{CONDITIONERS}prompt.model.{w}", (w,), "") for w in text)
    strides = config["model"]["pretransform"]["config"]["encoder"]["config"]["strides"]
    for there, here, kinds in _codec(len(strides)):
        how = "channel" if kinds[0] == "alpha" else ""
        for w in kinds:
            yield "vae", f"pretransform.model.{there}.{w}", (f"{here}.{w}",), how


def network_names(depth: int, projected: bool) -> Iterator[Row]:
    """The rows of `names` that are of the network, of `depth` layers, and its conditioners."""
    model, both, weight = "model.model.", ("weight", "bias"), ("weight",)
    yield "transformer", f"{model}timestep_features.weight", ("time_proj.weight",), "column"
    for there, here, kinds in (
        *((f"to_timestep_embed.{i}", f"timestep_proj.{i}", both) for i in (0, 2)),
        *((f"to_cond_embed.{i}", f"cross_attention_proj.{i}", weight) for i in (0, 2)),
        *((f"to_global_embed.{i}", f"global_proj.{i}", weight) for i in (0, 2)),
        *((f"{side}process_conv", f"{side}process_conv", weight) for side in ("pre", "post")),
        *((f"transformer.project_{way}", f"proj_{way}", weight) for way in ("in", "out")),
    ):
        yield from (("transformer", f"{model}{there}.{w}", (f"{here}.{w}",), "") for w in kinds)
    for i in range(depth):
        for there, here, how in (
            *((f"{norm}.{a}", f"norm{n}.{b}", "")
              for n, norm in enumerate(("pre_norm", "cross_attend_norm", "ff_norm"), 1)
              for a, b in (("gamma", "weight"), ("beta", "bias"))),
            ("self_attn.to_qkv.weight", "attn1.to_{}.weight", "qkv"),
            ("self_attn.to_out.weight", "attn1.to_out.0.weight", ""),
            ("cross_attn.to_q.weight", "attn2.to_q.weight", ""),
            ("cross_attn.to_kv.weight", "attn2.to_{}.weight", "kv"),
            ("cross_attn.to_out.weight", "attn2.to_out.0.weight", ""),
            *((f"ff.ff.{a}.{w}", f"ff.net.{a}.{w}", "") for a in ("0.proj", "2") for w in both),
        ):  # fmt: skip
            parts = tuple(f"transformer_blocks.{i}.{here.format(x)}" for x in how or "-")
            there = f"{model}transformer.layers.{i}.{there}"
            yield "transformer", there, parts, "fused" if how else ""
    for there, here in (("seconds_start", "start"), ("seconds_total", "end")):
        for w in ("0.weights", "1.weight", "1.bias"):
            part = f"{here}_number_conditioner.time_positional_embedding.{w}"
            yield "projection_model", f"{CONDITIONERS}{there}.embedder.embedding.{w}", (part,), ""
    for w in both if projected else ():
        there = f"{CONDITIONERS}prompt.proj_out.{w}"
        yield "projection_model", there, (f"text_projection.{w}",), ""


def _codec(blocks: int) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """The codec's convolutions and activations: there, here, and the weights of each."""
    snake, conv = ("alpha", "beta"), ("weight_g", "weight_v", "bias")
    for side, first in (("encoder", True), ("decoder", False)):
        yield f"{side}.layers.0", f"{side}.conv1", conv
        for i in range(blocks):
            there, here = f"{side}.layers.{i + 1}.layers", f"{side}.block.{i}"
            for k in range(3):
                unit = f"{there}.{k if first else k + 2}.layers"
                for j in (1, 2):
                    yield f"{unit}.{2 * j - 2}", f"{here}.res_unit{k + 1}.snake{j}", snake
                    yield f"{unit}.{2 * j - 1}", f"{here}.res_unit{k + 1}.conv{j}", conv
            yield f"{there}.{3 if first else 0}", f"{here}.snake1", snake
            yield f"{there}.{4 if first else 1}", f"{here}.{'conv1' if first else 'conv_t1'}", conv
        yield f"{side}.layers.{blocks + 1}", f"{side}.snake1", snake
        yield f"{side}.layers.{blocks + 2}", f"{side}.conv2", conv if first else conv[:2]


def _split(value: Tensor, how: str, count: int) -> Sequence[Tensor]:
    if how == "fused":
        return [part.clone() for part in value.chunk(count)]
    return [value[:, 0] if how == "column" else value[None, :, None] if how else value]


def _join(values: Sequence[Tensor], how: str) -> Tensor:
    if how == "fused":
        return torch.cat(tuple(values))
    (value,) = values
    return value[:, None] if how == "column" else value[0, :, 0] if how else value


def transformer_weights(weights: Mapping[str, Tensor], layers: int) -> dict[str, Tensor] | None:
    """The weights of a `DiffusionTransformer` of so many layers as diffusers names them; None: it
    cannot express them."""
    state = {f"model.model.{name}": value for name, value in weights.items()}
    state.pop(ROTARY, None)
    rows = [row for row in network_names(layers, False) if row[0] == "transformer"]
    if {row[1] for row in rows} != state.keys():
        return None
    return {
        name: part
        for _, there, own, how in rows
        for name, part in zip(own, _split(state[there], how, len(own)), strict=True)
    }


def to_diffusers(
    rows: Iterable[Row], state: Mapping[str, Tensor], made: Mapping[str, nn.Module]
) -> Weights:
    """The weights of diffusers' components.

    Args:
        rows: the table of names.
        state: the weights as stable-audio-tools names them.
        made: the components, which may be on the meta device.

    Raises:
        UnsupportedPipeline: a weight is missing, of another shape, or left over.
    """
    shapes = {part: module.state_dict() for part, module in made.items()}
    parts: dict[str, dict[str, Tensor]] = {part: {} for part in made}
    left = dict(state)
    for part, name, own, how in rows:
        value = left.pop(name, None)
        wanted = _join([shapes[part][each] for each in own], how)
        if value is None or value.shape != wanted.shape:
            raise _misfit(name, value, wanted)
        parts[part].update(zip(own, _split(value, how, len(own)), strict=True))
    wanted = rotary(made["transformer"])
    value = left.pop(ROTARY, wanted)
    if value.shape != wanted.shape or not torch.allclose(value.float(), wanted, rtol=0.01):
        raise UnsupportedPipeline(
            f"the checkpoint's {ROTARY} differs from what diffusers computes; use another model"
        )
    if left:
        raise UnsupportedPipeline(
            f"the checkpoint has '{min(left)}' and {len(left) - 1} more weights that diffusers' "
            "StableAudioPipeline has no place for; use a model of Stable Audio Open 1.0's kind"
        )
    return parts


def to_original(
    rows: Iterable[Row], parts: Weights, made: Mapping[str, nn.Module]
) -> dict[str, Tensor]:
    """The weights as stable-audio-tools names them: `to_diffusers` backwards.

    Raises:
        UnsupportedPipeline: a weight is missing, or of another shape.
    """
    shapes = {part: module.state_dict() for part, module in made.items()}
    state = {ROTARY: rotary(made["transformer"])}
    for part, name, own, how in rows:
        for each in own:
            value, wanted = parts[part].get(each), shapes[part][each]
            if value is None or value.shape != wanted.shape:
                raise _misfit(f"{part}.{each}", value, wanted)
        state[name] = _join([parts[part][each] for each in own], how).contiguous()
    return state


def rotary(transformer: Any) -> Tensor:
    """The inverse frequencies of its rotary positions, as stable-audio-tools computes them."""
    width = transformer.config.attention_head_dim // 2
    inverse: Tensor = 1.0 / (10000 ** (torch.arange(0, width, 2).float() / width))
    return inverse


def _misfit(name: str, value: Tensor | None, wanted: Tensor) -> UnsupportedPipeline:
    shape = "nothing" if value is None else list(value.shape)
    return UnsupportedPipeline(
        f"model_config.json asks for a weight '{name}' of shape {list(wanted.shape)}, but the "
        f"model has {shape} there; give the configuration that belongs to these weights"
    )
