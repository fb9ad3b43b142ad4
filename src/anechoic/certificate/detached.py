"""Signatures that stand in a file of their own, which `openssl dgst` verifies as well."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from anechoic.certificate.c2pa import Signed, SigningKey, certificates, require_installed


def sign_detached(content: bytes, key: SigningKey) -> bytes:
    """The signature of bytes, with SHA-256: ECDSA as DER, or RSA-PSS."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private: Any = load_pem_private_key(key.key, None)
    signature: bytes = private.sign(content, *_scheme(private))
    return signature


def check_detached(
    content: bytes, signature: bytes, chain: bytes, trust: bytes | None = None
) -> Signed:
    """Whether a signature is that of these bytes, and whose.

    Args:
        content: what was signed.
        signature: as from `sign_detached`.
        chain: certificates, PEM, the signer's own first.
        trust: certificates, PEM, of the authorities whose signers are trusted now.

    Raises:
        BadSetting: no certificates in `chain` or `trust`, or the extra 'c2pa' is missing.
    """
    require_installed()
    from cryptography.exceptions import InvalidSignature
    from cryptography.x509 import NameOID
    from cryptography.x509.verification import (
        ExtensionPolicy,
        PolicyBuilder,
        Store,
        VerificationError,
    )

    own, *between = certificates(chain, "the signer's chain")
    names = [own.subject.get_attributes_for_oid(kind)
             for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)]  # fmt: skip
    signer = ", ".join(str(name[0].value) for name in names if name) or "nobody"
    public = own.public_key()
    try:
        public.verify(signature, content, *_scheme(public))
    except (InvalidSignature, ValueError):
        return Signed("broken", signer, "it is not the signature of this content", None)
    if trust is None:
        return Signed("untrusted", signer, "", None)
    anyone = ExtensionPolicy.permit_all()
    policy = (
        PolicyBuilder()
        .store(Store([*certificates(trust, "the file of '--trust'")]))
        .time(datetime.now(UTC))
        .extension_policies(ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=anyone)
    )
    try:
        policy.build_client_verifier().verify(own, between)
    except VerificationError as error:
        return Signed("untrusted", signer, str(error), None)
    return Signed("trusted", signer, "", None)


def _scheme(key: Any) -> tuple[Any, ...]:
    from cryptography.hazmat.primitives.asymmetric import ec, padding
    from cryptography.hazmat.primitives.hashes import SHA256

    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return (ec.ECDSA(SHA256()),)
    pss = padding.PSS(padding.MGF1(SHA256()), padding.PSS.DIGEST_LENGTH)
    return (pss, SHA256())
