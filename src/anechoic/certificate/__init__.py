"""Certificates: what was checked about one sound file, by which detectors, against which index."""

from __future__ import annotations

from anechoic.certificate.content import (
    Certificate,
    KeptPrompt,
    Provenance,
    certify,
    read,
    samples_sha256,
    sidecar,
)

__all__ = [
    "Certificate",
    "KeptPrompt",
    "Provenance",
    "certify",
    "read",
    "samples_sha256",
    "sidecar",
]
