"""Does a model replicate its training set, and which prompts make it do so?

`audit` compares whatever a function generates, or the sounds of a folder, with the index of a
training set; `write_report` makes of it a page to look at and to listen to. `audit.screen` asks
before anything is generated.
"""

from __future__ import annotations

from anechoic.audit.cautions import cautions
from anechoic.audit.document import document, schema
from anechoic.audit.pace import Progress
from anechoic.audit.report import Background, Examined, Report
from anechoic.audit.run import Calibrated, HeldOut, audit, calibrate
from anechoic.audit.takes import Take, Unexamined
from anechoic.audit.training import NearestStretch, TrainingSet
from anechoic.audit.verdict import Rule
from anechoic.audit.write import write_report

__all__ = [
    "Background",
    "Calibrated",
    "Examined",
    "HeldOut",
    "NearestStretch",
    "Progress",
    "Report",
    "Rule",
    "Take",
    "TrainingSet",
    "Unexamined",
    "audit",
    "calibrate",
    "cautions",
    "document",
    "schema",
    "write_report",
]
