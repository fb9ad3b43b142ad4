"""The files of LoRA adapters, as the updates of weights that they hold.

Three trainers' files are read, without the trainers: peft's (`adapter_model.safetensors` beside
`adapter_config.json`), diffusers' (`pytorch_lora_weights.safetensors`), and those of
stable-audio-tools, whose header holds a `lora_config`.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anechoic.diffusers.original.names import network_names
from anechoic.engine.model import weights_fingerprint
from anechoic.errors import BadSetting
from anechoic.parsing import parse_object, read_file

PEFT_NAME, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"
PEFT_PARTS = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_magnitude_vector": "rows",
    "lora_magnitude_vector.weight": "rows",
    "alpha": "alpha",
}
# of peft's settings, those that say nothing of what is computed, or that are read below
PEFT_HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core",
    "peft_type", "peft_version", "qalora_group_size", "revision", "target_modules", "task_type",
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
}  # fmt: skip
KEEP_THE_BASE = (None, True, False, "gaussian", "eva")  # the others train on a changed base
TRAINED_BY_SAT = re.compile(
    r"(?P<module>.+)\.parametrizations\.weight\.\d+\."
    r"(?P<part>lora_A|lora_B|M_xs|magnitude|magnitude_r|magnitude_c)"
)
SAT_PARTS = {"lora_A": "down", "lora_B": "up", "M_xs": "core",
             "magnitude_r": "rows", "magnitude_c": "columns"}  # fmt: skip
SAT_KINDS = {  # what each kind holds of a matrix
    f"{kind}{ending}": {*factors, *magnitudes}
    for ending, factors in (("", ("down", "up")), ("-xs", ("core",)))
    for kind, magnitudes in (
        ("lora", ()),
        ("dora-rows", ("rows",)),
        ("dora-cols", ("columns",)),
        ("bora", ("rows", "columns")),
    )
}


@dataclass(frozen=True, eq=False)
class WeightUpdate:
    """What an adapter does to a matrix W of the network, at a weight w:

        V = W + w * scale * up @ down
        V <- rows * V / |V|         for each row, where the adapter has magnitudes of rows
        V <- columns * V / |V|      for each column, where it has those

    At w = 0 the matrix stays what it is.

    Args:
        names: the weights whose rows, one below the other, are the matrix.
        scale: alpha / r.
        up: [out, r], or the [r, r] between the first r singular vectors of W if there is no `down`.
        down: [r, in].
        rows: [out].
        columns: [in].

    Source: Hu et al., 2021 (arXiv:2106.09685); with magnitudes Liu et al., 2024
    (arXiv:2402.09353); between singular vectors Balazy et al., 2024 (arXiv:2405.17604).
    """

    names: tuple[str, ...]
    scale: float
    up: Tensor
    down: Tensor | None = None
    rows: Tensor | None = None
    columns: Tensor | None = None

    def between(self, original: Tensor) -> WeightUpdate:
        """The same update, with `down`; `original` is the matrix [out, in] without any adapter."""
        if self.down is not None:
            return self
        u, _, v = torch.linalg.svd(original.float().cpu(), full_matrices=False)
        r = len(self.up)
        # a singular vector's sign is free: the trainer makes the largest entry of each u positive
        signs = u.gather(0, u.abs().argmax(0)[None])[0].sign()
        signs[signs == 0] = 1
        return replace(self, up=(u * signs)[:, :r] @ self.up, down=(v * signs[:, None])[:r])

    def __call__(self, matrix: Tensor, weight: float) -> Tensor:
        """The updated matrix [out, in]."""
        if weight == 0:
            return matrix
        assert self.down is not None  # `between` saw to it
        up, down = self.up.to(matrix), self.down.to(matrix)
        updated = matrix + weight * self.scale * (up @ down)
        if self.rows is not None:
            lengths = updated.norm(dim=1, keepdim=True) + 1e-12
            updated = self.rows.to(matrix)[:, None] * updated / lengths
        if self.columns is not None:
            lengths = updated.norm(dim=0, keepdim=True) + 1e-12
            updated = self.columns.to(matrix) * updated / lengths
        return updated

    def require_shape(self, out: int, into: int, what: str) -> None:
        """Refuse an update of a matrix of another shape than [out, into]."""
        r = self.up.shape[1]
        given = [self.up.shape, (out, r)]
        if self.down is None:
            given, fits = [self.up.shape, (r, r)], r <= min(out, into)
        else:
            given += [self.down.shape, (r, into)]
            fits = True
        for magnitude, length in ((self.rows, out), (self.columns, into)):
            given += [] if magnitude is None else [magnitude.shape, (length,)]
        if not fits or any(
            tuple(g) != tuple(w) for g, w in zip(given[::2], given[1::2], strict=True)
        ):
            raise BadSetting(
                f"{what} changes '{self.names[0]}' in another shape than the [{out}, {into}] that "
                "this model has, so it was trained on another model; load that one"
            )


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """An adapter as its file holds it.

    Args:
        path: the file.
        parts: tensors by the name of a matrix and of what they are of it: "up", "down", ...
        scales: alpha / r by the names of the matrices.
        written_by: "peft", "diffusers" or "stable-audio-tools", whose names the matrices have.
    """

    path: Path
    parts: Mapping[str, Mapping[str, Tensor]]
    scales: Mapping[str, float]
    written_by: str

    @property
    def name(self) -> str:
        """What sentences call it."""
        return f"LoRA '{self.path}'"

    @cached_property
    def fingerprint(self) -> str:
        """A short name of its tensors, which an index of its training clips carries."""
        return weights_fingerprint(
            {
                f"{module}.{part}": t
                for module, held in self.parts.items()
                for part, t in held.items()
            }
        )

    def updates(self, names_of: Callable[[str], tuple[str, ...]]) -> list[WeightUpdate]:
        """What it does to each matrix.

        Args:
            names_of: the weights that a matrix consists of; () where the model has no such matrix.

        Raises:
            BadSetting: the model has no such matrix.
        """
        made = []
        for module, held in self.parts.items():
            if not (names := names_of(module)):
                raise BadSetting(
                    f"{self.name} changes '{module}', which this model does not have, so it was "
                    "trained on another model; load that one"
                )
            up = held["core"] if "core" in held else held["up"]
            down, rows, columns = (held.get(part) for part in ("down", "rows", "columns"))
            made.append(WeightUpdate(names, self.scales[module], up, down, rows, columns))
        return made


def read_adapter(path: str | Path) -> AdapterFile:
    """Read the file of an adapter, or the folder that holds it.

    Raises:
        BadSetting: there is none, or it is of a kind that is not known, damaged or not finite.
    """
    file = _file_of(Path(path))
    tensors, header = _read(file)
    config = file.parent / PEFT_CONFIG
    if "lora_config" in header or any(TRAINED_BY_SAT.fullmatch(key) for key in tensors):
        return _of_stable_audio_tools(file, tensors, header)
    of_peft = any(key.startswith("base_model.model.") for key in tensors)
    if file.name == PEFT_NAME or (config.is_file() and of_peft):
        content = read_file(config, "configuration of a LoRA", BadSetting)
        settings = parse_object(content, f"'{config}'", BadSetting)
        return _of_peft(file, tensors, settings)
    return _of_diffusers(file, tensors, header)


def _file_of(path: Path) -> Path:
    if path.is_dir():
        found = [path / name for name in (PEFT_NAME, DIFFUSERS_NAME) if (path / name).is_file()]
        if not found:
            raise BadSetting(
                f"folder '{path}' holds no LoRA: expected {PEFT_NAME} or {DIFFUSERS_NAME} in it"
            )
        return found[0]
    if not path.is_file():
        raise BadSetting(f"the LoRA '{path}' does not exist; check the path")
    if path.suffix != ".safetensors":
        raise BadSetting(
            f"LoRA '{path}' is not a .safetensors file, and others may run code when they are "
            "read; save it as one: stable-audio-tools has convert_lora_ckpt_to_safetensors"
        )
    return path


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadSetting(
            f"LoRA '{file}' is damaged or cut off ({error}); fetch or save it again"
        ) from error
    for key, value in tensors.items():
        if not value.is_floating_point() or not torch.isfinite(value).all():
            raise BadSetting(
                f"LoRA '{file}': '{key}' holds values that are not finite numbers; train it again, "
                "or take an earlier checkpoint"
            )
    if not tensors:
        raise BadSetting(f"LoRA '{file}' holds nothing; save it again")
    return tensors, header


# ------------------------------------------------------------------------------- peft, diffusers


def _of_peft(file: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> AdapterFile:
    _require_plain(file, config)
    bare = {key.removeprefix("base_model.model."): value for key, value in tensors.items()}
    parts = _paired(file, bare)
    return AdapterFile(file, parts, _scales(file, parts, config), "peft")


def _of_diffusers(
    file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> AdapterFile:
    parts = _paired(file, tensors)
    scales: dict[str, float] = {}
    told = parse_object(header.get("lora_adapter_metadata", "{}"), f"'{file}'", BadSetting)
    for component in {module.partition(".")[0] for module in parts}:
        start = f"{component}."
        config = {k.removeprefix(start): v for k, v in told.items() if k.startswith(start)}
        _require_plain(file, config)
        own = {module: held for module, held in parts.items() if module.startswith(start)}
        scales |= _scales(file, own, config, start)
    return AdapterFile(file, parts, scales, "diffusers")


def _require_plain(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse settings of peft that change what an adapter computes, in a way unknown here."""
    kind = config.get("peft_type", "LORA")
    odd = [name for name in sorted(config.keys() - PEFT_HARMLESS)
           if config[name] not in (None, False, "", "none", "megatron.core") and config[name] != {}
           and config[name] != []]  # fmt: skip
    if config.get("init_lora_weights") not in KEEP_THE_BASE:
        odd.insert(0, "init_lora_weights")
    if kind != "LORA" or odd:
        which = f"of type {kind}" if kind != "LORA" else f"with {odd[0]} = {config[odd[0]]!r}"
        raise BadSetting(
            f"LoRA '{file}' is one {which}, which cannot be applied here; merge it into its model "
            "with peft's merge_and_unload, and use the folder of that model"
        )


def _paired(file: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by matrix and part, as matrices: a kernel of a convolution becomes one row."""
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in tensors.items():
        ending = next((end for end in PEFT_PARTS if key.endswith(f".{end}")), None)
        if ending is None:
            raise _unknown(file, key)
        part, module = PEFT_PARTS[ending], key.removesuffix(f".{ending}")
        _require_form(file, key, part, value)
        flat = value.reshape(-1) if part in ("rows", "alpha") else value.flatten(1)
        parts[module][part] = flat.float()
    for module, held in parts.items():
        if not {"down", "up"} <= held.keys():
            raise BadSetting(
                f"LoRA '{file}' holds only {' and '.join(sorted(held))} of '{module}'; expected "
                "lora_A and lora_B of each: save it again"
            )
        if len(held["down"]) != held["up"].shape[1]:
            raise BadSetting(
                f"LoRA '{file}': lora_A and lora_B of '{module}' have ranks "
                f"{len(held['down'])} and {held['up'].shape[1]}; save it again"
            )
    return parts


def _scales(
    file: Path,
    parts: Mapping[str, dict[str, Tensor]],
    config: Mapping[str, Any],
    start: str = "",
) -> dict[str, float]:
    """alpha / r of each matrix; without a configuration alpha is r. Alphas leave the parts."""
    scales = {}
    patterns, root = config.get("alpha_pattern") or {}, bool(config.get("use_rslora"))
    if not isinstance(patterns, dict):
        raise BadSetting(
            f"LoRA '{file}': alpha_pattern is {patterns!r}, not an object; save it again"
        )
    for module, held in parts.items():
        r, name = len(held["down"]), module.removeprefix(start)
        alpha = held.pop("alpha", None)
        told = config.get("lora_alpha", r) if alpha is None else alpha.item()
        told = next((patterns[one] for one in patterns if _matches(one, name)), told)
        if not isinstance(told, int | float) or not math.isfinite(told):
            raise BadSetting(f"LoRA '{file}': the alpha of '{module}' is {told!r}, not a number")
        scales[module] = told / (math.sqrt(r) if root else r)
    return scales


def _matches(pattern: str, name: str) -> bool:
    """Whether a pattern of peft's is of this matrix."""
    try:
        return re.fullmatch(rf"(.*\.)?({pattern})", name) is not None
    except re.error:
        return False


def _require_form(file: Path, key: str, part: str, value: Tensor) -> None:
    """Refuse a tensor that is no matrix where one is needed, or holds nothing."""
    if (
        value.numel() == 0
        or (part == "alpha" and value.numel() > 1)
        or (part in ("up", "down", "core") and value.dim() < 2)
    ):
        raise BadSetting(
            f"LoRA '{file}': '{key}' has the shape {list(value.shape)}, which no LoRA has; save it "
            "again"
        )


def _unknown(file: Path, key: str) -> BadSetting:
    return BadSetting(
        f"LoRA '{file}' holds '{key}', which is no part of a LoRA that is known here; merge it "
        "into its model with the tool that trained it, and use the folder of that model"
    )


# ---------------------------------------------------------------------------- stable-audio-tools


def _of_stable_audio_tools(
    file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> AdapterFile:
    config = parse_object(header.get("lora_config", "{}"), f"the header of '{file}'", BadSetting)
    kind = config.get("adapter_type", "lora")
    if kind == "dora":  # an older name; older files hold the magnitudes of columns as one row
        sizes = [value.shape for key, value in tensors.items() if key.endswith(".magnitude")]
        columns = bool(sizes) and len(sizes[0]) == 2 and sizes[0][0] == 1
        kind = "dora-cols" if columns else "dora-rows"
    if not isinstance(kind, str) or kind not in SAT_KINDS:
        raise BadSetting(
            f"LoRA '{file}' is of type {json.dumps(kind)}; expected one of {', '.join(SAT_KINDS)}"
        )
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in tensors.items():
        found = TRAINED_BY_SAT.fullmatch(key)
        if found is None:
            raise _unknown(file, key)
        part, flat = _part_of(found["part"], value, kind)
        _require_form(file, key, part, value)
        parts[found["module"]][part] = flat
    scales = {}
    for module, held in parts.items():
        if held.keys() != SAT_KINDS[kind]:
            raise BadSetting(
                f"LoRA '{file}' is of type {kind} and holds {', '.join(sorted(held))} of "
                f"'{module}'; expected {', '.join(sorted(SAT_KINDS[kind]))}: save it again"
            )
        r = len(held["down" if "down" in held else "core"])
        rank = config.get("rank", r)
        alpha = config.get("alpha", rank)
        if rank != r or not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise BadSetting(
                f"LoRA '{file}': '{module}' has rank {r}, but its header says rank {rank!r} and "
                f"alpha {alpha!r}; save it again"
            )
        scales[module] = alpha / r
    return AdapterFile(file, parts, scales, "stable-audio-tools")


def _part_of(name: str, value: Tensor, kind: str) -> tuple[str, Tensor]:
    """A tensor of stable-audio-tools as a part of its matrix."""
    part = SAT_PARTS.get(name, "columns" if "cols" in kind else "rows")
    return part, (value.reshape(-1) if part in ("rows", "columns") else value).float()


def live_fingerprints(*modules: nn.Module) -> list[str]:
    """Names of the adapters that stable-audio-tools applied to a model, as their files have them.

    Those of strength 0 are left out.

    Args:
        modules: what a file's names begin at: the model's network and its conditioner.
    """
    adapters: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for module in modules:
        for key, value in module.state_dict().items():
            if (found := TRAINED_BY_SAT.fullmatch(key)) is None:
                continue
            adapter: Any = module.get_submodule(key.rpartition(".")[0])
            if float(adapter.lora_strength) != 0:
                part, flat = _part_of(found["part"], value, adapter.adapter_type)
                adapters[adapter.lora_index][f"{found['module']}.{part}"] = flat
    return [weights_fingerprint(tensors) for _, tensors in sorted(adapters.items())]


def stable_audio_names(layers: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The matrices of Stable Audio Open's model as stable-audio-tools names them, and the weights
    of a diffusers pipeline that each consists of."""
    for part, name, own, how in network_names(layers, projected=True):
        if name.endswith(".weight") and how != "column":
            inside = name.removeprefix("model.").removeprefix("conditioner.")
            yield inside.removesuffix(".weight"), tuple(f"{part}.{each}" for each in own)
