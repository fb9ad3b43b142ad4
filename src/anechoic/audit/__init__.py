"""Audits a model: does it replicate its training set, and for which prompts?

`audit` compares the sounds of a function or a folder with the index of a training set, and
`write_report` writes a page with players and pictures. `audit.screen` screens prompts before
anything is generated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anechoic.lazy import on_first_use

if TYPE_CHECKING:  # the same names as below, so that a type checker sees them
    from anechoic.audit.progress import AuditProgress
    from anechoic.audit.report import cautions, document, schema, write_page, write_report
    from anechoic.audit.result import Background, Examined, Report
    from anechoic.audit.run import Calibrated, HeldOut, audit, calibrate
    from anechoic.audit.samples import Sample, Unexamined
    from anechoic.audit.training import TrainingSet
    from anechoic.verdict import Rule

__all__ = [
    "AuditProgress", "Background", "Calibrated", "Examined", "HeldOut", "Report", "Rule",
    "Sample", "TrainingSet", "Unexamined", "audit", "calibrate", "cautions", "document",
    "schema", "write_page", "write_report",
]  # fmt: skip

if not TYPE_CHECKING:  # a type checker would take any name for one that exists
    __getattr__, __dir__ = on_first_use(
        __name__,
        {
            "anechoic.audit.progress": ("AuditProgress",),
            "anechoic.audit.report": (
                "cautions",
                "document",
                "schema",
                "write_page",
                "write_report",
            ),
            "anechoic.audit.result": ("Background", "Examined", "Report"),
            "anechoic.audit.run": ("Calibrated", "HeldOut", "audit", "calibrate"),
            "anechoic.audit.samples": ("Sample", "Unexamined"),
            "anechoic.audit.training": ("TrainingSet",),
            "anechoic.verdict": ("Rule",),
        },
    )
