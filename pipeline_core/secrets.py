"""Secrets come from the environment alone; this keeps them out of whatever is written down.

    redact("401 for https://ana:s3cret@farm/api")        # '401 for https://[hidden]@farm/api'

The values of variables with a telling name (``PREFECT_API_AUTH_STRING``, ``HF_TOKEN``, ``SPLATMILL_WEBHOOK``, ...) and
whatever stands before the ``@`` of an address are replaced. Errors are cleaned where a stage raises them, so that the
catalogue, the reports, Prefect's states and its logs all tell the same clean message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

HIDDEN = "[hidden]"
TELLING = re.compile("AUTH|TOKEN|SECRET|PASSW|API_KEY|ACCESS_KEY|CREDENTIAL|CONNECTION_URL|WEBHOOK|_DATABASE")
SHORTEST = 8
"""Shorter values are words such as ``true``, not secrets."""
USERINFO = re.compile(r"(?<=://)[^/\s@]+@")


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """``text`` without the secrets of ``environment`` (this process's) and without the user part of addresses."""
    for secret in sorted(_secrets(os.environ if environment is None else environment), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return USERINFO.sub(f"{HIDDEN}@", text)


def _secrets(environment: Mapping[str, str]) -> set[str]:
    """Values of telling variables, and the passwords of those that are ``user:password``."""
    values = {value for name, value in environment.items() if TELLING.search(name)}
    passwords = {value.partition(":")[2] for value in values if "://" not in value}
    return {value for value in values | passwords if len(value) >= SHORTEST}


def redact_error(error: BaseException | None) -> None:
    """Clean the messages of ``error`` and of the errors that led to it, in place."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        cleaned = tuple(redact(part) if isinstance(part, str) else part for part in error.args)
        if cleaned != error.args:
            error.args = cleaned
        error = error.__cause__ or error.__context__
