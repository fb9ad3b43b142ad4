"""Requests that are almost right, for hypothesis, by the description of the endpoint itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)
ODD = st.sampled_from((
    "../../etc/passwd", "/dev/zero", "\x00", "\x1b[2J", "a" * 2000, "NaN", 1e308, -1, 2**32, 2**70,
    True, [], {}, None, "retry:100", "report", "raise", "guard,,", "retry:-1", "'; --",
))  # fmt: skip
RAW = st.sampled_from((
    b"", b"{", b"[" * 5000, b'{"prompt": "\\ud800"}', b"\xff\xfe", b"null", b"NaN",
    b'{"prompt": NaN}', b'{"prompt": "x", "prompt": 1}', b'{"seed": ' + b"9" * 5000 + b"}",
    b"RIFF\x24\x00\x00\x00WAVEfmt ", b"fLaC" + bytes(40), b"ID3" + b"\x7f" * 20,
))  # fmt: skip
KINDS = st.sampled_from((
    "application/json", "application/json; charset=utf-16", "text/plain", "audio/wav", "", "a/b/c",
    "multipart/form-data; boundary=x", "application/x-www-form-urlencoded",
))  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def requests(description: Mapping[str, Any], good: Mapping[str, Any]) -> st.SearchStrategy[Asked]:
    """Requests to the paths of an OpenAPI description.

    Args:
        description: the document.
        good: the body of a request that is served; its fields, and those that the document names
            besides, are replaced.
    """
    routes = [
        (method.upper(), path) for path, ways in description["paths"].items() for method in ways
    ]
    names = [*description["components"]["schemas"]["Generate"]["properties"], "files", "log"]
    changed = st.dictionaries(st.sampled_from(names), JSON | ODD, min_size=1, max_size=3)
    bodies = changed.map(lambda fields: json.dumps({**good, **fields}).encode())
    segment = st.sampled_from(
        ("..%2F..%2Fetc%2Fpasswd", "%00", "x" * 300, "%ff", "a.wav", "%2e%2e")
    )
    methods = st.sampled_from(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"))
    route = st.sampled_from(routes) | st.tuples(methods, st.sampled_from([p for _, p in routes]))
    headers = KINDS.map(lambda kind: {"content-type": kind}) | st.just(
        {"content-type": "application/json"}
    )
    return st.builds(
        lambda way, name, headers, body: Asked(
            way[0], way[1].replace("{name}", name), headers, body
        ),
        route,
        segment,
        headers,
        bodies | RAW | st.binary(max_size=64),
    )
