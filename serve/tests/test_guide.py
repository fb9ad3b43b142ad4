"""The guide for operators, pasted in order into an empty folder: from clips to an endpoint."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from support.load import free_port
from support.sounds import RATE, tune

from anechoic import audio
from anechoic.models import find

GUIDE = Path(__file__).parents[2] / "docs/how-to/deploy.md"
READY = "for _ in $(seq 600); do curl -sf {url}/readyz > ready.json && break; sleep 0.2; done"


@pytest.mark.slow  # five processes that load torch
def test_the_guide_can_be_pasted_in_order_into_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, first in (("clips", 0), ("others", 100)):
        for number in range(first, first + 24):
            audio.write(tmp_path / name / f"{number}.wav", tune(number, 0.5), RATE)
    rows = "".join(f"{number}.wav,tune {number}\n" for number in range(24))
    (tmp_path / "clips/metadata.csv").write_text("file_name,caption\n" + rows)
    (tmp_path / "my-model").symlink_to(find("demo").pipeline)
    commands, requests = re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text("utf-8"), re.M | re.S)[:2]
    lines = [line for line in commands.splitlines() if not line.startswith("pip install")]
    url = f"http://127.0.0.1:{free_port()}"
    serves = f"{lines.pop()} --port {url.rpartition(':')[2]} &"
    asks = requests.replace("http://127.0.0.1:8000", url).replace("curl -s", "curl -fsS")
    script = ["set -e", *lines, serves, "trap 'kill $!' EXIT", READY.format(url=url), asks]
    monkeypatch.setenv("ANECHOIC_SERVE_STEPS", "10")
    ran = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    assert json.loads((tmp_path / "ready.json").read_text())["ready"]
    headers = (tmp_path / "headers.txt").read_text().lower()
    assert "anechoic-verdict: released" in headers or "anechoic-verdict: regenerated" in headers
    assert audio.read(tmp_path / "cello.flac")[0].abs().max() > 0
    assert '"verdict":"no copy"' in ran.stdout
    assert "event: done" in ran.stdout
    request = re.search("anechoic-request: ([0-9a-f]+)", headers)
    assert request
    assert request[1] in (tmp_path / "requests.jsonl").read_text()
