"""Would it run? A model, its training set's index, an embedder and a guard, before gigabytes.

What the small files tell is asked first: the pipeline is built without its weights, the headers
of the weights files are read, and memory is counted. Only what passed all of that is loaded, to
measure how long a sound takes.
"""

from anechoic_lab.doctor.examine import examine
from anechoic_lab.doctor.record import Examination, Finding, Memory, Wanted

__all__ = ["Examination", "Finding", "Memory", "Wanted", "examine"]
