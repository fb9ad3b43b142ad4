"""Certificates inside a sound file, as a signed C2PA manifest: pip install 'anechoic[c2pa]'.

Whoever signs brings a chain of certificates and a key. Nothing is fetched from the network.

Source: Coalition for Content Provenance and Authenticity, C2PA technical specification 2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from anechoic import __version__
from anechoic.errors import BadCertificate, BadSetting
from anechoic.parsing import parse_object, read_file, require_limit

LABEL = "org.anechoic.replication-check"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
MEDIA_TYPES = {
    ".wav": "audio/wav",
    ".wave": "audio/wav",
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
}
MARK = b"jumdc2pa"  # in every file that holds a manifest
UNTRUSTED = "signingCredential.untrusted"
OFFLINE = {"verify": {"ocsp_fetch": False, "remote_manifest_fetch": False}}
State = Literal["trusted", "untrusted", "broken"]


@dataclass(frozen=True)
class SigningKey:
    """A private key, and the chain of certificates that says whose it is, both PEM.

    Raises:
        BadSetting: not PEM, a key that is encrypted or of another kind than ES256 (P-256) and PS256
            (RSA of 2048 bits or more), a key of another certificate, or the extra is missing.
    """

    chain: bytes
    key: bytes = field(repr=False)
    algorithm: str = field(init=False)  # "es256" or "ps256"

    def __post_init__(self) -> None:
        require_installed()
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
            load_pem_private_key,
        )

        chain = certificates(self.chain, "the signer's chain")
        try:
            private: Any = load_pem_private_key(self.key, None)
        except (ValueError, TypeError) as error:
            reason = str(error).split(". ")[0]
            raise BadSetting(
                f"the signing key is not an unencrypted private key in PEM ({reason}); export it "
                "with 'openssl pkey'"
            ) from error
        object.__setattr__(self, "algorithm", _algorithm(private))
        plain = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        object.__setattr__(self, "key", plain)  # the one encoding that the signer reads
        if private.public_key() != chain[0].public_key():
            raise BadSetting(
                "the signing key is not that of the first certificate of the chain; put the "
                "signer's own certificate first"
            )

    @classmethod
    def load(cls, chain: str | Path, key: str | Path) -> SigningKey:
        """Read both from files."""
        return cls(
            read_file(chain, "chain of certificates", BadSetting),
            read_file(key, "signing key", BadSetting),
        )


@dataclass(frozen=True)
class Signed:
    """The manifest in a sound file."""

    state: State
    signer: str
    reason: str  # why it is broken
    content: Mapping[str, Any] | None  # of the certificate; None: the manifest has none


def require_installed() -> None:
    """Refuse if the extra is missing.

    Raises:
        BadSetting: it is.
    """
    if find_spec("c2pa") is None:
        raise BadSetting(
            "signatures need a package that is not installed; install it with "
            "pip install 'anechoic[c2pa]'"
        )


def media_type(file: Path) -> str:
    """The media type of a sound file that can hold a manifest.

    Raises:
        BadSetting: its format cannot.
    """
    if (found := MEDIA_TYPES.get(file.suffix.lower())) is None:
        raise BadSetting(
            f"'{file}' cannot be signed: expected {', '.join(MEDIA_TYPES)}; convert it, or leave "
            "the signature out"
        )
    return found


def sign(content: bytes, file: Path, told: Any, key: SigningKey) -> bytes:
    """A sound file with a signed manifest that holds a certificate.

    Args:
        content: the file.
        file: its name.
        told: the certificate, as JSON holds it.
        key: who signs.

    Raises:
        BadCertificate: the chain is not good for C2PA, or the file cannot be read.
        BadSetting: a format that cannot be signed.
    """
    from c2pa import Builder, C2paError, C2paSignerInfo, Context, Signer

    created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}
    manifest = {
        "claim_generator_info": [{"name": "anechoic", "version": __version__}],
        "title": file.name,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": LABEL, "data": told},
        ],
    }
    kind, signed = media_type(file), BytesIO()
    try:
        info = C2paSignerInfo(key.algorithm.encode(), key.chain, key.key, None)
        with (
            Context.from_dict(OFFLINE) as context,
            Signer.from_info(info) as signer,
            Builder(json.dumps(manifest), context=context) as builder,
        ):
            builder.sign(signer, kind, BytesIO(content), signed)
    except C2paError as error:
        raise BadCertificate(
            f"'{file}' cannot be signed ({error}); give a chain of a signer's certificate for "
            "C2PA, and a file that plays"
        ) from error
    return signed.getvalue()


def read_signed(content: bytes, file: Path, trust: bytes | None = None) -> Signed | None:
    """The manifest in a sound file; None: it holds none.

    Args:
        content: the file.
        file: its name.
        trust: certificates, PEM, of the authorities whose signers are trusted.

    Raises:
        BadSetting: `trust` is not PEM, or a manifest is there and the extra is missing.
        BadCertificate: the manifest is too large, or not to be read.
    """
    if MARK not in content or file.suffix.lower() not in MEDIA_TYPES:
        return None
    require_installed()
    from c2pa import C2paError, Context, Reader

    settings: dict[str, Any] = dict(OFFLINE)
    if trust is not None:
        certificates(trust, "the file of '--trust'")
        settings["trust"] = {"trust_anchors": trust.decode()}
    try:
        with (
            Context.from_dict(settings) as context,
            Reader(media_type(file), BytesIO(content), context=context) as reader,
        ):
            text = reader.json()
    except C2paError as error:
        return Signed("broken", "nobody", str(error), None)
    what = f"the manifest in '{file}'"
    require_limit("FIELD", len(text), f"{what} has {len(text)} characters", BadCertificate)
    return _signed(parse_object(text, what, BadCertificate))


def _signed(store: Mapping[str, Any]) -> Signed:
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    about = manifest.get("signature_info") or {}
    names = [about[key] for key in ("common_name", "issuer") if about.get(key)]
    results = store.get("validation_results", {})
    failures = [one for part in _parts(results) for one in part.get("failure", [])]
    broken = [one.get("explanation") or one.get("code") for one in failures
              if one.get("code") != UNTRUSTED]  # fmt: skip
    valid = store.get("validation_state")
    state: State = "trusted" if valid == "Trusted" else "untrusted"
    if broken or valid not in ("Trusted", "Valid"):
        state = "broken"
    found = [one.get("data") for one in manifest.get("assertions", []) if one["label"] == LABEL]
    content = found[0] if len(found) == 1 and isinstance(found[0], dict) else None
    return Signed(state, ", ".join(names) or "nobody", "; ".join(broken), content)


def _parts(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The validation of the manifest and of those that it was made from."""
    deltas = [one.get("validationDeltas", {}) for one in results.get("ingredientDeltas", [])]
    return [results.get("activeManifest", {}), *deltas]


def certificates(content: bytes, what: str) -> Sequence[Any]:
    """The certificates of a PEM file.

    Raises:
        BadSetting: it has none.
    """

    from cryptography.x509 import load_pem_x509_certificates

    with suppress(ValueError):
        found: Sequence[Any] = load_pem_x509_certificates(content)
        return found
    raise BadSetting(f"{what} has no certificates in PEM; export it with 'openssl x509'")


def _algorithm(key: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return "es256"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    raise BadSetting(
        "expected a signing key on the curve P-256 (ES256), or an RSA key of 2048 bits or more "
        f"(PS256), got a {type(key).__name__.strip('_')}; make another"
    )
