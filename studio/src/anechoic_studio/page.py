"""The page: its tabs, and how it is served."""

from __future__ import annotations

from pathlib import Path
from threading import Thread
from typing import Any

import gradio as gr

from anechoic_studio import cards, tabs
from anechoic_studio.studio import Studio

HOST = "127.0.0.1"  # the page has no login, so it is there for this machine alone
HERE = Path(__file__).parent
FONT = ["system-ui", "sans-serif"]  # nothing is fetched from anywhere


def build(studio: Studio) -> gr.Blocks:
    """The page of a studio; sound that nothing verified has no place on it with `guarded_only`."""
    pages = {
        "Generate": tabs.generate,
        "Check": tabs.check,
        "Explore": tabs.explore,
        "Index": tabs.index,
        "Audit": tabs.audits,
    }
    if studio.guarded_only:
        pages = {name: tab for name, tab in pages.items() if name not in ("Explore", "Audit")}
    with gr.Blocks(title="anechoic studio", analytics_enabled=False) as page:
        gr.Markdown("# anechoic studio")
        gr.HTML(_about(studio))
        with gr.Tabs(overflow_behavior="wrap"):
            for name, tab in pages.items():
                with gr.Tab(name, elem_id=f"tab-{name.lower()}"):
                    tab(studio)
    return page


def serve(studio: Studio, port: int, wait: bool = True) -> tuple[gr.Blocks, str]:
    """Serve the page on this machine.

    Returns:
        The page, and its address; with `wait`, when it is over.
    """
    page = build(studio)
    Thread(target=studio.warm, daemon=True).start()
    launched: Any = page.launch(
        server_name=HOST, server_port=port or None, share=False, quiet=True,
        prevent_thread_lock=True,
        footer_links=[], ssr_mode=False, mcp_server=False, enable_monitoring=False,
        run_history=False, allowed_paths=[str(studio.reports)], max_file_size="200mb",
        theme=gr.themes.Base(font=FONT, font_mono=["ui-monospace", "monospace"]),
        css_paths=HERE / "page.css", head=f"<script>{(HERE / 'page.js').read_text()}</script>",
    )  # fmt: skip
    address = f"http://{HOST}:{page.server_port}"
    print(f"anechoic studio: {address} (Ctrl+C ends it)", flush=True)
    if wait:
        page.block_thread()
    del launched
    return page, address


def _about(studio: Studio) -> str:
    judge = studio.judge
    unable = judge.unable()
    held = f"Model '{studio.known.name}', {len(judge.training.clips)} training clips. "
    words = held + "Whatever is above the limit of a detector is not released."
    return cards.note(words) + (cards.problem(f"Nothing is released: {unable}.") if unable else "")
