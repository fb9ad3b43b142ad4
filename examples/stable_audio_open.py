"""Stable Audio Open: from weights and an index of its training set to guarded sound and a report.

    hf auth login           # once; accept the terms at hf.co/stabilityai/stable-audio-open-1.0
    anechoic index build clips --captions captions.csv --embedder clap -o sao.index
    anechoic doctor --model stabilityai/stable-audio-open-1.0 --index sao.index --dtype bfloat16
    python examples/stable_audio_open.py --index sao.index --prompts prompts.txt

Without the weights it also runs on the demo's model, which comes with anechoic[lab]:

    python examples/stable_audio_open.py --model demo --index demo --prompts prompts.txt
"""

import argparse
from pathlib import Path

from anechoic import embedder, models
from anechoic.audit import audit, write_report
from anechoic.audit.pipeline import Guarded, Pipeline
from anechoic.diffusers.loading import load_pipeline
from anechoic.guidance import LogSNR, registry
from anechoic.guidance.presets import PRESETS
from anechoic.index import TrainingIndex

OPEN = "stabilityai/stable-audio-open-1.0"
# A study that took up AMG-audio's code measured these on Stable Audio Open: mean CLAP cosine to the
# target over clusters of near-duplicates, and CLAP score. Other prompts, another index or another
# embedder give other figures: compare the fall.
PUBLISHED = (
    ("no guard", "0.521 (10 clusters)", "0.288"),
    ("AMG-audio's code, lambda 0.4 to 0.5", "0.209 (60 clusters)", "0.087"),
    ("Gram volume, the same study", "0.304 to 0.433", "0.174 to 0.248"),
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=OPEN, help="name, folder or hub id; %(default)s")
    parser.add_argument("--index", required=True, help="of its training set, or a model's name")
    parser.add_argument("--prompts", type=Path, required=True, help="a file with one a line")
    parser.add_argument("--output", type=Path, default="stable-audio-open", help="%(default)s")
    parser.add_argument("--seeds", type=int, default=1, help="seeds for each prompt, %(default)s")
    parser.add_argument("--steps", type=int, help="by default the published 100; the demo's 50")
    parser.add_argument("--seconds", type=float, help="by default the model's longest")
    parser.add_argument("--dtype", default="bfloat16", help="%(default)s; float32 on a CPU")
    parser.add_argument("--threshold", type=float, help="score of a copy; the index's own")
    return parser.parse_args()


def main() -> None:
    asked = parse()
    model, published = models.find(asked.model), PRESETS["amg-audio-low-threshold"]
    amg = model.guards.get("amg", published)  # strengths and thresholds belong to a model
    static = {"before": 0.0, "at": LogSNR(-2.0)}  # published for images alone: a first guess
    if "static" in model.guards:
        static = dict(model.guards["static"].settings)
    scale, steps = model.scale or 7.0, asked.steps or model.steps or published.steps

    index = TrainingIndex.load(models.index_folder(asked.index))
    embed = embedder(index.embedder_name)
    pipe = load_pipeline(model.pipeline, dtype=asked.dtype)
    pipe.set_progress_bar_config(disable=True)
    pipeline = Pipeline(pipe, asked.model, scale, steps, asked.seconds)
    pipeline.require_own(index)
    known = {"index": index, "embedder": embed, "scale": scale}
    guards = {
        "none": Guarded(pipeline),
        "amg": Guarded(pipeline, registry.build("amg", dict(amg.settings), known)),
        "static": Guarded(pipeline, registry.build("static", static, known)),
    }
    report = audit(
        guards, index, embed, prompts=asked.prompts.read_text("utf-8").splitlines(),
        seeds=range(asked.seeds), threshold=asked.threshold, work=asked.output / "work",
    )  # fmt: skip

    print(report.sentence)
    for group in report.groups:
        scores = f"mean {group.similarity.mean:.3f}, 95th percentile {group.similarity.p95:.3f}"
        print(f"  {group.guard}: {group.replications} of {group.examined} replicate; {scores}")
    print("published, mean similarity and CLAP score:")
    for who, similarity, adherence in PUBLISHED:
        print(f"  {who}: {similarity}; {adherence}")
    print("report:", write_report(report, asked.output / "report"))


if __name__ == "__main__":
    main()
