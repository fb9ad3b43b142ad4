"""Checks whether a model runs under a guard here, before gigabytes are loaded.

The small files are checked first: the pipeline is built without its weights, the headers of the
weights files are read, and memory is counted. Only a model that passes all of that is loaded, to
measure how long a sound takes.
"""

from anechoic_lab.doctor.examine import examine
from anechoic_lab.doctor.record import Examination, Finding, Memory, Wanted

__all__ = ["Examination", "Finding", "Memory", "Wanted", "examine"]
