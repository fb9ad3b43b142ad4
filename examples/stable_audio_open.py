"""Stable Audio Open, from its weights and an index of its training set to guarded sound and report.

    hf auth login           # once; accept the terms at hf.co/stabilityai/stable-audio-open-1.0
    anechoic index build clips --captions captions.csv --embedder clap -o sao.index
    anechoic doctor --model stabilityai/stable-audio-open-1.0 --index sao.index --dtype bfloat16
    python examples/stable_audio_open.py --index sao.index --prompts prompts.txt

Without the weights the same runs on the model that comes with anechoic:

    python examples/stable_audio_open.py --model demo --index demo --prompts prompts.txt
"""

import argparse
from pathlib import Path

from anechoic import embedder
from anechoic.audit import audit, write_report
from anechoic.audit.pipeline import Guarded, Pipeline
from anechoic.diffusers.loading import load_pipeline
from anechoic.guidance import LogSNR, registry
from anechoic.guidance.presets import PRESETS
from anechoic.index import TrainingIndex

OPEN = "stabilityai/stable-audio-open-1.0"
# What was measured on Stable Audio Open with the authors' code of AMG-audio, by a study that took
# it up: mean CLAP cosine to the target over clusters of near-duplicates, and CLAP score. Another
# set of prompts, another index or another embedder gives other figures: compare the fall.
PUBLISHED = (
    ("no guard", "0.521 (10 clusters)", "0.288"),
    ("AMG-audio's code, lambda 0.4 to 0.5", "0.209 (60 clusters)", "0.087"),
    ("Gram volume, the same study", "0.304 to 0.433", "0.174 to 0.248"),
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=OPEN, help="folder, hub id or demo; %(default)s")
    parser.add_argument("--index", required=True, help="of its training set, or demo")
    parser.add_argument("--prompts", type=Path, required=True, help="one a line")
    parser.add_argument("--output", type=Path, default="stable-audio-open", help="%(default)s")
    parser.add_argument("--seeds", type=int, default=1, help="for each prompt, %(default)s")
    parser.add_argument("--steps", type=int, help="by default the published 100; the demo's 50")
    parser.add_argument("--seconds", type=float, help="by default the model's longest")
    parser.add_argument("--dtype", default="bfloat16", help="%(default)s; float32 on a CPU")
    parser.add_argument("--threshold", type=float, help="of a copy; by default the index's own")
    return parser.parse_args()


def main() -> None:
    asked = parse()
    model, place, preset = asked.model, asked.index, PRESETS["amg-audio-low-threshold"]
    settings, scale, steps = dict(preset.settings), 7.0, asked.steps or preset.steps
    edge = LogSNR(-2.0)  # where guidance starts: published for images alone, so a place to start
    if model == "demo":  # strengths and thresholds belong to a model
        from anechoic_lab.demo import assets
        from anechoic_lab.demo.methods import METHODS

        model, place = str(assets.model_folder()), str(assets.index_folder())
        settings, scale = dict(METHODS["amg"].settings), assets.CFG_SCALE
        steps, edge = asked.steps or assets.STEPS, METHODS["static"].settings["at"]

    index = TrainingIndex.load(place)
    embed = embedder(index.embedder_name)
    pipe = load_pipeline(model, dtype=asked.dtype)
    pipe.set_progress_bar_config(disable=True)
    pipeline = Pipeline(pipe, asked.model, scale, steps, asked.seconds)
    pipeline.require_own(index)
    known = {"index": index, "embedder": embed, "scale": scale}
    guards = {
        "none": Guarded(pipeline),
        "amg": Guarded(pipeline, registry.build("amg", settings, known)),
        "static": Guarded(pipeline, registry.build("static", {"before": 0.0, "at": edge}, known)),
    }
    report = audit(
        guards, index, embed, prompts=asked.prompts.read_text("utf-8").splitlines(),
        seeds=range(asked.seeds), threshold=asked.threshold, work=asked.output / "work",
    )  # fmt: skip

    print(report.sentence)
    for group in report.groups:
        told = f"mean {group.similarity.mean:.3f}, 95th percentile {group.similarity.p95:.3f}"
        print(f"  {group.guard}: {group.replications} of {group.examined} replicate; {told}")
    print("published, mean similarity and CLAP score:")
    for who, similarity, adherence in PUBLISHED:
        print(f"  {who}: {similarity}; {adherence}")
    print("report:", write_report(report, asked.output / "report"))


if __name__ == "__main__":
    main()
