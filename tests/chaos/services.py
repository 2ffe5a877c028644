"""A farm on one machine for the chaos test: PostgreSQL, a Prefect server on it, workers, and ``splatmill reconcile``.

Everything is a real process in a folder of its own, and everything can be killed and started again.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from flows.server import SERVER, healthy

ROOT = Path(__file__).resolve().parents[2]
class Missing(SystemExit):
    """Something that the test needs is not installed; the message says what and how to get it."""


def free_port() -> int:
    """A port of the loopback interface that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return bound.getsockname()[1]


class Postgres:
    """A private cluster in ``folder``, run by the user ``postgres`` when we are root (it refuses to be root)."""

    def __init__(self, folder: Path) -> None:
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb")) or [shutil.which("initdb") or ""]
        if not found[-1]:
            raise Missing("make chaos needs PostgreSQL: apt-get install postgresql")
        self.bin, self.folder, self.port = Path(found[-1]).parent, folder, free_port()
        self.data = folder / "data"
        self.user = {}
        folder.mkdir()
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
            self.user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        self._call("initdb", "-D", str(self.data), "-U", "prefect", "--auth=trust", "-E", "UTF8", "--locale=C")
        self.start()
        self._call("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "prefect", "prefect")

    @property
    def url(self) -> str:
        """Its address for Prefect."""
        return f"postgresql+asyncpg://prefect@127.0.0.1:{self.port}/prefect"

    def start(self) -> None:
        """Start and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='{self.folder}'"
        self._call("pg_ctl", "-D", str(self.data), "-l", str(self.folder / "log"), "-w", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it; ``immediate`` is a crash."""
        self._call("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop")

    def _call(self, name: str, *arguments: str) -> None:
        command = [str(self.bin / name), *arguments]
        log = self.folder.parent / "postgres-commands.log"
        with open(log, "ab") as out:
            done = subprocess.run(command, stdout=out, stderr=out, cwd=self.folder, timeout=120, **self.user)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {log.read_text()[-500:]}")


class Farm:
    """Server, workers and reconciler. ``library`` is where the assets are made."""

    def __init__(self, folder: Path, library: Path, postgres: Postgres, workers: int) -> None:
        self.folder, self.library, self.postgres = folder, library, postgres
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.names = [f"worker-{i}" for i in range(workers)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.log = folder / "logs"
        self.log.mkdir()
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "SPLATMILL_"))} | {
            "PYTHONPATH": str(ROOT),
            "PREFECT_API_URL": self.url,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "PREFECT_LOGGING_TO_API_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "DO_NOT_TRACK": "1",
            "OMP_NUM_THREADS": "1",
            "SPLATMILL_THREADS": "1",
            "SPLATMILL_DEVICE": "cpu",
            "SPLATMILL_STATE": str(folder / "state"),
            "SPLATMILL_MIN_FREE_MB": "32",  # the disk that is filled is a small one
            "http_proxy": "http://127.0.0.1:9",  # nobody answers there, and loopback must not be asked through it
            "https_proxy": "http://127.0.0.1:9",
        }

    # --- starting ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything but the reconciler and the workers."""
        self.start_server()
        self.library.mkdir(parents=True)
        self.call("flows.cli", "deploy", "--library", str(self.library), "--gpus", str(len(self.names)))

    def start_workers(self) -> None:
        """Start them all."""
        for name in self.names:
            self.start_worker(name)

    def start_run(self, name: str, manifest: Path, library: str, options: list[str], **more: str) -> None:
        """Start ``splatmill run``, with a server of its own."""
        self.spawn(name, ["flows.cli", "run", str(manifest), "--library", library, *options], more, "PREFECT_API_URL")

    def ended(self, name: str, seconds: float) -> bool:
        """Whether a run ends within so many seconds; what it has made is looked at later."""
        try:
            self.processes[name].wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop_runs(self) -> None:
        """End what was started by :meth:`start_run`, and moto."""
        for name in set(self.processes) - {"reconcile", "server", *self.names}:
            if self.processes[name].poll() is None:
                os.killpg(self.processes[name].pid, signal.SIGKILL)
            self.processes[name].wait()

    def start_server(self) -> None:
        """Start the server and wait until it answers."""
        more = SERVER | {"PREFECT_API_DATABASE_CONNECTION_URL": self.postgres.url}
        self.spawn("server", ["flows.server", "--port", str(self.port)], more)
        self.wait_for_server()

    def wait_for_server(self, seconds: float = 180.0) -> None:
        """Return when the server answers."""
        end = time.monotonic() + seconds
        while not healthy(self.url):
            if time.monotonic() > end or self.processes["server"].poll() is not None:
                raise RuntimeError(f"the server does not answer: see {self.log / 'server.log'}")
            time.sleep(0.2)

    def start_worker(self, name: str) -> None:
        """Start a worker for one shard at a time."""
        self.spawn(name, ["flows.cli", "worker", "--name", name])

    def start_reconciler(self) -> None:
        """Start ``splatmill reconcile --every 5``."""
        self.spawn("reconcile", ["flows.cli", "reconcile", "--library", str(self.library), "--every", "5"])

    def spawn(
        self, name: str, arguments: list[str], more: dict[str, str] | None = None, without: str = ""
    ) -> None:
        """Start ``python -m ...``, with ``more`` in its environment and ``without`` one variable."""
        environment = {key: value for key, value in self.environment.items() if key != without} | (more or {})
        with open(self.log / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.folder,
                start_new_session=True,
            )

    def call(self, *arguments: str) -> str:
        """Run ``python -m ...`` in the checkout to its end; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=ROOT,
            timeout=300,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def alive(self) -> list[str]:
        """Workers that run."""
        return [name for name in self.names if self.processes[name].poll() is None]

    # --- ending ------------------------------------------------------------------------------------------------------

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one process (not to its children) and wait for its end."""
        process = self.processes[name]
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)

    def stop(self) -> None:
        """Stop everything in order."""
        for name in ("reconcile", *self.names, "server"):
            process = self.processes.get(name)
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGINT if name == "reconcile" else signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(90)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """``folder`` as a file system of its own that can be filled; False where this user may not mount one."""
    folder.mkdir()
    mounted = False
    if os.geteuid() == 0:
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "splatmill-chaos", str(folder)]
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True)
