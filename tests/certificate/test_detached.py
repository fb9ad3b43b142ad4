"""Signatures beside what they sign: of both kinds of key, trusted or not, and of nothing else."""

from __future__ import annotations

import pytest
from support.certified import Signers

from anechoic.certificate import SigningKey
from anechoic.certificate.detached import check_detached, sign_detached
from anechoic.errors import BadSetting


@pytest.mark.parametrize("name", ["ec", "rsa"])
def test_it_is_valid_of_these_bytes_and_this_signer_alone(name: str, signers: Signers) -> None:
    chain = signers.chain(name).read_bytes()
    signature = sign_detached(b"content", SigningKey.load(signers.chain(name), signers.key(name)))
    found = check_detached(b"content", signature, chain)
    assert (found.state, found.signer) == ("untrusted", f"{name}, Example studio")
    other = signers.chain("rsa" if name == "ec" else "ec").read_bytes()
    for content, given, by in (
        (b"content.", signature, chain),
        (b"content", signature[:-1] + bytes([signature[-1] ^ 1]), chain),
        (b"content", b"", chain),
        (b"content", signature, other),
    ):
        assert check_detached(content, given, by).state == "broken"


def test_whom_an_authority_vouches_for_is_trusted_unless_expired(signers: Signers) -> None:
    root = signers.chain("authority").read_bytes()
    for name, state in (("ec", "trusted"), ("expired", "untrusted"), ("stranger", "untrusted")):
        key = SigningKey.load(signers.chain(name), signers.key(name))
        found = check_detached(b"x", sign_detached(b"x", key), key.chain, root)
        assert found.state == state, name
    with pytest.raises(BadSetting, match="has no certificates in PEM"):
        check_detached(b"x", sign_detached(b"x", key), key.chain, b"none")
