"""A webhook secret, as Standard Webhooks 1.0 writes it: ``whsec_`` and base64."""

import base64

_PREFIX = "whsec_"


def secret_bytes(secret: str) -> bytes:
    """Decode a secret, ``whsec_`` and the base64 of 24 to 64 bytes. Raises ``ValueError`` for another."""
    if not secret.startswith(_PREFIX):
        raise ValueError("must begin with whsec_")
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except ValueError:
        raise ValueError("must be whsec_ and base64") from None
    if not 24 <= len(key) <= 64:
        raise ValueError("must be whsec_ and the base64 of 24 to 64 random bytes")
    return key
