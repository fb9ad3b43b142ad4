"""A monitor in a trainer of PyTorch Lightning, as stable-audio-tools has it."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from anechoic.errors import BadSetting
from anechoic.training.monitor import Monitor

LIBRARIES = ("pytorch_lightning", "lightning.pytorch")


def lightning_callback(monitor: Monitor) -> Any:
    """A Lightning callback that asks the monitor after each step, and stops the trainer.

    It is one of the package that is imported already, as the trainer's.

    Raises:
        BadSetting: Lightning is not installed.

    Example:
        Trainer(callbacks=[lightning_callback(monitor)])
    """
    library = _library()

    class MonitorCallback(library.Callback):  # type: ignore[misc, name-defined]
        """See `lightning_callback`."""

        step = 0  # the last one that the monitor was asked about

        def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
            if trainer.global_step == self.step:  # gradients are still accumulated
                return
            self.step = trainer.global_step
            if monitor(self.step):
                trainer.should_stop = True

    return MonitorCallback()


def _library() -> Any:
    for name in sorted(LIBRARIES, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise BadSetting(
        "PyTorch Lightning is not installed; install it, or call the monitor after each step "
        "yourself: 'if monitor(step): break'"
    )
