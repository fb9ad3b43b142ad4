"""Runs the network of Basic Pitch: how likely each pitch sounds, and starts, in each frame."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from anechoic.errors import BadSetting

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SAMPLE_RATE, HOP = 22_050, 256
WINDOW = 43_844  # samples that the network takes, 172 frames
LOWEST = 21  # MIDI pitch of the first of its 88, A0
EDGE = 15  # frames at each end of a window that are left to its neighbours
STEP = WINDOW - 2 * EDGE * HOP
AT_ONCE = 16  # windows; bounds the memory


class Activations(NamedTuple):
    """What the network says of a sound, in frames of 12 ms and by the 88 pitches from A0."""

    sounding: np.ndarray  # 0 to 1, float32 [frames, 88]
    starting: np.ndarray  # 0 to 1, float32 [frames, 88]
    seconds: np.ndarray  # of each frame, float64 [frames]


def activations(wav: np.ndarray) -> Activations:
    """How likely each pitch sounds and starts.

    Args:
        wav: mono at 22,050 Hz, float32 [t].

    Raises:
        BadSetting: ONNX Runtime is not installed.

    Source: Bittner et al., A lightweight instrument-agnostic model for polyphonic note
    transcription and multipitch estimation, ICASSP 2022.
    """
    padded = np.concatenate([np.zeros(EDGE * HOP, np.float32), wav])
    starts = range(0, len(padded), STEP)
    padded = np.pad(padded, (0, starts[-1] + WINDOW - len(padded)))
    windows = np.stack([padded[start : start + WINDOW] for start in starts])[..., None]
    parts = [_run(windows[at : at + AT_ONCE]) for at in range(0, len(windows), AT_ONCE)]
    sounding, starting = (
        np.concatenate([part[kind][:, EDGE:-EDGE] for part in parts]) for kind in (0, 1)
    )
    frame = np.arange(sounding.shape[1]) * HOP
    seconds = (np.arange(len(windows))[:, None] * STEP + frame) / SAMPLE_RATE
    heard = seconds.ravel() < len(wav) / SAMPLE_RATE
    return Activations(
        sounding.reshape(len(heard), -1)[heard],
        starting.reshape(len(heard), -1)[heard],
        seconds.ravel()[heard],
    )


def _run(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows [n, WINDOW, 1] to what sounds and starts in them, [n, 172, 88] each."""
    names = ["StatefulPartitionedCall:1", "StatefulPartitionedCall:2"]
    sounding, starting = _session().run(names, {"serving_default_input_2:0": windows})
    return sounding, starting


@cache
def _session() -> InferenceSession:
    try:
        from onnxruntime import InferenceSession, SessionOptions
    except ImportError as error:
        raise BadSetting(
            "notes need ONNX Runtime, which is not installed: pip install 'anechoic[notes]'"
        ) from error
    options = SessionOptions()
    options.intra_op_num_threads = 1  # the same result on any machine; the windows are few
    model = files("anechoic.transcription").joinpath("nmp.onnx").read_bytes()
    return InferenceSession(model, options, providers=["CPUExecutionProvider"])
