"""A LoRA of Stable Audio on a folder of tracks, watched while it is trained.

    anechoic index duplicates mine.index -o duplicates.html --manifest cleaned
    python examples/fine_tune_lora.py --model base --clips tracks --index mine.index \
        --cleaned cleaned -o lora

Needs `pip install peft`. Each checkpoint is a folder that `--lora` takes: see
docs/how-to/fine-tune.md.
"""

import argparse
import json
import math
import random
from pathlib import Path

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from peft import LoraConfig, get_peft_model

from anechoic import audio, models
from anechoic.diffusers.latents import LatentEncoder
from anechoic.diffusers.loading import load_pipeline
from anechoic.training import CleanedSet, Monitor

DROPOUT, T_LOW = 0.1, 0.17  # samples without their caption; the least noise that the sampler visits


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a Stable Audio pipeline, or demo")
    parser.add_argument("--clips", type=Path, required=True, help="the folder of the tracks")
    parser.add_argument("--index", required=True, help="of them, calibrated")
    parser.add_argument("--cleaned", type=Path, required=True, help="their manifest")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--ordinary", nargs="*", default=[], help="prompts of other sounds")
    parser.add_argument("--steps", type=int, default=2000, help="%(default)s")
    parser.add_argument("--every", type=int, default=250, help="steps between looks; %(default)s")
    parser.add_argument("--rate", type=float, default=1e-4, help="of learning; %(default)s")
    parser.add_argument("--rank", type=int, default=16, help="%(default)s")
    parser.add_argument("--batch", type=int, default=4, help="%(default)s")
    parser.add_argument("--limit", type=float, default=0.1, help="copy rate to stop at")
    return parser.parse_args()


def main() -> None:
    asked = parse()
    known = models.find(asked.model)
    pipe = load_pipeline(known.pipeline)
    pipe.set_progress_bar_config(disable=True)
    encode, kept = LatentEncoder(pipe), CleanedSet.read(asked.cleaned)
    clips = [clip for clip in kept.clips if clip.keep == "yes"]
    sounds = [audio.read(asked.clips / clip.file_name) for clip in clips]
    settings = LoraConfig(r=asked.rank, lora_alpha=asked.rank, target_modules="all-linear")
    adapter = get_peft_model(pipe.transformer, settings)  # puts its layers into the pipeline's own
    trained = [weight for weight in adapter.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, asked.rate)
    sketch = {name: getattr(known, name) for name in ("scale", "steps") if getattr(known, name)}
    monitor = Monitor.of(
        pipe, models.index_folder(asked.index), asked.output / "monitor", ordinary=asked.ordinary,
        every=asked.every, limit=asked.limit, sketch=sketch,
    )  # fmt: skip
    rotary = get_1d_rotary_pos_embed(
        pipe.rotary_embed_dim, pipe.transformer.config.sample_size + 1, use_real=True,
        repeat_interleave_real=False,
    )  # fmt: skip
    device, length = pipe.device, round(encode.seconds * encode.sample_rate)
    for step in range(1, asked.steps + 1):
        rows = random.choices(range(len(clips)), k=asked.batch)
        captions = [random.choice(json.loads(clips[row].captions)) for row in rows]
        with torch.no_grad():
            x0 = torch.cat([encode(*excerpt(*sounds[row], length, encode)) for row in rows])
            start, end = pipe.encode_duration(0.0, encode.seconds, device, False, asked.batch)
            words = pipe.encode_prompt(captions, device, False)
            cross, durations = torch.cat([words, start, end], 1), torch.cat([start, end], 2)
            kept_words = (torch.rand(asked.batch, 1, 1) > DROPOUT).to(cross)
        t = T_LOW + (1 - T_LOW) * torch.rand(asked.batch)
        cos, sin = (wave(t * math.pi / 2)[:, None, None].to(x0) for wave in (torch.cos, torch.sin))
        noise = torch.randn(x0.shape).to(x0)
        v = pipe.transformer(
            cos * x0 + sin * noise, t.to(x0), encoder_hidden_states=cross * kept_words,
            global_hidden_states=durations, rotary_embedding=rotary, return_dict=False,
        )[0]  # fmt: skip
        optimizer.zero_grad()
        (v - (cos * noise - sin * x0)).square().mean().backward()
        optimizer.step()
        stop = monitor(step)
        if step % asked.every == 0 or step == asked.steps or stop:
            adapter.save_pretrained(str(asked.output / f"step-{step:05}"))
        if stop:
            break


def excerpt(
    wav: torch.Tensor, sample_rate: int, length: int, encode: LatentEncoder
) -> tuple[torch.Tensor, int]:
    """A random stretch of a track, as long as the model's sound: [1, c, t] and its rate."""
    longest = round(length * sample_rate / encode.sample_rate)
    start = random.randint(0, max(0, wav.shape[-1] - longest))
    return wav[None, :, start : start + longest], sample_rate


if __name__ == "__main__":
    torch.manual_seed(0)
    random.seed(0)
    main()
