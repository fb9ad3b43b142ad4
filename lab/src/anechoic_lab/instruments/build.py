"""Makes an instrument: its corpus, model, index, judges and their calibration.

    python -m anechoic_lab.instruments.build drums -o drums --work instruments-work

Stop it whenever you like: the same command goes on from the last checkpoint, with the same result.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from anechoic.audit import HeldOut
from anechoic.audit import calibrate as calibrate_index
from anechoic.detectors import calibration
from anechoic.embedders import embedder
from anechoic.index import TrainingIndex
from anechoic_lab.demo import assets
from anechoic_lab.demo.build import round_trip, write
from anechoic_lab.demo.corpus import Clip
from anechoic_lab.demo.held_out import write as write_sounds
from anechoic_lab.demo.train import Checkpoint, train
from anechoic_lab.demo.watch import GUIDE
from anechoic_lab.instruments import lora
from anechoic_lab.instruments.recipes import INSTRUMENTS, Instrument

FALSE_POSITIVES = 0.05  # share of held-out sound that the index's rule may call a copy


def build(made: Instrument, out: Path, work: Path) -> None:
    """Make an instrument's folder, which has the files of the demo's.

    Args:
        made: how.
        out: the folder to make.
        work: folder for packages and the checkpoint.

    Raises:
        OutputExists: `out` exists already.
    """
    assets.refuse_existing(out)
    clips, wavs = made.corpus(work, made.recipe.seed)
    checkpoint = Checkpoint(work / f"{made.name}.pt")
    pipe = train(clips, wavs, made.recipe, _progress(made), made.design, checkpoint)
    if made.adapter:
        lora.write(out, pipe, clips, wavs, made.recipe)
    else:
        write(out, pipe, clips, wavs, made.recipe, _tell, made.labels(clips), made.borrowed,
              made.guide)  # fmt: skip
    held = [i for i, clip in enumerate(clips) if clip.split != "train"]
    sound = round_trip(assets.pipeline(out).vae, torch.from_numpy(wavs[held]))
    calibrate(out, [clips[i] for i in held], sound, work, made.guide)


def calibrate(
    out: Path, held: list[Clip], sound: torch.Tensor, work: Path, guide: str = GUIDE
) -> None:
    """Calibrate the index on the held-out clips, as `anechoic calibrate` does."""
    folder = assets.index_folder(out)
    index = TrainingIndex.load(folder)
    with TemporaryDirectory(dir=work) as temporary:
        sounds = Path(temporary) / "held-out"
        write_sounds(sounds, held, sound, assets.sample_rate(out))
        found = calibrate_index(
            HeldOut(sounds, FALSE_POSITIVES), index, embedder(guide), work=Path(temporary) / "work"
        )
    calibration.write(folder, list(found.calibrations.values()))
    for one in found.unused:
        print(f"not used: {one.sample.name}: {one.reason}")


def _progress(made: Instrument):  # type: ignore[no-untyped-def]
    started, first = time.monotonic(), 0

    def report(step: int, loss: float, _: object) -> None:
        nonlocal first
        first = first or step
        if step % 50 == 0:
            rate = (time.monotonic() - started) / (step - first + 1)
            left = rate * (made.recipe.steps - step) / 60
            print(
                f"step {step} of {made.recipe.steps}, loss {loss:.4f}, {left:.0f} min", flush=True
            )

    return report


def _tell(what: str, done: int, total: int) -> None:
    print(f"{what}: {done} of {total}", flush=True)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(INSTRUMENTS))
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("instruments-work"))
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    build(INSTRUMENTS[chosen.name], chosen.output, chosen.work)
    print(f"{chosen.output}: made")


if __name__ == "__main__":
    main()
