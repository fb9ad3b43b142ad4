"""Sound to notes, by the network of Basic Pitch, which this package brings along (0.23 MB).

It needs ONNX Runtime: `pip install 'anechoic[notes]'`. NOTICE names the makers of the network.
"""

from __future__ import annotations

from anechoic.transcription.events import NoteEvents, note_events
from anechoic.transcription.network import LOWEST, SAMPLE_RATE, Activations, activations
from anechoic.transcription.voice import Melody, hear_melody, leading

__all__ = [
    "LOWEST",
    "SAMPLE_RATE",
    "Activations",
    "Melody",
    "NoteEvents",
    "activations",
    "hear_melody",
    "leading",
    "note_events",
]
