"""Finds a Prefect server, or starts one: the one that is pointed at, one that is kept warm, or one for a single run.

    with prefect_server(library):         # sets PREFECT_* in this process; import prefect only inside
        ...

Our own server keeps its SQLite file in the user's state folder, so that a library's full disk does not silence it. It
listens on a free port of the loopback interface, sends nothing anywhere, and ends with its parent however that ends.
Prefect's ephemeral mode is not used: it is slower and prints tracebacks when it stops. The settings that batch its
recorders cut its CPU time about fourfold.

This module never imports Prefect, except in the server's own process (``python -m flows.server``).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import psutil

from pipeline_core import python
from pipeline_core.errors import RequestError
from pipeline_core.files import cache_folder, lock, replaced, state_folder, write_json, write_text

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 15.0

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "PREFECT_CLI_WRAP_LINES": "false",
}
"""No telemetry and no promotion, on client and server."""

CLIENT = QUIET | {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
}
"""A run's own settings. Prefect logs no failures, because splatmill tells each once, without a traceback."""

WORKER = QUIET | {
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_WORKER_QUERY_SECONDS": "5",
    "PREFECT_WORKER_HEARTBEAT_SECONDS": "15",
}
"""A worker's own settings. The flows that it runs get theirs from prefect.yaml. One that has given three signs of life
less than it should is offline for the server, and reconcile gives up what it took and never began."""

SERVER = QUIET | {
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
}
"""The recorders write in batches (by default, one row at a time), old rows are swept, and SQLite is waited for."""


# --- which server ----------------------------------------------------------------------------------------------------


def pointed_at() -> str | None:
    """The API address that the user's environment or Prefect profile names, else None."""
    if os.environ.get("PREFECT_API_URL"):
        return os.environ["PREFECT_API_URL"]
    home = Path(os.environ.get("PREFECT_HOME") or os.path.expanduser("~/.prefect"))
    try:
        profiles = tomllib.loads(Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").read_text())
        active = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
        return profiles.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
    except (OSError, ValueError, AttributeError):
        return None


def state_file() -> Path:
    """The file with process id, address and password of the warm server; only its user may read it."""
    return state_folder() / "server.json"


def warm_server() -> dict[str, Any] | None:
    """Process id and address of the server kept by ``splatmill server start``, when it answers."""
    try:
        found = json.loads(state_file().read_text())
    except (OSError, ValueError):
        return None
    return found if healthy(found["url"]) else None


def healthy(url: str, timeout: float = 2.0) -> bool:
    """Whether a server answers at ``url``."""
    return _answers(f"{url.rstrip('/')}/health", timeout)


def ready(url: str, timeout: float = 5.0) -> bool:
    """Whether a server answers at ``url`` and reaches its database."""
    return _answers(f"{url.rstrip('/')}/ready", timeout)


def _answers(url: str, timeout: float) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status == 200
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def prefect_server(library: Path) -> Iterator[str]:
    """Point this process at a Prefect server, starting one when there is none; yields its address."""
    python.reach_loopback_directly()
    settings = dict(CLIENT)
    settings["PREFECT_LOCAL_STORAGE_PATH"] = str(library / ".prefect" / "results")
    url = pointed_at()
    if url:
        _set_defaults(settings)
        if not healthy(url, timeout=10):
            raise RequestError(
                f"no Prefect server answers at {url} (PREFECT_API_URL or the active profile); start it, or unset that "
                "and splatmill starts its own"
            )
        yield url
        return
    warm = warm_server()
    if warm:
        _set_defaults(settings | {"PREFECT_HOME": str(state_folder() / "prefect"), "PREFECT_API_URL": warm["url"]})
        if warm.get("auth"):
            os.environ["PREFECT_API_AUTH_STRING"] = warm["auth"]
        yield warm["url"]
        return
    with _home(library) as home, own_server(home) as url:
        os.environ["PREFECT_HOME"] = str(home)
        _set_defaults(settings | {"PREFECT_API_URL": url})
        yield url


def _set_defaults(settings: dict[str, str]) -> None:
    for name, value in settings.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def _home(library: Path) -> Iterator[Path]:
    """Yields the server's folder for this library, or a temporary one while another run of the library holds that."""
    home = state_folder() / "libraries" / hashlib.sha256(str(library.resolve()).encode()).hexdigest()[:16]
    with lock(home / "lock", wait=False) as mine:
        if mine:
            yield home
            return
        with tempfile.TemporaryDirectory(prefix="splatmill-prefect-") as other:
            yield Path(other)


# --- starting and stopping -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def own_server(home: Path) -> Iterator[str]:
    """Run a server for as long as the block lasts; yields its address."""
    child, url = launch(home, parent=os.getpid())
    try:
        wait_until_healthy(child, url, home)
        yield url
    finally:
        end(child)


def launch(
    home: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    parent: int | None = None,
    settings: dict[str, str] | None = None,
) -> tuple[subprocess.Popen[str], str]:
    """Start the server's process; returns it and its address as soon as the port is bound.

    It has a session of its own, so that Ctrl-C at the terminal reaches the run alone, which then stops it in order.
    """
    environment = _environment(home, settings or {})
    command = _command(host, port)
    if parent:
        command += ["--parent", str(parent)]
    with open(home / "server.log", "ab") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=environment, text=True,
            start_new_session=True,
        )  # fmt: skip
    assert child.stdout is not None  # a pipe, as asked for above
    line = child.stdout.readline()
    if not line.startswith("http"):
        end(child)
        raise RequestError(f"Prefect's server did not start; see {home / 'server.log'}: {_last_line(home)}")
    return child, line.strip()


def _environment(home: Path, settings: dict[str, str]) -> dict[str, str]:
    """The environment of the server's process: our defaults, the user's own settings, and ``settings``.

    Makes ``home``, with a migrated database where there is none.
    """
    home.mkdir(parents=True, exist_ok=True)
    _use_template(home)
    environment = {k: v for k, v in os.environ.items() if k not in ("PREFECT_API_URL", "PREFECT_PROFILE")}
    return python.environment(SERVER | environment | settings | {"PREFECT_HOME": str(home)})


def _command(host: str, port: int) -> list[str]:
    return python.command("flows.server", "--host", host, "--port", str(port))


def wait_until_healthy(child: subprocess.Popen[str], url: str, home: Path) -> None:
    """Return when the server answers; raises :class:`RequestError` when it ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not healthy(url):
        if child.poll() is not None or time.monotonic() > deadline:
            end(child)
            raise RequestError(f"Prefect's server did not start; see {home / 'server.log'}: {_last_line(home)}")
        time.sleep(0.1)
    _keep_template(home)


def _template() -> Path:
    """An empty database of this Prefect release. It is migrated once per user, which takes longer than all the rest."""
    return cache_folder() / f"prefect-{importlib.metadata.version('prefect')}.db"


def _use_template(home: Path) -> None:
    """Give a new server the migrated database."""
    database = home / "prefect.db"
    if not database.exists() and _template().is_file():
        shutil.copyfile(_template(), database)


def _keep_template(home: Path) -> None:
    """Keep a copy of a database that was just made. Where there is no place for it, later servers start more slowly."""
    database, template = home / "prefect.db", _template()
    if template.exists() or not database.exists():
        return
    with (
        contextlib.suppress(OSError, sqlite3.Error),
        replaced(template) as scratch,
        contextlib.closing(sqlite3.connect(database)) as source,
        contextlib.closing(sqlite3.connect(scratch)) as copy,
    ):
        source.backup(copy)


def _last_line(home: Path) -> str:
    try:
        lines = (home / "server.log").read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:300] if lines else "it said nothing"


def end(child: subprocess.Popen[str]) -> None:
    """Stop a server's process and wait for it."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdout:
        child.stdout.close()


# --- the warm server -------------------------------------------------------------------------------------------------


def start_warm(host: str = "127.0.0.1", port: int | None = None, database: str | None = None) -> dict[str, Any]:
    """Start a server that stays, in the background; returns its process id, address and, if any, ``user:password``.

    The one that is there already is returned where it is what was asked for, else :class:`RequestError` is raised.
    """
    found = warm_server()
    if found:
        if port not in (None, 0, int(found["url"].rsplit(":", 1)[1].split("/")[0])) or database:
            raise RequestError(
                f"{found['url']} (pid {found['pid']}) is kept by this user already, with settings of its own; "
                "splatmill server stop ends it, then start this one"
            )
        return found
    home, settings = state_folder() / "prefect", _settings(host, database)
    child, url = launch(home, host=host, port=4200 if port is None else port, settings=settings)
    wait_until_healthy(child, url, home)
    return _keep_address(child.pid, url, settings.get("PREFECT_SERVER_API_AUTH_STRING"))


def serve(host: str = "127.0.0.1", port: int = 4200, database: str | None = None) -> NoReturn:
    """Become a server that runs in the foreground until it is stopped, as systemd and containers like it."""
    warm = warm_server()
    if warm:
        raise RequestError(f"{warm['url']} is kept by this user already; splatmill server stop ends it")
    home, settings = state_folder() / "prefect", _settings(host, database)
    os.execve(sys.executable, [*_command(host, port), "--keep"], _environment(home, settings))


def _settings(host: str, database: str | None) -> dict[str, str]:
    """Settings of a server that stays: its database, and a password unless only this machine can reach it."""
    settings = {"PREFECT_API_DATABASE_CONNECTION_URL": database} if database else {}
    auth = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
    if not auth and not is_loopback(host):
        auth = auth_string()
    if auth:
        settings["PREFECT_SERVER_API_AUTH_STRING"] = auth
    return settings


def auth_string() -> str:
    """The ``user:password`` that clients of this user's server send: the environment's, else the one that was drawn."""
    return os.environ.get("PREFECT_SERVER_API_AUTH_STRING") or f"splatmill:{password()}"


def password() -> str:
    """The password that this user's servers ask for when the environment gives none. It is drawn once and kept."""
    path = state_folder() / "password"
    if not path.exists():
        write_text(path, secrets.token_urlsafe(18), mode=0o600)
    return path.read_text().strip()


def _keep_address(pid: int, url: str, auth: str | None) -> dict[str, Any]:
    """Put down, for this user alone, where the server is and what it asks for."""
    found = {"pid": pid, "url": url, "auth": auth}
    write_json(state_file(), found, mode=0o600)
    return found


def check_database(url: str) -> None:
    """Raise :class:`RequestError` for an address that Prefect cannot use. The message does not repeat the address."""
    if not url.startswith(("postgresql+asyncpg://", "sqlite+aiosqlite://")):
        raise RequestError("the database's address begins with postgresql+asyncpg:// or sqlite+aiosqlite:///")
    if url.startswith("postgresql") and importlib.util.find_spec("asyncpg") is None:
        raise RequestError("PostgreSQL needs asyncpg: pip install 'splatmill[postgres]'")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    return host == "localhost" or host == "::1" or host.startswith("127.")


def stop_warm() -> bool:
    """Stop the warm server; False when there is none."""
    process = _warm_process()
    if process:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except psutil.TimeoutExpired:
            process.kill()
    state_file().unlink(missing_ok=True)
    return process is not None


def _warm_process() -> psutil.Process | None:
    """The warm server's process, whether it answers or not."""
    try:
        process = psutil.Process(json.loads(state_file().read_text())["pid"])
        return process if "flows.server" in process.cmdline() else None
    except (OSError, ValueError, psutil.Error):
        return None


# --- the server's own process ----------------------------------------------------------------------------------------


def _serve() -> None:
    """Bind a port, print the address, then load Prefect and serve until told to stop or until the parent is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--parent", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="be this user's warm server")
    options = parser.parse_args()
    try:
        bound = _bind(options.host, options.port)
    except OSError as error:
        sys.exit(f"splatmill: {options.host}, port {options.port}: {error.strerror}; give another --host or --port")
    url = _address(options.host, bound.getsockname()[1])
    if options.keep:
        _keep_address(os.getpid(), url, os.environ.get("PREFECT_SERVER_API_AUTH_STRING"))
    print(url, flush=True)
    os.dup2(2, 1)  # the parent reads one line; whatever is printed later goes to the log
    os.environ["PREFECT_API_URL"] = url
    os.environ.setdefault("PREFECT_SERVER_UI_API_URL", "/api")  # whatever name the browser knows this machine by
    origin = url.removesuffix("/api")
    os.environ.setdefault("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", f"{origin},{origin.replace('127.0.0.1', 'localhost')}")

    import uvicorn
    from prefect.server.api.server import create_app

    server = uvicorn.Server(
        uvicorn.Config(create_app(), log_level="warning", access_log=False, timeout_graceful_shutdown=3)
    )
    if options.parent:
        threading.Thread(target=_end_with, args=(options.parent, server), daemon=True).start()
    server.run(sockets=[bound])
    os._exit(0)  # background services may still be in a sleep; everything that matters is written


def _bind(host: str, port: int) -> socket.socket:
    """Open a listening socket; ``::`` takes IPv4 too."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.create_server((host, port), family=family, dualstack_ipv6=host == "::")
    bound.set_inheritable(False)
    return bound


def _address(host: str, port: int) -> str:
    """The API's address as this machine reaches it."""
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/api"


def _end_with(parent: int, server: Any) -> None:
    """Stop serving when the parent is gone, however it ended."""
    while os.getppid() == parent:
        time.sleep(0.5)
    server.should_exit = True
    time.sleep(STOP_TIMEOUT_S)
    os._exit(0)


if __name__ == "__main__":
    _serve()
