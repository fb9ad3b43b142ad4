"""A client of `anechoic serve`: python examples/service_client.py "low cello note" cello.wav"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2


@dataclass(frozen=True)
class Generated:
    """Sound that was verified before it left, and the certificate that says so."""

    content: bytes
    verdict: str  # "released" or "regenerated"
    similarity: float  # to the nearest training clip
    certificate: dict[str, Any]


class Refused(Exception):
    """No sound, and the service's sentence: 409 all attempts were copies; 503 it cannot verify."""


class Client:
    """Asks a service, and comes again when it is busy."""

    def __init__(self, address: str, key: str = "", seconds: float = 300.0):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx2.Client(base_url=address, headers=headers, timeout=seconds)

    def generate(self, prompt: str, **options: Any) -> Generated:
        """One sound. Options: seconds, seed, policy, format, deadline_s. Raises `Refused`."""
        made = self._post("/v1/generate", json={"prompt": prompt, **options})
        headers = made.headers
        certificate = self.http.get(headers["anechoic-certificate"]).raise_for_status().json()
        similarity = float(headers["anechoic-similarity"])
        return Generated(made.content, headers["anechoic-verdict"], similarity, certificate)

    def follow(self, prompt: str, **options: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """The events of one sound: queued, step and sound, then done or problem."""
        asked, name = {"prompt": prompt, **options}, ""
        with self.http.stream("POST", "/v1/generate/events", json=asked) as answer:
            for line in answer.iter_lines():
                field, _, value = line.partition(": ")
                name = value if field == "event" else name
                if field == "data":
                    yield name, json.loads(value)

    def check(self, sound: bytes) -> dict[str, Any]:
        """The verdict on a sound file. Raises `Refused`."""
        found: dict[str, Any] = self._post("/v1/check", content=sound).json()
        return found

    def _post(self, path: str, **body: Any) -> httpx2.Response:
        while (answer := self.http.post(path, **body)).status_code == 429:
            time.sleep(int(answer.headers["retry-after"]))
        if not answer.is_success:
            raise Refused(f"{answer.status_code}: {answer.json()['detail']}")
        return answer


if __name__ == "__main__":
    address = os.environ.get("ANECHOIC_ADDRESS", "http://127.0.0.1:8000")
    made = Client(address, os.environ.get("ANECHOIC_KEY", "")).generate(sys.argv[1])
    Path(sys.argv[2]).write_bytes(made.content)
    print(f"{made.verdict}, similarity {made.similarity:.3f}: {made.certificate['promise']}")
