"""What each method costs on a pipeline of Stable Audio Open's size: peak memory, seconds a step.

    python benchmarks/pipeline_size.py --output pipeline-size.json

The classes and the configuration are the real ones (1.06 G numbers in the network, 156 M in the
codec, T5-base, and CLAP to compare with); the weights are random, which changes neither figure.
Every gate is open all along, so that each method does all that it ever does; a run of 5 steps goes
through all noise levels, and a step is averaged over three of them. What comes once a generation
(the prompt, the decoder, the first step's own work) stands beside it. Memory is the most that torch
had allocated on the GPU at once, weights included. Without a GPU it says that it is skipped and
why, and its exit status is 0. `--tiny` runs the same code on tiny sizes anywhere; `--count` counts
the memory of the real size anywhere, as `anechoic doctor` does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from anechoic_lab.demo.model import make_tokenizer
from anechoic_lab.doctor.footprint import Reach, footprint
from anechoic_lab.doctor.latency import Latency, measure_latency
from torch import nn

from anechoic import TrainingIndex
from anechoic.embedders.clap import Clap, Parts
from anechoic.environment import processor
from anechoic.guidance import BasinEdge, Progress, registry
from anechoic.guidance.base import Guidance

PROMPT = "a solo violin in a large hall"
STEPS = 100  # of the generation that a pace is worked out for
AMG = {"lambda_min": -1.0, "lambda_max": -1.0}  # the gate is open at any similarity
PLAIN = "no guard"


@dataclass(frozen=True)
class Size:
    """What differs between the real size and the tiny one."""

    transformer: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    clap_audio: dict[str, Any]
    clap_text: dict[str, Any]
    rows: int  # of the index
    batches: tuple[int, ...]
    dtype: torch.dtype


# stabilityai/stable-audio-open-1.0: the classes' defaults are its configuration; and T5-base
REAL = Size(
    transformer={},
    vae={},
    text={"vocab_size": 32128, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12,
          "num_heads": 12},
    clap_audio={},
    clap_text={},
    rows=48_000,  # the recordings that Stable Audio Open was trained on, about
    batches=(1, 8),
    dtype=torch.bfloat16,
)  # fmt: skip
TINY = Size(
    transformer={"sample_size": 16, "in_channels": 3, "num_layers": 2, "attention_head_dim": 4,
                 "num_attention_heads": 4, "num_key_value_attention_heads": 2, "out_channels": 3,
                 "cross_attention_dim": 8, "time_proj_dim": 8, "global_states_input_dim": 32,
                 "cross_attention_input_dim": 16},
    vae={"encoder_hidden_size": 6, "downsampling_ratios": [2, 2], "decoder_channels": 3,
         "decoder_input_channels": 3, "channel_multiples": [2, 4]},
    text={"vocab_size": 64, "d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2},
    clap_audio={"patch_embeds_hidden_size": 8, "hidden_size": 64, "depths": [1, 1, 1, 1],
                "num_attention_heads": [1, 1, 2, 2]},
    clap_text={"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1,
               "intermediate_size": 16, "num_attention_heads": 2},
    rows=16,
    batches=(1, 2),
    dtype=torch.float32,
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """What one method took in one batch size."""

    method: str
    batch: int
    pace: Latency | None  # None: out of memory
    refused: str = ""


def make_pipeline(size: Size, device: torch.device) -> Any:
    """Stable Audio with random weights."""
    torch.manual_seed(0)
    with device:
        transformer = diffusers.StableAudioDiTModel(**size.transformer)
        vae = diffusers.AutoencoderOobleck(**size.vae)
        encoder = transformers.T5EncoderModel(
            transformers.T5Config(**size.text, pad_token_id=0, eos_token_id=1)
        )
        width = size.text["d_model"]
        projection = diffusers.StableAudioProjectionModel(width, width, 0, 512)
    pipe = diffusers.StableAudioPipeline(
        vae=vae,
        text_encoder=encoder,
        projection_model=projection,
        tokenizer=make_tokenizer([PROMPT]),
        transformer=transformer,
        scheduler=diffusers.CosineDPMSolverMultistepScheduler(
            sigma_min=0.3, sigma_max=500, sigma_data=1.0, sigma_schedule="exponential",
            prediction_type="v_prediction", solver_order=2,
        ),
    )  # fmt: skip
    for module in pipe.components.values():
        if isinstance(module, nn.Module):
            module.eval().requires_grad_(False)
            nn.Module.to(module, size.dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_clap(size: Size) -> Clap:
    """CLAP with random weights, of the size of laion/clap-htsat-unfused."""
    torch.manual_seed(0)
    config = transformers.ClapConfig(audio_config=size.clap_audio, text_config=size.clap_text)
    extractor = transformers.ClapFeatureExtractor(
        truncation="rand_trunc", padding="repeatpad", frequency_min=50
    )
    return Clap(parts=Parts(transformers.ClapModel(config), extractor, "random"))


def make_methods(size: Size) -> dict[str, Callable[[], Guidance | None]]:
    """Every method at settings under which it does all that it can.

    Each is made with an index and a CLAP of its own: what one has moved to the GPU must not be
    counted as another's, nor as the plain pipeline's.
    """
    clap, draw = make_clap(size), torch.Generator().manual_seed(0)
    drawn = torch.randn(size.rows, clap.dim, generator=draw)
    settings: dict[str, tuple[str, dict[str, Any]]] = {
        "cfg": ("cfg", {}),
        "amg, gate shut": ("amg", {"lambda_min": 0.9999, "lambda_max": 0.9999}),
        "amg, despecification": ("amg", {**AMG, "c2": 0.0, "c3": 0.0}),
        "amg, deduplication": ("amg", {**AMG, "c1": 0.0, "c3": 0.0}),
        "amg, dissimilarity": ("amg", {**AMG, "c1": 0.0, "c2": 0.0}),
        "amg": ("amg", AMG),
        "amg, gradient=x0": ("amg", {**AMG, "gradient": "x0"}),
        "volume": ("volume", {"threshold": -1.0}),
        "volume, gradient=x0": ("volume", {"threshold": -1.0, "gradient": "x0"}),
        "static": ("static", {"at": 0.5}),
        "static, opposite": ("static", {"at": 0.5, "before": -2.0}),
        "dynamic": ("dynamic", {}),
        "interval": ("interval", {"start": Progress(0.2), "stop": Progress(0.8)}),
        "optimize": ("optimize", {}),
        "perturb": ("perturb", {}),
        "noise": ("noise", {}),
        "cads": ("cads", {}),
        "sequence": ("sequence", {"first": {"guard": "static", "before": -2.0, "at": 1.0},
                                  "then": {"guard": "amg", **AMG, "gradient": "x0"},
                                  "at": BasinEdge(0.5)}),
        "during": ("during", {"guidance": {"guard": "amg", **AMG, "gradient": "x0"},
                              "start": 0.2, "stop": 0.8}),
        "prompted": ("prompted", {"prompt": {"guard": "noise"}, "guidance": {"guard": "static"}}),
    }  # fmt: skip

    def make(name: str) -> Guidance:
        guard, chosen = settings[name]
        index = TrainingIndex.from_embeddings(
            drawn, [PROMPT] * size.rows, embedder_name=clap.name, sample_rate=clap.sample_rate,
            revision=clap.revision,
        )  # fmt: skip
        given = {"index": index, "embedder": deepcopy(clap), "scale": 7.0}
        return registry.build(guard, chosen, given)

    return {PLAIN: lambda: None, **{name: lambda n=name: make(n) for name in settings}}


def run(size: Size, device: torch.device, only: Sequence[str], seconds: float | None) -> list[Row]:
    """Measure all methods in all batch sizes; each row is printed as it is done."""
    pipe, methods = make_pipeline(size, device), make_methods(size)
    chosen = [PLAIN, *(name for name in methods if name != PLAIN and (not only or name in only))]
    measure_latency(pipe, None, PROMPT, STEPS, seconds)  # the first call of a process is slower
    rows: list[Row] = []
    print("| method | batch | s a step | times the plain | s once | peak GiB | times the plain |")
    print("|---|---|---|---|---|---|---|")
    for batch in size.batches:
        for name in chosen:
            rows.append(_row(pipe, methods[name](), name, batch, seconds))
            print(_line(rows[-1], next(r for r in rows if r.batch == batch)), flush=True)
    return rows


def _row(pipe: Any, guidance: Guidance | None, name: str, batch: int, seconds: float | None) -> Row:
    try:
        return Row(name, batch, measure_latency(pipe, guidance, [PROMPT] * batch, STEPS, seconds))
    except torch.OutOfMemoryError as error:
        return Row(name, batch, None, str(error).split(". ")[0])
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _line(row: Row, plain: Row) -> str:
    if row.pace is None:
        return f"| {row.method} | {row.batch} | out of memory | | | | |"
    times = memory = more = ""
    if plain.pace is not None:
        times = f"{row.pace.evaluation_s / plain.pace.evaluation_s:.2f}"
    if row.pace.memory is not None:
        memory = f"{row.pace.memory / 2**30:.2f}"
        if plain.pace is not None and plain.pace.memory:
            more = f"{row.pace.memory / plain.pace.memory:.2f}"
    told = (row.method, row.batch, f"{row.pace.evaluation_s:.4f}", times,
            f"{row.pace.around_s:.3f}", memory, more)  # fmt: skip
    return f"| {' | '.join(map(str, told))} |"


def counted(size: Size, dtype: torch.dtype, lengths: Sequence[float | None]) -> dict[str, float]:
    """What `anechoic doctor` counts for one sample beside the weights, in GiB.

    Args:
        lengths: of sound that a guard hears, in seconds; None: the longest.
    """
    pipe = make_pipeline(size, torch.device("meta"))
    counts: dict[str, int] = {}
    reaches: dict[str, Reach] = {"x0": "decoder", "denoiser": "network"}
    for gradient, reach in reaches.items():
        for seconds in lengths:
            one = footprint(pipe, dtype, reach, seconds)
            assert one is not None  # this pipeline is the one that is known
            counts |= {
                "the denoiser, both predictions": one.network,
                "the decoder at the end": one.decoder,
            }
            length = "the longest" if seconds is None else f"{seconds:g} s"
            counts[f"a guard's gradient={gradient}, {length}"] = one.guard
    return {what: number / 2**30 for what, number in counts.items()}


def print_counted(size: Size, lengths: Sequence[float | None]) -> None:
    columns = [counted(size, dtype, lengths) for dtype in (torch.bfloat16, torch.float32)]
    print("| counted, GiB | bfloat16 | float32 |\n|---|---|---|")
    for what in columns[0]:
        print(f"| {what} | {' | '.join(f'{column[what]:#.3g}' for column in columns)} |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on the CPU too")
    parser.add_argument("--count", action="store_true", help="count memory alone, without a GPU")
    parser.add_argument("--only", nargs="*", default=[], metavar="METHOD")
    parser.add_argument("--seconds", type=float, help="of sound; by default the longest")
    parser.add_argument("--output", type=Path, help="a JSON file")
    asked = parser.parse_args(arguments)
    if asked.count:
        print_counted(REAL, [asked.seconds] if asked.seconds else [10.0, None])
        return
    if not asked.tiny and not torch.cuda.is_available():
        print("skipped: no GPU here, and a pipeline of this size is not measured on a CPU")
        return
    size = TINY if asked.tiny else REAL
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "dtype": str(size.dtype).removeprefix("torch."),
        "seconds of sound": asked.seconds or "the longest",
        "counted by doctor, GiB": counted(size, size.dtype, [asked.seconds]),
    }
    for name, value in about.items():
        print(f"{name}: {value}")
    rows = run(size, device, asked.only, asked.seconds)
    if asked.output is not None:
        told = [{"method": r.method, "batch": r.batch, "refused": r.refused,
                 **(vars(r.pace) if r.pace else {})} for r in rows]  # fmt: skip
        asked.output.write_text(json.dumps({"about": about, "rows": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
