"""Posts a JSON document to an address that the operator allows, signed where there is a secret.

    post("https://example.org/hook", {"text": "done"}, key="run-7-disk")

With ``SPLATMILL_WEBHOOK_SECRET`` set, ``X-Splatmill-Signature`` is ``sha256=`` and the HMAC of the body in hex. Every
post of one document has the same ``Idempotency-Key``, because it may arrive more than once.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import urllib.request
from typing import Any

SECRET = "SPLATMILL_WEBHOOK_SECRET"
TIMEOUT_S = 5.0


class _Stay(urllib.request.HTTPRedirectHandler):
    """A receiver that sends elsewhere has not received: to follow would turn the post into a GET of any address."""

    def redirect_request(self, *_: Any) -> None:
        return None


def post(address: str, told: dict[str, Any], key: str) -> None:
    """Post a document once; returns when the receiver has answered with 2xx.

    Raises OSError, ``http.client.HTTPException`` or ValueError.
    """
    body = json.dumps(told, sort_keys=True).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    if secret := os.environ.get(SECRET, ""):
        headers["X-Splatmill-Signature"] = signature(secret, body)
    request = urllib.request.Request(address, data=body, headers=headers, method="POST")
    with urllib.request.build_opener(_Stay).open(request, timeout=TIMEOUT_S):
        return


def signature(secret: str, body: bytes) -> str:
    """What a receiver compares before it believes a body."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
