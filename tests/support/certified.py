"""An index with a calibration, a new sound to certify, and who signs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from anechoic import TrainingIndex, audio, embedder
from anechoic.detectors import Calibration, NearestStretch, calibration
from anechoic.types import Embedder
from support.sounds import RATE, sounds, tune

NULL = tuple(0.60 + 0.002 * i for i in range(120))


def save_index(folder: Path, count: int = 4, shift: float = 0.0) -> Path:
    """An index of so many clips, calibrated on made-up scores."""
    made = embedder("magmel")
    index = TrainingIndex.build(sounds(count), made)
    index.save(folder, overwrite=True)
    write_calibration(folder, index, made, shift)
    return folder


def write_calibration(
    folder: Path, index: TrainingIndex, embedder: Embedder, shift: float = 0.0
) -> None:
    """Made-up scores of held-out sounds, for an index that was saved."""
    name = NearestStretch(index, embedder).name
    null = tuple(score + shift for score in NULL)
    calibration.write(folder, [Calibration(name, null, 0.02, seconds=1.0)])


def write_new(path: Path, channels: int = 1) -> Path:
    """A sound that is in no such index."""
    return audio.write(path, torch.cat([tune(99 + i) for i in range(channels)]), RATE)


@pytest.fixture(scope="session")
def certified_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an index that stays as it is."""
    return save_index(tmp_path_factory.mktemp("certified") / "i")


@dataclass(frozen=True)
class Signers:
    """Files of an authority, of those that it vouches for, and of one who vouches for himself."""

    folder: Path

    def __post_init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec, rsa

        self._save("stranger", ec.generate_private_key(ec.SECP256R1()))
        root = self._save("authority", ec.generate_private_key(ec.SECP256R1()))
        for name, key, end in (
            ("ec", ec.generate_private_key(ec.SECP256R1()), 2100),
            ("rsa", rsa.generate_private_key(65537, 2048), 2100),
            ("expired", ec.generate_private_key(ec.SECP256R1()), 2021),
            ("wide", ec.generate_private_key(ec.SECP384R1()), 2100),
        ):
            self._save(name, key, root, end)

    def chain(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"

    def options(self, name: str) -> list[str]:
        """Of the command line."""
        return [
            *("--signing-chain", str(self.chain(name))),
            *("--signing-key", str(self.key(name))),
        ]

    def _save(self, name: str, key: Any, by: Any = None, end: int = 2100) -> Any:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization

        subject = x509.Name([
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Example studio"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
        ])  # fmt: skip
        issuer, issuer_key = by or (subject, key)
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
             "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        usage |= {"digital_signature": True} if by else {"key_cert_sign": True, "crl_sign": True}
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        made = (
            x509.CertificateBuilder(subject_name=subject, issuer_name=issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime(2020, 1, 1))
            .not_valid_after(datetime(end, 1, 1))
            .add_extension(x509.BasicConstraints(by is None, None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(identifier, critical=False)
        )
        if by:
            mail = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
            made = made.add_extension(mail, critical=False)
        pem = made.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        authority = self.chain("authority").read_bytes() if by else b""
        self.chain(name).write_bytes(pem + authority)
        self.key(name).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        return subject, key


@pytest.fixture(scope="session")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    """Who signs; only where 'anechoic[c2pa]' is installed."""
    pytest.importorskip("c2pa", reason="pip install 'anechoic[c2pa]'")
    return Signers(tmp_path_factory.mktemp("signers"))
