"""What machines ask for: number formats, offloading, a compiled network."""

from __future__ import annotations

import pytest
import torch
from support.pipelines import CASES, make
from support.pool import Pool
from torch._dynamo.utils import counters

from anechoic import guard
from anechoic.diffusers import fingerprint
from anechoic.guidance import AntiMemorization, ClassifierFree, TransitionPoint
from anechoic.guidance.step import Guided


def amg(case, **settings):
    store = Pool(case.images)
    open_gate = {"c1": 1.0, "c2": 1.0, "c3": 5.0, "lambda_min": -1.0, "lambda_max": -1.0}
    return AntiMemorization(store, store, **{**open_gate, **settings})


@pytest.mark.parametrize("name", CASES)
def test_fp16(name):
    case, pipe = CASES[name], make(name).to(torch.float16)
    plain = case.generate(pipe, steps=2)
    with guard(pipe, ClassifierFree(7.0)):
        assert torch.equal(case.generate(pipe, steps=2), plain)
    with guard(pipe, amg(case)):
        guarded = case.generate(pipe, steps=2)
    assert guarded.dtype == torch.float16
    assert torch.isfinite(guarded).all()
    assert not torch.equal(guarded, plain)


def test_a_decoder_that_overflows_in_fp16_is_used_as_the_pipeline_uses_it():
    case = CASES["StableDiffusionXLPipeline"]
    pipe = make(case.name).to(torch.float16)
    assert pipe.vae.config.force_upcast
    steps = []
    with guard(pipe, lambda step: steps.append(step) or Guided(7.0)):
        latents = case.generate(pipe, "a dog barks", steps=2)
        decoded = steps[-1].decode(latents.float())
    assert pipe.vae.dtype == torch.float16  # it is a copy that is wider
    made = case.generate(pipe, "a dog barks", steps=2, output_type="pt")
    torch.testing.assert_close(decoded, made.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "LongCatAudioDiTPipeline",
        "StableDiffusionPipeline",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in CASES
            if name not in ("LongCatAudioDiTPipeline", "StableDiffusionPipeline")
        ),
    ],
)
def test_offloading_by_accelerate_keeps_the_guard(name):
    case, offloaded = CASES[name], make(name)
    expected = case.generate(make(name), steps=2)
    offloaded.enable_model_cpu_offload(device="cpu")  # all its hooks, without a device to gain
    with guard(offloaded, ClassifierFree(7.0)):
        assert torch.equal(case.generate(offloaded, steps=2), expected)
    at_home = make(name)
    with guard(at_home, amg(case)), guard(offloaded, amg(case)):
        torch.testing.assert_close(
            case.generate(offloaded, steps=2), case.generate(at_home, steps=2),
            rtol=1e-3, atol=1e-3,
        )  # fmt: skip


def test_the_network_is_not_moved_away_while_a_gradient_goes_through_it():
    case = CASES["StableDiffusionPipeline"]
    pipe = make(case.name)
    pipe.enable_model_cpu_offload(device="cpu")

    def watched():
        moved, network = [], pipe.vae._hf_hook.prev_module_hook
        # what is on the CPU already is not moved: have it look as if it were elsewhere
        network.model = torch.nn.Linear(1, 1, device="meta")
        network.offload = lambda: moved.append(1)
        return moved

    moved = watched()
    case.generate(pipe, steps=2, output_type="pt")
    assert moved == [1]  # by the pipeline, when it is done with the network
    moved = watched()  # each generation of diffusers ends with new hooks
    with guard(pipe, amg(case, gradient="denoiser")):
        case.generate(pipe, steps=2)
    assert moved == []


@pytest.mark.parametrize("name", ["AudioLDM2Pipeline", "StableDiffusion3Pipeline"])
def test_group_offloading_keeps_the_guard(name):
    case, pipe = CASES[name], make(name)
    expected = case.generate(make(name), steps=2)
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    with guard(pipe, ClassifierFree(7.0)):
        assert torch.equal(case.generate(pipe, steps=2), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how", "backend"),
    [
        ("StableDiffusion3Pipeline", "wrapped", "aot_eager"),
        ("StableDiffusion3Pipeline", "in place", "eager"),
        ("LongCatAudioDiTPipeline", "in place", "eager"),
    ],
)
def test_a_compiled_network_is_guarded_without_being_compiled_anew(name, how, backend):
    case, pipe = CASES[name], make(name)
    own = fingerprint(pipe)
    torch._dynamo.reset()
    if how == "wrapped":
        pipe.transformer = torch.compile(pipe.transformer, backend=backend)
    else:
        pipe.transformer.compile(backend=backend)
    assert fingerprint(pipe) == own
    plain = case.generate(pipe)
    with torch.compiler.set_stance("fail_on_recompile"):
        with guard(pipe, ClassifierFree(7.0)):
            assert torch.equal(case.generate(pipe, scale=2.0), plain)
        with guard(pipe, TransitionPoint(7.0, before=0.0, at=0.5)):
            assert not torch.equal(case.generate(pipe), plain)
    with guard(pipe, amg(case)) as trace:  # the extra passes are compiled, too
        assert torch.isfinite(case.generate(pipe)).all()
    assert bool(trace.column("gate").all())
    assert torch.equal(case.generate(pipe), plain)


# amg's gate is open: a pass for the captions, and a gradient of the decoder
GUARDS = (
    lambda case: ClassifierFree(7.0),
    lambda case: TransitionPoint(7.0, before=0.0, at=0.5),
    amg,
)


@pytest.mark.slow
def test_a_compiled_network_is_compiled_for_a_guard_not_for_its_steps_and_gives_the_same():
    case = CASES["StableAudioPipeline"]
    plain, compiled = make(case.name), make(case.name)
    torch._dynamo.reset()
    counters.clear()
    compiled.transformer.compile(backend="eager")
    graphs = counters["stats"]
    for guidance in GUARDS:
        made_for_it = []
        for steps, seed in ((2, 0), (4, 1)):
            with guard(plain, guidance(case)):
                expected = case.generate(plain, steps=steps, seed=seed)
            with guard(compiled, guidance(case)):
                assert torch.equal(case.generate(compiled, steps=steps, seed=seed), expected)
            made_for_it.append(graphs["unique_graphs"])
        assert made_for_it[0] == made_for_it[1]
    assert graphs["unique_graphs"] <= 3  # both halves; captions; the latents need a gradient


def reusing(network):
    """Have a network return each prediction in the memory of the last one, as CUDA graphs do."""
    memory = torch.empty(100_000)

    def call(*args, **kwargs):
        output = network.forward(*args, **kwargs)
        kept = memory[: output[0].numel()].view(output[0].shape).copy_(output[0])
        return (kept,) if isinstance(output, tuple) else type(output)(sample=kept)

    network._compiled_call_impl = call


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "LongCatAudioDiTPipeline"])
def test_a_network_that_writes_over_its_last_prediction_is_guarded_the_same(name, kind):
    case = CASES[name]
    usual, over = make(name), make(name)
    for pipe in (usual, over):
        if "prediction_type" in pipe.scheduler.config:
            pipe.scheduler.register_to_config(prediction_type=kind)
    reusing(getattr(over, "transformer", None) or over.unet)

    def late(step):  # looks at the halves after it has called the network itself
        other = step.denoise(step.x, "cond") + step.denoise(0.5 * step.x, "uncond")
        return step.uncond + 3.0 * (step.cond - step.uncond) + 0.1 * other

    for guidance in (ClassifierFree(7.0), amg(case, gradient="x0"), late):
        with guard(usual, guidance):
            expected = case.generate(usual, steps=3)
        with guard(over, guidance):
            assert torch.equal(case.generate(over, steps=3), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU, none is here")
@pytest.mark.parametrize("guidance", GUARDS, ids=["cfg", "static", "amg"])
def test_cuda_graphs_of_the_network_survive_the_guard(guidance):
    case = CASES["StableAudioPipeline"]
    plain, captured = make(case.name).to("cuda"), make(case.name).to("cuda")
    torch._dynamo.reset()
    captured.transformer.compile(mode="reduce-overhead")
    for seed in (0, 1):  # the second replays what the first recorded
        with guard(plain, guidance(case)):
            expected = case.generate(plain, steps=6, seed=seed)
        with guard(captured, guidance(case)):
            made = case.generate(captured, steps=6, seed=seed)
        torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-3)
