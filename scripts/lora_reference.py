"""Makes tests/data/lora: adapters that their own trainers wrote, and what those make of weights.

python scripts/lora_reference.py stable-audio-tools    # where stable-audio-tools is installed
python scripts/lora_reference.py peft                  # where peft is
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

OUTPUT = Path(__file__).parents[1] / "tests/data/lora"
KINDS = ("lora", "dora-rows", "dora-cols", "bora")
STRENGTH = 0.5
SHAPES = {  # as in the tiny pipeline of tests/support/pipelines.py
    "model.transformer.layers.0.self_attn.to_qkv": (48, 16),
    "model.transformer.layers.1.cross_attn.to_kv": (16, 8),
    "model.to_cond_embed.0": (8, 16),
    "model.preprocess_conv": (3, 3, 1),
}


def stable_audio_tools() -> None:
    """One file of each kind, and the weights that the trainer's own loader makes of them."""
    from stable_audio_tools.models.lora import (
        get_lora_state_dict,
        load_and_apply_loras,
        save_lora_safetensors,
        set_lora_strength,
    )

    torch.manual_seed(0)
    base = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    known = {f"base.{name}": value for name, value in base.items()}
    for kind in (*KINDS, *(f"{kind}-xs" for kind in KINDS)):
        config = {"rank": 2, "alpha": 3, "adapter_type": kind}
        model = _tree(base)
        _add(model, config)
        for name, value in model.named_parameters():
            if name.endswith(("lora_A", "lora_B", "M_xs")):
                value.data.normal_(std=0.3)
            elif "magnitude" in name:
                value.data.mul_(torch.rand_like(value) + 0.5)
        path = OUTPUT / f"{kind}.safetensors"
        save_lora_safetensors(get_lora_state_dict(model), config, path)
        model = _tree(base)
        load_and_apply_loras(model, [str(path)], "any")
        set_lora_strength(model, STRENGTH)
        known |= {f"{kind}.{name}": _at(model, name).weight.detach() for name in SHAPES}
    model = _tree(base)
    load_and_apply_loras(
        model, [str(OUTPUT / f"{kind}.safetensors") for kind in ("lora", "bora-xs")], "any"
    )
    set_lora_strength(model, STRENGTH, 1)
    known |= {f"both.{name}": _at(model, name).weight.detach() for name in SHAPES}
    _save(known, "stable-audio-tools")


def _add(model: nn.Module, config: dict[str, Any]) -> None:
    from functools import partial

    from stable_audio_tools.models.lora import LoRAParametrization, add_lora

    given = {"rank": config["rank"], "lora_alpha": config["alpha"],
             "adapter_type": config["adapter_type"]}  # fmt: skip
    kinds = {
        nn.Linear: {"weight": partial(LoRAParametrization.from_linear, **given)},
        nn.Conv1d: {"weight": partial(LoRAParametrization.from_conv1d, **given)},
    }
    add_lora(model, kinds)


def _tree(weights: dict[str, Tensor]) -> nn.Module:
    """Layers with these weights, each where its name says."""
    root = nn.Module()
    for name, weight in weights.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        out, into, *kernel = weight.shape
        layer = (
            nn.Conv1d(into, out, kernel[0], bias=False) if kernel else nn.Linear(into, out, False)
        )
        layer.weight.data.copy_(weight)
        place.add_module(last, layer)
    return root


def _at(model: nn.Module, name: str) -> Any:
    for part in name.split("."):
        model = getattr(model, part)
    return model


def peft() -> None:
    """Three adapters of a tiny Stable Audio pipeline, and the weights that peft merges."""
    from peft import LoraConfig, get_peft_model

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support.pipelines import make_pipe

    common = {"r": 2, "lora_alpha": 3, "target_modules": ["to_q", "ff.net.2", "preprocess_conv"]}
    kinds = {
        "peft-lora": {"rank_pattern": {"ff.net.2": 3}, "alpha_pattern": {"ff.net.2": 7}},
        "peft-rslora": {"use_rslora": True},
        "peft-dora": {"use_dora": True},
    }
    known: dict[str, Tensor] = {}
    for kind, settings in kinds.items():
        network = make_pipe().transformer
        base = dict(_adapted(network.state_dict()))
        model = get_peft_model(network, LoraConfig(**common, **settings))
        torch.manual_seed(3)
        for name, value in model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                value.data.normal_(std=0.3)
            elif "magnitude" in name:
                value.data.mul_(torch.rand_like(value) + 0.5)
        model.save_pretrained(OUTPUT / kind)
        (OUTPUT / kind / "README.md").unlink()
        merged = dict(_adapted(model.merge_and_unload().state_dict()))
        known |= {f"base.{name}": value for name, value in base.items()}
        known |= {f"{kind}.{name}": value for name, value in merged.items()}
    _save(known, "peft")


def _adapted(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in weights.items():
        if name.endswith(("to_q.weight", "ff.net.2.weight", "preprocess_conv.weight")):
            yield name, value.clone()


def _save(known: dict[str, Tensor], name: str) -> None:
    path = OUTPUT / f"{name}-expected.safetensors"
    save_file({key: value.contiguous() for key, value in known.items()}, path)
    print(path, path.stat().st_size)


if __name__ == "__main__":
    OUTPUT.mkdir(parents=True, exist_ok=True)
    {"stable-audio-tools": stable_audio_tools, "peft": peft}[sys.argv[1]]()
