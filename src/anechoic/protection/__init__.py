"""Protection: every finished sound is verified, tried again where it is a copy, and refused where
no attempt is free of one.

`protect` takes a pipeline, or any function that generates. `Judge` verifies by several detectors,
and `Protection` holds the results and what is promised about them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anechoic.lazy import on_first_use

if TYPE_CHECKING:  # the same names as below, so that a type checker sees them
    from anechoic.protection.judge import JointJudge, Judge, Judgement
    from anechoic.protection.policy import Policy
    from anechoic.protection.result import Attempt, ProtectedSound, Protection
    from anechoic.protection.run import protect

__all__ = [
    "Attempt", "JointJudge", "Judge", "Judgement", "Policy", "ProtectedSound", "Protection",
    "protect",
]  # fmt: skip

if not TYPE_CHECKING:  # a type checker would take any name for one that exists
    __getattr__, __dir__ = on_first_use(
        __name__,
        {
            "anechoic.protection.judge": ("JointJudge", "Judge", "Judgement"),
            "anechoic.protection.policy": ("Policy",),
            "anechoic.protection.result": ("Attempt", "ProtectedSound", "Protection"),
            "anechoic.protection.run": ("protect",),
        },
    )
