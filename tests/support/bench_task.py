"""A small numeric generator to bench: points on a sphere, drawn to a memorized one or held off."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from anechoic_lab.bench.plan import Method
from anechoic_lab.bench.task import BenchPrompt, Request, SampleScore

from anechoic.errors import BadSetting, GuardError

DIM, STEPS = 6, 10
SCENARIOS = {"plain": 6, "large": 3}  # memorized prompts; as many ordinary ones


def make(
    log: str = "", delay_s: float = 0.0, scenarios: tuple[str, ...] = tuple(SCENARIOS)
) -> NumericTask:
    """Open it. `log` is a file that every generated cell leaves a line in."""
    return NumericTask(log, float(delay_s), scenarios)


class NumericTask:
    name = "points on a sphere"

    def __init__(self, log: str, delay_s: float, scenarios: Sequence[str]):
        self.log, self.delay_s, self.scenarios = log, delay_s, scenarios
        self.training = unit(np.random.default_rng(7).normal(size=(12, DIM)))

    def about(self) -> Mapping[str, str]:
        return {"similarity": f"cosine to the nearest of {len(self.training)} points"}

    def fingerprint(self, scenario: str) -> str:
        return hashlib.sha256(self.training.tobytes()).hexdigest()

    def prompts(self, scenario: str, split: str) -> Sequence[BenchPrompt]:
        if split not in ("report", "tune"):
            raise BadSetting(f"expected the split report or tune, got '{split}'")
        shift = 0 if split == "report" else 6
        count = SCENARIOS[scenario]
        memorized = [BenchPrompt(f"m{i}", str(i), "memorized") for i in range(shift, shift + count)]
        return [*memorized, *(BenchPrompt(f"o{i}", str(i), "ordinary") for i in range(count))]

    def guidance(self, scenario: str, method: Method) -> None:
        if method.guard not in ("", "push", "fail", "die"):
            raise BadSetting(f"expected the guard push, got '{method.guard}'")

    def generate(self, request: Request) -> Sequence[SampleScore]:
        method = request.method
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(
                    f"{request.scenario} {method.name} {request.seed} {request.prompts[0].id}\n"
                )
        time.sleep(self.delay_s)
        if method.guard == "fail":
            raise GuardError("the guidance returned NaN")
        if method.guard == "die":
            os._exit(3)
        return [self._row(prompt, request) for prompt in request.prompts]

    def _row(self, prompt: BenchPrompt, request: Request) -> SampleScore:
        seed, method, steps = request.seed, request.method, request.steps or STEPS
        target = self.training[int(prompt.caption) % len(self.training)]
        rng = np.random.default_rng([seed, int(prompt.caption)])
        x = unit(rng.normal(size=DIM))
        pull = 0.5 if prompt.group == "memorized" else 0.1
        for _ in range(steps):
            away = float(method.settings.get("strength", 0.0)) * (x @ target)
            x = unit(x + (pull - away) * target)
        near = float((self.training @ x).max())
        return SampleScore(
            *(prompt.id, prompt.caption, prompt.group, seed),
            similarity=near,
            copied=near > 0.95,
            seconds=0.01 * steps,
            evaluations=2.0 * steps,
            adherence=float(0.5 + 0.5 * x @ target),
            scores={"angle": float(1 - np.arccos(np.clip(near, -1, 1)) / np.pi)},
            quality=x.tolist(),
        )

    def reference(self, scenario: str) -> Sequence[Sequence[float]]:
        return unit(np.random.default_rng(8).normal(size=(40, DIM))).tolist()

    def baseline(self, scenario: str) -> Sequence[float]:
        cosines = self.training @ self.training.T
        np.fill_diagonal(cosines, -1)
        return cosines.max(1).tolist()


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
