"""Synthetic embeddings of a large training set, written to disk in chunks.

A training set is a tree: domains (music, effects), kinds (violins), subjects (one violin),
recordings, windows of a recording. An embedding is a sum of one Gaussian step for each level,
brought to unit norm. What was fitted, to the index that the demo ships (its 1,715 recordings,
reduced to their 512 first principal directions), is the spectrum of the steps and their shares;
`python benchmarks/synthetic.py` prints both sides. The windows, which the demo's index does not
have, are assumed: recordings have a power-law number of windows, 20 on average, that stand apart
by steps of heavy-tailed length. One row in 20 is a near-duplicate of another recording's row, one
in 100 an exact one: what deduplication before training would have taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from anechoic.storage import whole_file

DIM = 512
CHUNK = 50_000  # rows drawn at once, from a generator of their own
WINDOWS = 20  # of a recording, on average
SUBJECT = 2.5  # recordings of a subject, on average
DOMAINS, KINDS = 12, 80  # of the demo's 1,715 recordings; kinds grow with the root of the size
SHARES = {"domain": 0.2, "kind": 0.33, "subject": 0.27, "recording": 0.2}  # of the variance
STEP_SPREAD = 0.5  # of the logarithm of the length of a recording's and a window's step
WINDOW_SHARE = 0.15  # of the variance of a window
DUPLICATES, EXACT = 0.05, 0.01


def spectrum(offset: float, power: float) -> np.ndarray:
    """Eigenvalues that fall as a power law with a flat head, of sum 1, [DIM]."""
    values = (np.arange(1, DIM + 1) + offset) ** -power
    return values / values.sum()


BETWEEN = spectrum(16, 2.1)  # fitted to the covariance of the demo's embeddings
WITHIN = spectrum(64, 1.9)  # fitted to that of the differences between nearest neighbours


@dataclass(frozen=True)
class Rows:
    """A chunk of the set, and queries near it that are not in it."""

    stored: np.ndarray  # [n, DIM] float32, unit norm
    held_out: np.ndarray  # [q, DIM]: further windows of the chunk's recordings
    noisy: np.ndarray  # [q, DIM]: stored rows with noise, at cosines of 0.9 to 0.99


class World:
    """The levels of the tree that all chunks share.

    Args:
        recordings: of the whole set; the number of kinds follows from it.
        seed: two worlds of one seed give the same rows, chunk by chunk.
    """

    def __init__(self, recordings: int, seed: int = 0):
        self.seed = seed
        rng = np.random.default_rng([seed, 0])
        kinds = max(KINDS, round(KINDS * (recordings / 1715) ** 0.5))
        self.rotation = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
        domains = _steps(rng, DOMAINS, BETWEEN, SHARES["domain"])
        of_kind = rng.choice(DOMAINS, kinds, p=_power_law(rng, DOMAINS))
        self.kinds = domains[of_kind] + _steps(rng, kinds, BETWEEN, SHARES["kind"])
        self.popularity = _power_law(rng, kinds)

    def recordings(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Embeddings of some recordings, unrotated, [count, DIM]."""
        subjects = max(1, round(count / SUBJECT))
        of_subject = rng.choice(len(self.kinds), subjects, p=self.popularity)
        subject = self.kinds[of_subject] + _steps(rng, subjects, WITHIN, SHARES["subject"])
        of_recording = rng.choice(subjects, count, p=_power_law(rng, subjects))
        step = _steps(rng, count, WITHIN, SHARES["recording"], STEP_SPREAD)
        return _unit(subject[of_recording] + step)

    def rows(self, chunk: int, count: int, queries: int) -> Rows:
        """A chunk of windows, and `queries` of both sorts."""
        rng = np.random.default_rng([self.seed, 1, chunk])
        sizes = np.minimum(1 + rng.pareto(1.5, count) * (WINDOWS - 1) / 2, 100 * WINDOWS)
        ends = np.cumsum(sizes.astype(np.int64))
        number = int(np.searchsorted(ends, count)) + 1
        of_window = np.searchsorted(ends[:number], np.arange(count), side="right")
        centres = self.recordings(rng, number)
        stored = self._windows(rng, centres[of_window])
        self._duplicate(rng, stored)
        held_out = self._windows(rng, centres[rng.choice(of_window, queries)])
        return Rows(stored, held_out, noisy_copies(rng, stored, queries))

    def _windows(self, rng: np.random.Generator, centres: np.ndarray) -> np.ndarray:
        step = _steps(rng, len(centres), WITHIN, WINDOW_SHARE, STEP_SPREAD)
        return _unit((1 - WINDOW_SHARE) ** 0.5 * centres + step) @ self.rotation

    def _duplicate(self, rng: np.random.Generator, stored: np.ndarray) -> None:
        count = round(DUPLICATES * len(stored))
        onto, of = rng.choice(len(stored), (2, count), replace=False)
        noise = _steps(rng, count, WITHIN, 1) @ self.rotation
        noise *= rng.uniform(0, 0.2, (count, 1)).astype(np.float32)
        noise[: round(count * EXACT / DUPLICATES)] = 0
        stored[onto] = _unit(stored[of] + noise)


def noisy_copies(rng: np.random.Generator, stored: np.ndarray, count: int) -> np.ndarray:
    """Rows with white noise on them, at cosines of 0.9 to 0.99 to the row."""
    rows = stored[rng.choice(len(stored), count)]
    noise = rng.standard_normal(rows.shape, np.float32)
    noise = _unit(noise - (noise * rows).sum(1, keepdims=True) * rows)
    cosine = rng.uniform(0.9, 0.99, (count, 1)).astype(np.float32)
    return cosine * rows + np.sqrt(1 - cosine**2) * noise


def write(folder: Path, rows: int, queries: int, seed: int = 0) -> Iterator[int]:
    """Write vectors.npy (float16), held_out.npy and noisy.npy; gives the rows written so far."""
    folder.mkdir(parents=True, exist_ok=True)
    world = World(rows // WINDOWS, seed)
    with whole_file(folder / "vectors.npy") as part:
        vectors = np.lib.format.open_memmap(part, "w+", np.float16, (rows, DIM))
        held_out, noisy = [], []
        starts = range(0, rows, CHUNK)
        picks = np.diff(np.linspace(0, queries, len(starts) + 1).astype(int))
        for number, start in enumerate(starts):
            chunk = world.rows(number, min(CHUNK, rows - start), int(picks[number]))
            vectors[start : start + CHUNK] = chunk.stored
            held_out.append(chunk.held_out)
            noisy.append(chunk.noisy)
            yield start + len(chunk.stored)
        vectors.flush()
        np.save(folder / "held_out.npy", np.concatenate(held_out))
        np.save(folder / "noisy.npy", np.concatenate(noisy))


def _steps(
    rng: np.random.Generator, count: int, values: np.ndarray, share: float, spread: float = 0.0
) -> np.ndarray:
    """Gaussian steps of covariance diag(values) and variance `share`, [count, DIM] float32."""
    scale = np.sqrt(share * values).astype(np.float32)
    steps = rng.standard_normal((count, DIM), np.float32) * scale
    return steps * np.exp(spread * rng.standard_normal((count, 1), np.float32)) if spread else steps


def _power_law(rng: np.random.Generator, count: int) -> np.ndarray:
    sizes = rng.pareto(1.5, count) + 1
    return sizes / sizes.sum()


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def describe(rows: np.ndarray) -> dict[str, list[float]]:
    """What decides how hard a set is to search, of unit rows [n, d] that fit in memory."""
    values = np.linalg.eigvalsh(rows.T @ rows)[::-1]
    share = np.cumsum(values / values.sum())
    cosines = rows @ rows.T
    pairs = cosines[np.triu_indices(len(rows), 1)]
    np.fill_diagonal(cosines, -2)
    nearest = -np.sort(-cosines, axis=1)[:, :20]
    apart = np.sqrt(np.maximum(2 - 2 * nearest, 1e-12))
    local = 1 / np.mean(np.log(apart[:, 19:] / apart[:, :19]), axis=1)
    spread = (0.05, 0.25, 0.5, 0.75, 0.95)
    return {
        "directions that hold 50, 90, 99 % of the variance": list(
            np.searchsorted(share, [0.5, 0.9, 0.99]) + 1
        ),
        "cosine to the nearest (5, 25, 50, 75, 95 %)": list(np.quantile(nearest[:, 0], spread)),
        "cosine to the 20th": list(np.quantile(nearest[:, 19], spread)),
        "cosine of pairs": list(np.quantile(pairs, spread)),
        "local dimension (Levina and Bickel, 20 neighbours)": list(np.quantile(local, spread)),
    }


def main() -> None:
    """Print the demo's embeddings and synthetic recordings beside each other."""
    import anechoic_lab.demo

    from anechoic.index import TrainingIndex

    shipped = TrainingIndex.load(Path(anechoic_lab.demo.__file__).parent / "data/index")
    every = shipped.vectors(torch.arange(len(shipped))).double().numpy()
    reduced = _unit(every @ np.linalg.svd(every, full_matrices=False)[2][:DIM].T)
    rng = np.random.default_rng(0)
    made = World(len(reduced)).recordings(rng, len(reduced)).astype(np.float64)
    real, synthetic = describe(reduced), describe(made)
    for name in real:
        print(name)
        for side, values in (("demo", real[name]), ("synthetic", synthetic[name])):
            print(f"  {side:9} ", *(f"{value:8.3g}" for value in values))


if __name__ == "__main__":
    main()
