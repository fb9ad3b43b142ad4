"""LoRA on a pipeline: files of three trainers, weights that change, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.model_folder import audible_pipe, noise_clips
from support.pipelines import CAPTIONS, CASES, make_pipe
from support.sounds import RATE
from torch import Tensor, nn
from torch.nn.utils import parametrize

from anechoic import ClassifierFree, embedder, guard
from anechoic.diffusers import fingerprint, lora
from anechoic.diffusers.fingerprints import network_fingerprint
from anechoic.diffusers.lora_files import (
    SAT_KINDS,
    live_fingerprints,
    read_adapter,
    stable_audio_names,
)
from anechoic.engine.model import require_own_index
from anechoic.errors import BadSetting, IndexMismatch
from anechoic.index import Sound, TrainingIndex

DATA = Path(__file__).parents[1] / "data/lora"  # made by scripts/lora_reference.py
TABLE = dict(stable_audio_names(2))
CASE = CASES["StableAudioPipeline"]
QUERY, KERNEL = "transformer_blocks.0.attn1.to_q", "preprocess_conv"
QKV = "model.transformer.layers.1.self_attn.to_qkv"


@pytest.fixture
def pipe() -> Any:
    return make_pipe()


def weights_of(pipe: Any, names: tuple[str, ...]) -> list[Tensor]:
    components = {name.partition(".")[0] for name in names}
    known = {
        f"{part}.{name}": weight
        for part in components
        for name, weight in pipe.components[part].named_parameters()
    }
    return [known[name] for name in names]


def matrix(pipe: Any, module: str) -> Tensor:
    """The matrix that stable-audio-tools calls so."""
    return torch.cat([weight.detach() for weight in weights_of(pipe, TABLE[module])])


@torch.no_grad()
def put(pipe: Any, matrices: Mapping[str, Tensor]) -> None:
    for module, value in matrices.items():
        weights = weights_of(pipe, TABLE[module])
        for weight, part in zip(weights, value.split([len(w) for w in weights]), strict=True):
            weight.copy_(part)


def known(file: str, prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    stored = load_file(DATA / f"{file}-expected.safetensors")
    return {name.removeprefix(start): v for name, v in stored.items() if name.startswith(start)}


def factors(out: int, into: int, r: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(r, into, generator=generator)
    return down, 0.3 * torch.randn(out, r, generator=generator)


def write_diffusers(file: Path, seed: int = 0, module: str = QUERY, **more: Tensor) -> Path:
    down, up = factors(16, 16, seed=seed)
    tensors = {f"transformer.{module}.lora_A.weight": down,
               f"transformer.{module}.lora_B.weight": up, **more}  # fmt: skip
    save_file(tensors, file)
    return file


def write_sat(
    file: Path, config: Mapping[str, Any] | None = None, module: str = QKV, **tensors: Tensor
) -> Path:
    down, up = factors(48, 16)
    given = tensors or {"lora_A": down, "lora_B": up}
    named = {f"{module}.parametrizations.weight.0.{part}": v for part, v in given.items()}
    told = {"rank": 2, "alpha": 3, "adapter_type": "lora", **(config or {})}
    save_file(named, file, {"lora_config": json.dumps(told)})
    return file


# ----------------------------------------------------------------- the files, as their trainers do


@pytest.mark.parametrize("kind", SAT_KINDS)
def test_each_kind_of_stable_audio_tools_gives_the_weights_that_it_gives_there(
    pipe: Any, kind: str
) -> None:
    put(pipe, known("stable-audio-tools", "base"))
    lora.apply(pipe, DATA / f"{kind}.safetensors", 0.5)
    for module, expected in known("stable-audio-tools", kind).items():
        torch.testing.assert_close(matrix(pipe, module), expected, rtol=0, atol=2e-6)


def test_two_adapters_act_one_after_the_other_as_in_stable_audio_tools(pipe: Any) -> None:
    put(pipe, known("stable-audio-tools", "base"))
    lora.apply(pipe, DATA / "lora.safetensors")
    lora.apply(pipe, DATA / "bora-xs.safetensors", 0.5)
    for module, expected in known("stable-audio-tools", "both").items():
        torch.testing.assert_close(matrix(pipe, module), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["peft-lora", "peft-rslora", "peft-dora"])
def test_a_folder_of_peft_gives_the_weights_that_peft_merges(pipe: Any, kind: str) -> None:
    pipe.transformer.load_state_dict(known("peft", "base"), strict=False)
    lora.apply(pipe, DATA / kind)
    weights = pipe.transformer.state_dict()
    for name, expected in known("peft", kind).items():
        torch.testing.assert_close(weights[name], expected, rtol=0, atol=1e-6)


def test_the_matrix_of_stable_audio_tools_is_w_plus_alpha_over_r_b_a(
    pipe: Any, tmp_path: Path
) -> None:
    before = matrix(pipe, QKV)
    lora.apply(pipe, write_sat(tmp_path / "x.safetensors"), 0.5)
    down, up = factors(48, 16)
    expected = before + 0.5 * 1.5 * up @ down
    torch.testing.assert_close(matrix(pipe, QKV), expected, rtol=0, atol=1e-6)


def test_a_lora_of_the_seconds_reaches_the_projection_model(pipe: Any, tmp_path: Path) -> None:
    module = "conditioners.seconds_total.embedder.embedding.1"
    before = matrix(pipe, module)
    down, up = factors(16, 257)
    file = write_sat(tmp_path / "x.safetensors", None, module, lora_A=down, lora_B=up)
    lora.apply(pipe, file)
    expected = before + 1.5 * up @ down
    torch.testing.assert_close(matrix(pipe, module), expected, rtol=0, atol=1e-6)


def test_a_file_of_diffusers_is_scaled_by_its_header(pipe: Any, tmp_path: Path) -> None:
    down, up = factors(16, 16)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    name = f"transformer.{QUERY}"
    settings = {"transformer.r": 2, "transformer.lora_alpha": 8, "transformer.peft_type": "LORA"}
    tensors = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    save_file(tensors, file, {"lora_adapter_metadata": json.dumps(settings)})
    before = pipe.transformer.get_parameter(f"{QUERY}.weight").detach().clone()
    lora.apply(pipe, tmp_path)  # the folder that holds it
    after = pipe.transformer.get_parameter(f"{QUERY}.weight").detach()
    torch.testing.assert_close(after, before + 4 * up @ down, rtol=0, atol=1e-6)


# --------------------------------------------------------------------------------- in generations


@contextmanager
def beside(layer: nn.Module, down: Tensor, up: Tensor, weight: float) -> Iterator[None]:
    """The adapter as a trainer has it: beside the layer, whose weights stay."""

    def add(module: nn.Module, given: tuple[Tensor], output: Tensor) -> Tensor:
        return output + weight * (given[0] @ down.T) @ up.T

    handle = layer.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def test_a_guarded_generation_is_that_of_an_adapter_beside_the_layer_at_each_weight(
    pipe: Any, tmp_path: Path
) -> None:
    plain = CASE.generate(pipe)
    file = write_diffusers(tmp_path / "x.safetensors")
    down, up = factors(16, 16)
    unfused = []
    for weight in (0.0, 0.5, 1.0):
        with beside(pipe.transformer.transformer_blocks[0].attn1.to_q, down, up, weight):
            unfused.append(CASE.generate(pipe))
    adapter = lora.apply(pipe, file, 0.25)
    for weight, expected in zip((0.0, 0.5, 1.0), unfused, strict=True):
        adapter.weight = weight
        with guard(pipe, ClassifierFree(7.0)):
            made = CASE.generate(pipe)
        torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(made, plain, atol=1e-2)
    lora.fuse(pipe)
    assert torch.equal(CASE.generate(pipe), made)
    assert fingerprint(pipe).endswith(f"+{adapter.fingerprint}")


def test_two_adapters_and_a_removed_one_leave_the_weights_bit_for_bit(
    pipe: Any, tmp_path: Path
) -> None:
    before = {k: v.clone() for k, v in pipe.transformer.state_dict().items()}
    one = lora.apply(pipe, write_diffusers(tmp_path / "1.safetensors"))
    alone = pipe.transformer.get_parameter(f"{QUERY}.weight").detach().clone()
    two = lora.apply(pipe, write_diffusers(tmp_path / "2.safetensors", seed=5), 0.5)
    (down1, up1), (down2, up2) = factors(16, 16), factors(16, 16, seed=5)
    both = before[f"{QUERY}.weight"] + up1 @ down1 + 0.5 * up2 @ down2
    torch.testing.assert_close(pipe.transformer.get_parameter(f"{QUERY}.weight").detach(), both)
    assert [adapter.weight for adapter in lora.applied(pipe)] == [1.0, 0.5]
    two.remove()
    assert torch.equal(pipe.transformer.get_parameter(f"{QUERY}.weight"), alone)
    one.weight = 0.0
    now = pipe.transformer.state_dict()
    assert all(torch.equal(now[name], value) for name, value in before.items())


def test_half_precision_returns_to_its_own_weights(pipe: Any, tmp_path: Path) -> None:
    pipe.to(torch.bfloat16)
    before = pipe.transformer.get_parameter(f"{QUERY}.weight").detach().clone()
    adapter = lora.apply(pipe, write_diffusers(tmp_path / "x.safetensors"))
    assert not torch.equal(pipe.transformer.get_parameter(f"{QUERY}.weight"), before)
    adapter.weight = 0.0
    assert torch.equal(pipe.transformer.get_parameter(f"{QUERY}.weight"), before)


# -------------------------------------------------------------------------------- the fingerprint


def test_the_fingerprint_names_the_base_and_the_adapters_that_are_on(
    pipe: Any, tmp_path: Path
) -> None:
    base = fingerprint(pipe)
    one = lora.apply(pipe, write_diffusers(tmp_path / "1.safetensors"))
    two = lora.apply(pipe, write_diffusers(tmp_path / "2.safetensors", seed=5), 0.5)
    assert fingerprint(pipe) == f"{base}+{one.fingerprint}+{two.fingerprint}"
    assert network_fingerprint(deepcopy(pipe.transformer)) == fingerprint(pipe)
    assert fingerprint(pipe.to(torch.bfloat16)) == f"{base}+{one.fingerprint}+{two.fingerprint}"
    one.weight = 0.0
    assert fingerprint(pipe) == f"{base}+{two.fingerprint}"


def test_weights_that_another_hand_changed_are_of_no_known_model(pipe: Any, tmp_path: Path) -> None:
    base = fingerprint(pipe)
    lora.apply(pipe, write_diffusers(tmp_path / "1.safetensors"))
    with torch.no_grad():
        pipe.transformer.proj_in.weight.neg_()
    assert base not in fingerprint(pipe)
    assert "+" not in fingerprint(pipe)
    assert lora.applied(pipe) == ()


@pytest.mark.parametrize(
    ("named", "fits"),
    [
        ("b", True),
        ("a", True),
        ("b+a", True),
        ("b+a+c", True),
        ("a+c", True),
        ("d", False),
        ("b+d", False),
    ],
)
def test_an_index_fits_a_model_that_is_made_of_all_that_it_names(named: str, fits: bool) -> None:
    index = TrainingIndex.from_embeddings(torch.eye(3))
    index.about = type(index.about)(**{**vars(index.about), "model": named})
    if fits:
        require_own_index(index, lambda: "b+a+c")
    else:
        with pytest.raises(IndexMismatch, match="wrong clips"):
            require_own_index(index, lambda: "b+a+c")


def test_an_index_of_the_adapters_model_does_not_fit_the_base_alone() -> None:
    index = TrainingIndex.from_embeddings(torch.eye(3))
    index.about = type(index.about)(**{**vars(index.about), "model": "b+a"})
    with pytest.raises(IndexMismatch, match="wrong clips"):
        require_own_index(index, lambda: "b")


def test_an_adapter_whose_clips_no_index_names_is_told(pipe: Any, tmp_path: Path) -> None:
    adapter = lora.apply(pipe, write_diffusers(tmp_path / "1.safetensors"))
    index = TrainingIndex.from_embeddings(torch.eye(3))
    (sentence,) = lora.unknown_clips(lora.applied(pipe), [index])
    assert adapter.fingerprint in sentence
    assert "neither kept away from" in sentence
    index.about = type(index.about)(**{**vars(index.about), "model": adapter.fingerprint})
    assert lora.unknown_clips(lora.applied(pipe), [index]) == []
    adapter.weight = 0.0
    assert lora.unknown_clips(lora.applied(pipe), []) == []


# ------------------------------------------------------------------------------------ the refusals


def _nan() -> Tensor:
    return torch.full((2, 16), math.nan)


REFUSALS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda folder: folder / "no.safetensors", "does not exist"),
    "an empty folder": (lambda folder: folder, "holds no LoRA"),
    "another model's shape": (
        lambda folder: write_diffusers(folder / "x.safetensors", module="proj_out"),
        "in another shape than the",
    ),
    "another model's name": (
        lambda folder: write_diffusers(folder / "x.safetensors", module="blocks.0.to_q"),
        "which this model does not have",
    ),
    "a key left over": (
        lambda folder: write_diffusers(folder / "x.safetensors", **{"y.hada_w1_a": torch.ones(2)}),
        "no part of a LoRA",
    ),
    "half a pair": (
        lambda folder: write_diffusers(
            folder / "x.safetensors", **{"transformer.proj_in.lora_A.weight": torch.ones(2, 3)}
        ),
        "holds only down of",
    ),
    "ranks that differ": (
        lambda folder: write_diffusers(
            folder / "x.safetensors",
            **{f"transformer.{QUERY}.lora_A.weight": torch.ones(3, 16)},
        ),
        "have ranks 3 and 2",
    ),
    "not a number": (
        lambda folder: write_sat(folder / "x.safetensors", None, QKV, lora_A=_nan(),
                                 lora_B=torch.ones(48, 2)),
        "not finite numbers",
    ),
    "an unknown kind": (
        lambda folder: write_sat(folder / "x.safetensors", {"adapter_type": "hydra"}),
        'type "hydra"; expected one of',
    ),
    "magnitudes that its kind lacks": (
        lambda folder: write_sat(folder / "x.safetensors", {"adapter_type": "dora-rows"}),
        "holds down, up of",
    ),
    "another rank than its header says": (
        lambda folder: write_sat(folder / "x.safetensors", {"rank": 4}),
        "its header says rank 4",
    ),
    "stable-audio-tools, of another depth": (
        lambda folder: write_sat(
            folder / "x.safetensors", None, "model.transformer.layers.9.self_attn.to_qkv"
        ),
        "which this model does not have",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_applied_is_refused_in_a_sentence(
    pipe: Any, tmp_path: Path, name: str
) -> None:
    make, sentence = REFUSALS[name]
    before = fingerprint(pipe)
    with pytest.raises(BadSetting, match=sentence):
        lora.apply(pipe, make(tmp_path))
    assert fingerprint(pipe) == before


def test_a_file_that_is_cut_off_or_may_run_code_is_refused(pipe: Any, tmp_path: Path) -> None:
    file = write_diffusers(tmp_path / "x.safetensors")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(BadSetting, match="damaged or cut off"):
        lora.apply(pipe, file)
    (tmp_path / "x.ckpt").write_bytes(b"")
    with pytest.raises(BadSetting, match="may run code"):
        lora.apply(pipe, tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"peft_type": "LOHA"}, "of type LOHA"),
        ({"bias": "all"}, "with bias = 'all'"),
        ({"modules_to_save": ["proj_in"]}, "with modules_to_save"),
        ({"init_lora_weights": "pissa"}, "with init_lora_weights = 'pissa'"),
    ],
)
def test_what_peft_computes_otherwise_is_refused(
    pipe: Any, tmp_path: Path, setting: dict[str, Any], told: str
) -> None:
    for file in (DATA / "peft-lora").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "adapter_config.json").read_text("utf-8"))
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | setting), "utf-8")
    with pytest.raises(BadSetting, match=told):
        lora.apply(pipe, tmp_path)


def test_a_lora_of_stable_audio_tools_is_refused_on_another_pipeline(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="and this is a AudioLDM2Pipeline"):
        lora.apply(CASES["AudioLDM2Pipeline"].make(), write_sat(tmp_path / "x.safetensors"))


def test_weights_and_fused_adapters_that_cannot_be_set(pipe: Any, tmp_path: Path) -> None:
    file = write_diffusers(tmp_path / "x.safetensors")
    with pytest.raises(BadSetting, match="finite number"):
        lora.apply(pipe, file, math.nan)
    adapter = lora.apply(pipe, file)
    with pytest.raises(BadSetting, match="applied already"):
        lora.apply(pipe, file)
    lora.fuse(pipe)
    with pytest.raises(BadSetting, match="fused"):
        adapter.weight = 0.5
    with pytest.raises(BadSetting, match="fused"):
        lora.apply(pipe, DATA / "lora-xs.safetensors")
    more = lora.apply(pipe, write_diffusers(tmp_path / "2.safetensors", seed=5))  # on top of it
    fused = pipe.transformer.get_parameter(f"{QUERY}.weight").detach().clone()
    more.weight = 0.0
    down, up = factors(16, 16, seed=5)
    assert torch.allclose(
        fused - pipe.transformer.get_parameter(f"{QUERY}.weight"), up @ down, atol=1e-6
    )
    assert fingerprint(pipe).count("+") == 1


# -------------------------------------------------------------------------------- several indexes


def test_one_guard_sees_a_copy_of_the_base_and_one_of_the_adapters_clips(tmp_path: Path) -> None:
    """Each index holds what the model makes of a prompt, so it replicates a clip of either."""
    pipe = audible_pipe()
    base = fingerprint(pipe)
    adapter = lora.apply(pipe, write_diffusers(tmp_path / "x.safetensors"))
    settings = {"num_inference_steps": 6, "guidance_scale": 7.0}

    def make(prompt: str) -> Tensor:
        made: Tensor = pipe(prompt, generator=torch.manual_seed(0), **settings).audios[0]
        return made

    folders = []
    for name, model, prompt in (("base", base, CAPTIONS[0]), ("mine", adapter.fingerprint,
                                                              CAPTIONS[1])):  # fmt: skip
        clips = [Sound("copy.wav", prompt, make(prompt), RATE), *noise_clips()]
        held = TrainingIndex.build(clips, embedder("magmel"), model=model)
        folders.append(held.save(tmp_path / name))
    for row, prompt in ((0, CAPTIONS[0]), (5, CAPTIONS[1])):
        with guard(pipe, folders) as trace:
            make(prompt)
        assert row in trace.column("neighbour").flatten().tolist()
        assert bool(trace.column("gate").any())
    assert lora.unknown_clips(lora.applied(pipe), [TrainingIndex.load(f) for f in folders]) == []
    adapter.remove()
    with (
        pytest.raises(IndexMismatch, match=f"of model '{adapter.fingerprint}'"),
        guard(pipe, folders),
    ):
        pass


class Applied(nn.Module):
    """A LoRAParametrization of stable-audio-tools, without what it computes."""

    def __init__(self, tensors: Mapping[str, Tensor], kind: str, number: int):
        super().__init__()
        self.adapter_type, self.lora_index, self.lora_strength = kind, number, torch.tensor(1.0)
        for name, value in tensors.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, weight: Tensor) -> Tensor:
        return weight


def test_what_stable_audio_tools_applied_is_named_as_its_file_is() -> None:
    files = [DATA / f"{kind}.safetensors" for kind in SAT_KINDS]
    model, every = nn.Module(), []
    for number, file in enumerate(files):
        tensors: dict[str, dict[str, Tensor]] = {}
        for key, value in load_file(file).items():
            name, _, part = key.partition(".parametrizations.weight.0.")
            tensors.setdefault(name, {})[part] = value
        for name, parts in tensors.items():
            inner = model
            for step in name.split("."):
                if not hasattr(inner, step):
                    inner.add_module(step, nn.Linear(1, 1))
                inner = inner.get_submodule(step)
            applied = Applied(parts, file.stem, number)
            every.append(applied)
            parametrize.register_parametrization(inner, "weight", applied)
    known = [read_adapter(file).fingerprint for file in files]
    assert live_fingerprints(model) == known
    assert len(set(known)) == len(known)
    for applied in every:
        applied.lora_strength.fill_(0.0 if applied.lora_index == 1 else 0.5)
    assert live_fingerprints(model) == known[:1] + known[2:]


def test_a_pipeline_whose_weights_are_offloaded_is_refused(pipe: Any) -> None:
    adapter = lora.apply(pipe, DATA / "lora.safetensors")
    pipe.transformer.to("meta")
    with pytest.raises(BadSetting, match="before enable_sequential_cpu_offload"):
        lora.apply(pipe, DATA / "dora-rows.safetensors")
    with pytest.raises(BadSetting, match="before enable_sequential_cpu_offload"):
        adapter.weight = 0.5
