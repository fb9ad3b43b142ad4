"""Benchmarks methods x scenarios x seeds on any model: a resumable run, one table, one plot."""

from anechoic_lab.bench.plan import Method, Plan, presets
from anechoic_lab.bench.run import Results, run
from anechoic_lab.bench.task import BenchPrompt, Request, SampleScore, Source, Task, open_task

__all__ = [
    "BenchPrompt",
    "Method",
    "Plan",
    "Request",
    "Results",
    "SampleScore",
    "Source",
    "Task",
    "open_task",
    "presets",
    "run",
]
