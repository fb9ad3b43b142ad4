"""What `anechoic generate` does where nothing may leave that was not verified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anechoic.cli.output import print_table, progress_of, say
from anechoic.errors import BadSetting

if TYPE_CHECKING:
    from anechoic.certificate import SigningKey
    from anechoic.guidance.base import Guidance
    from anechoic.protection import Attempt, JointJudge, Judge, Protection

PROMPTS = {"clear": "clear", "hash": "hashed", "omit": "left out"}


@dataclass(frozen=True)
class ProtectionOptions:
    """The options that have every output verified before it is written."""

    on_copy: str | None
    retries: int | None
    certify: bool | SigningKey
    log: Path | None
    hits: Path | None
    log_prompts: str
    allow_unjudged: bool

    def __bool__(self) -> bool:
        """Whether any of them was given."""
        return self != ProtectionOptions(None, None, False, None, None, "clear", False)

    def policy(self) -> str | None:
        """What is tried if an output is a copy; None: the usual.

        Raises:
            BadSetting: a policy that the command line cannot follow.
        """
        if self.log_prompts not in PROMPTS:
            known = ", ".join(PROMPTS)
            raise BadSetting(f"'--log-prompts' is one of {known}, got {self.log_prompts!r}")
        steps = None if self.on_copy is None else [one.strip() for one in self.on_copy.split(",")]
        if steps is not None and "raise" in steps:
            raise BadSetting("'raise' is for Python; here 'refuse' ends with exit code 1")
        if self.retries is None:
            return self.on_copy
        steps = steps or ["retry", "refuse"]
        if "retry" not in steps:
            raise BadSetting("'--retries' needs a 'retry' without a count in '--on-copy'")
        return ",".join(f"retry:{self.retries}" if one == "retry" else one for one in steps)

    def of_function(self, seeded: bool) -> ProtectionOptions:
        """The same where nothing can be guarded: the usual is then a new seed, if it takes any."""
        usual = "retry,refuse" if seeded else "refuse"
        return replace(self, on_copy=self.policy() or usual, retries=None)


def generate_protected(
    model: Any,
    judge: Judge | JointJudge,
    prompts: Sequence[str],
    files: Sequence[Path],
    method: Guidance | None,
    arguments: dict[str, Any],
    seed: int,
    options: ProtectionOptions,
    overwrite: bool,
) -> Protection:
    """Generate by a pipeline or a function, verify, try again, and write what may leave.

    Under plain classifier-free guidance the first attempts are plain, at its scale; any other
    method guards them all. A function has no method.
    """
    from anechoic import protect
    from anechoic.guidance import ClassifierFree

    plain = method is None or isinstance(method, ClassifierFree)
    if isinstance(method, ClassifierFree) and "guidance_scale" in arguments:
        arguments = {**arguments, "guidance_scale": method.scale}
    with progress_of("generating", len(prompts)) as show:
        ended: list[object] = []

        def progress(one: object) -> None:
            ended.append(one)
            show(len(ended), len(prompts))

        return protect(
            model,
            judge,
            prompts,
            on_copy=options.policy(),
            guidance=None if plain else method,
            guard_first=not plain,
            seed=seed,
            arguments=arguments,
            files=files,
            overwrite=overwrite,
            certificates=options.certify,
            allow_unjudged=options.allow_unjudged,
            log=options.log,
            hits=options.hits,
            log_prompts=PROMPTS[options.log_prompts],  # type: ignore[arg-type]
            progress=progress,
        )


def print_protection(made: Protection, files: Sequence[Path]) -> None:
    """What became of each prompt, all attempts, and the promise."""
    rows, names = [], list(made.limits)
    for sound, file in zip(made, files, strict=True):
        verdict = sound.verdict if sound.released else f"NOTHING WRITTEN, {sound.verdict}"
        say(f"{file}: {verdict}{f': {sound.reason}' if sound.reason else ''}")
        if sound.released and (caption := sound.attempts[-1].substitute):
            say(f"{file}: {by_caption(caption)}")
        for number, attempt in enumerate(sound.attempts, 1):
            status = attempt.status if attempt.status == "no copy" else attempt.status.upper()
            scores, clip = _found(attempt, names)
            rows.append(
                (str(file), f"{number} {attempt.kind}", attempt.guard, status, *scores, clip)
            )
    if rows:
        short = [name.partition(" (")[0] for name in names]
        print_table(("file", "attempt", "guard", "verdict", *short, "nearest clip"), rows)
    say(*made.notes, made.promise)


def by_caption(substitute: str) -> str:
    """What is said of a sound that another caption guided."""
    return f"guided by the caption {substitute!r} in place of the prompt"


def _found(attempt: Attempt, names: Sequence[str]) -> tuple[list[str], str]:
    """The score of each detector, and the clip that the first one found."""
    found = [attempt.judgement.verdicts.get(name) for name in names]
    scores = ["" if one is None or one.clip is None else f"{one.score:.3f}" for one in found]
    return scores, next((one.clip.id for one in found if one is not None and one.clip), "")
