"""Methods x scenarios x seeds on any model: a resumable run, one table, one plot."""

from anechoic.bench.plan import Method, Plan, presets
from anechoic.bench.run import Results, run
from anechoic.bench.subject import BenchPrompt, Row, Source, Subject, open_subject

__all__ = [
    "BenchPrompt",
    "Method",
    "Plan",
    "Results",
    "Row",
    "Source",
    "Subject",
    "open_subject",
    "presets",
    "run",
]
