"""Work in a thread of its own: the page shows what it posts, and can stop it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Empty, Queue
from threading import Event, Lock, Thread
from typing import Any

from anechoic.errors import AnechoicError

Post = Callable[[str, Any], None]  # a place on the page, and what to show there
PROBLEM, END = "problem", "end"  # places of an error, and of the end


class Stopped(BaseException):
    """The page stopped the work. It is not an `Exception`: nothing may take it for a failure, try
    again, and go on."""


def in_background(
    work: Callable[[Post], None], alone: Lock, stopped: Event, pause: float = 0.2
) -> Iterator[dict[str, Any]]:
    """Run `work` and yield what it posts, only the latest for each place.

    The place `PROBLEM` is posted an error, as a sentence, and `END` whether the work is whole.

    Args:
        work: is called with the function that posts.
        alone: held while it runs; a model generates for one page at a time.
        stopped: once it is set, the work stops at its next post, as it does when nobody listens.
        pause: seconds between two answers, so that a browser can keep up.
    """
    news = Queue[tuple[str, Any]]()

    def post(place: str, value: Any) -> None:
        if stopped.is_set():
            raise Stopped
        news.put((place, value))

    def run() -> None:
        whole = False
        try:
            with alone:
                work(post)
            whole = True
        except Stopped:
            pass
        except Exception as error:
            news.put((PROBLEM, sentence(error)))
        news.put((END, whole))

    Thread(target=run, daemon=True).start()
    try:
        while True:
            latest: dict[str, Any] = {}
            with suppress(Empty):
                latest.update([news.get(timeout=0.5)])
                time.sleep(pause)
                for _ in range(news.qsize()):  # not what comes meanwhile, which may never end
                    latest.update([news.get_nowait()])
            yield latest
            if END in latest:
                return
    finally:
        stopped.set()


def sentence(error: Exception) -> str:
    """An error in words; a fault of ours also goes to the terminal with all that is known."""
    if isinstance(error, AnechoicError | OSError):
        return str(error)
    logging.getLogger(__name__).error("a fault of anechoic", exc_info=error)
    return (
        f"anechoic failed inside ({type(error).__name__}: {error}), and nothing is released; "
        "please report it with what the terminal shows"
    )
