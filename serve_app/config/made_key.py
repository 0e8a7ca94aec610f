"""A new API key, with a webhook secret: what its holder gets, and what the configuration holds."""

import base64
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A key that is shown once, and its line below ``args.keys``."""

    key: str
    configured: Mapping[str, Any]
    """``name``, ``sha256`` and ``webhook_secrets``, as ``KeySettings`` takes them."""

    @classmethod
    def new(cls, name: str) -> Self:
        """Draw a key and a secret for the owner ``name``."""
        key = secrets.token_urlsafe(_SECRET_BYTES)
        secret = base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
        return cls(
            key,
            {
                "name": name,
                "sha256": hashlib.sha256(key.encode()).hexdigest(),
                "webhook_secrets": [f"whsec_{secret}"],
            },
        )

    def as_text(self) -> str:
        """Return what is shown to the operator."""
        name, hashed, (secret,) = self.configured.values()
        return "\n".join(
            [
                f"The key, for its holder: {self.key}",
                "The secret that its webhooks are signed with, for its holder too, stands in that line.",
                "Its line below args.keys of the configuration:",
                f'  - {{name: "{name}", sha256: "{hashed}", webhook_secrets: ["{secret}"]}}',
            ]
        )
