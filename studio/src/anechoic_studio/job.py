"""What a tab runs: drawn while it runs, and stopped by a button."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any

import gradio as gr

from anechoic.errors import AnechoicError
from anechoic_studio import cards
from anechoic_studio.background import END, PROBLEM, Post, in_background
from anechoic_studio.studio import Studio

Updates = dict[Any, Any]  # new values by component
PRIVATE: Mapping[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass(frozen=True, eq=False)
class Job:
    """Work of a tab.

    Args:
        studio: whose model works; for one page at a time.
        begin: takes the values of the inputs, and returns what is to be done.
        draw: takes a place that the work posts to, and what is there: the components to change.
        outputs: these components.
        status: says what goes wrong.
        stop: the button that stops it.
    """

    studio: Studio
    begin: Callable[..., Callable[[Post], None]]
    draw: Callable[[str, Any], Updates]
    outputs: Sequence[Any]
    status: gr.HTML
    stop: gr.Button

    def on(self, triggers: Sequence[Any], inputs: Sequence[Any]) -> None:
        """Run it at these events."""
        stops: dict[str | None, Event] = {}  # of each open page

        def run(request: gr.Request, *values: Any) -> Iterator[Updates]:
            stopped = stops[request.session_hash] = Event()
            try:
                work = self.begin(*values)
            except AnechoicError as error:
                yield {self.status: cards.problem(str(error))}
                return
            yield {self.status: "", self.stop: gr.update(interactive=True)}
            for latest in in_background(work, self.studio.alone, stopped):
                changed: Updates = {self.status: gr.skip()}
                for place, value in latest.items():
                    if place not in (END, PROBLEM):
                        changed |= self.draw(place, value)
                if END in latest:
                    changed[self.stop] = gr.update(interactive=False)
                    if not latest[END]:
                        changed[self.status] = cards.note("Stopped.")
                if PROBLEM in latest:
                    changed[self.status] = cards.problem(latest[PROBLEM])
                yield changed

        def stop(request: gr.Request) -> None:
            if request.session_hash in stops:
                stops[request.session_hash].set()

        gr.on(
            triggers, run, list(inputs), [*self.outputs, self.status, self.stop],
            concurrency_limit=None, trigger_mode="once", **PRIVATE,
        )  # fmt: skip
        self.stop.click(stop, queue=False, **PRIVATE)
