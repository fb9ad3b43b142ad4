"""Certificates: what was checked about one sound file, by which detectors, against which index."""

from __future__ import annotations

from anechoic.certificate.c2pa import SigningKey
from anechoic.certificate.content import (
    Certificate,
    KeptPrompt,
    Provenance,
    certify,
    read,
    samples_sha256,
    sidecar,
)
from anechoic.certificate.verification import Finding, Verification, verify

__all__ = [
    "Certificate",
    "Finding",
    "KeptPrompt",
    "Provenance",
    "SigningKey",
    "Verification",
    "certify",
    "read",
    "samples_sha256",
    "sidecar",
    "verify",
]
