"""``splatmill serve``: who may ask for jobs, and the server that answers.

Tokens come from the environment or a file, never from the command line, which every user of the machine can read:

    SPLATMILL_JOBS_TOKEN    one token, for the user that SPLATMILL_USER names
    SPLATMILL_JOBS_USERS    a file that only its owner may read, a user and a token on each line; each sees his own jobs
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import signal
import sys
import threading
from pathlib import Path

from flows.farm.alerts import WEBHOOK
from flows.jobs.app import make_app
from flows.jobs.intake import WEBHOOKS
from flows.jobs.keeper import Keeper
from flows.post import SECRET
from flows.server import is_loopback
from pipeline_core.errors import RequestError
from pipeline_core.storage import Library
from tasks.requests import user

TOKEN, USERS = "SPLATMILL_JOBS_TOKEN", "SPLATMILL_JOBS_USERS"
SHORTEST = 16
LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})\s+(\S+)")

log = logging.getLogger("splatmill")


def serve(library: str, host: str, port: int, *, farm: bool, in_flight: int) -> None:
    """Answer until stopped. Raises :class:`RequestError` before anything is bound."""
    import uvicorn

    if "://" in library:
        raise RequestError(f"--library {library}: jobs over HTTP need a library in a local or mounted folder")
    users = tokens()
    if not users and not is_loopback(host):
        raise RequestError(
            f"--host {host} can be reached from elsewhere, so a token is needed: set {TOKEN}, or {USERS} to a file "
            "with a user and a token on each line (docs/JOBS.md)"
        )
    root = str(Library(library).create().root)
    if (os.environ.get(WEBHOOK) or os.environ.get(WEBHOOKS)) and not os.environ.get(SECRET):
        log.warning("webhooks are not signed: set %s, and receivers can tell them from others", SECRET)
    keeper, stop = Keeper(root, farm=farm), threading.Event()
    app = make_app(root, keeper, tokens=users, user=user() or "", in_flight=in_flight)
    worker = threading.Thread(target=keeper.work, args=(stop,), name="jobs", daemon=True)
    worker.start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises what it caught again when it ends
    print(f"jobs of {root} at http://{host}:{port}/v1/jobs", file=sys.stderr, flush=True)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.run(
                app, host=host, port=port, log_level="warning", access_log=False, limit_concurrency=256,
                timeout_graceful_shutdown=5, server_header=False,
            )  # fmt: skip
    finally:
        stop.set()
        keeper.wake.set()
        keeper.stop_child()


def tokens() -> dict[str, str]:
    """Users by the sha256 of their token. Raises :class:`RequestError` for tokens that are no good."""
    found: dict[str, str] = {}
    if one := os.environ.get(TOKEN, "").strip():
        found[_digest(one, TOKEN)] = user() or ""
    if named := os.environ.get(USERS, "").strip():
        found |= _users(Path(named))
    return found


def _users(path: Path) -> dict[str, str]:
    try:
        mode, lines = path.stat().st_mode, path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RequestError(f"{USERS}: {path} cannot be read ({error})") from None
    if mode & 0o077:
        raise RequestError(f"{USERS}: others may read or write {path}; chmod 600 it")
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = LINE.fullmatch(line.strip())
        if not match:
            raise RequestError(f"{USERS}: {path}, line {number}: a user's name (letters, digits, . _ -) and a token")
        digest = _digest(match[2], f"{path}, line {number}")
        if digest in found:
            raise RequestError(f"{USERS}: {path}, line {number}: this token is {found[digest]}'s already")
        found[digest] = match[1]
    if not found:
        raise RequestError(f"{USERS}: {path} names nobody")
    return found


def _digest(token: str, where: str) -> str:
    if len(token) < SHORTEST:
        raise RequestError(f"{where}: a token of {SHORTEST} characters or more; openssl rand -hex 24 draws one")
    return hashlib.sha256(token.encode()).hexdigest()
