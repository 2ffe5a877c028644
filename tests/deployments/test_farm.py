"""The farm's files, run: every command as its file says, in boxes of its own, against PostgreSQL and Prefect's server.

    make test-farm-files        # as root, on Linux, with PostgreSQL installed; about ten minutes

No container engine and no systemd is needed: ``tests.deployments.box`` gives each command the user, environment, folder
and writable places that its file gives it, and ``tests.deployments.farm_files`` reads them.
"""

import contextlib
import glob
import json
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml

from pipeline_core.rendering import jit
from tests.deployments.farm_files import (
    FOLDER,
    ROOT,
    SYSTEM_PATH,
    Command,
    env_files,
    image,
    pod,
    readme_line,
    services,
    units,
)
from tests.flows.tiny import TINY, settings

pytestmark = [
    pytest.mark.farmfiles,
    pytest.mark.skipif(os.geteuid() != 0, reason="boxes are made by root alone: sudo make test-farm-files"),
]

USER = 1000
PASSWORD = "0123456789abcdef"
HOSTS = "127.0.0.1 localhost server postgres splatmill-server\n"
POSTGRES = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["postgres"]
PROCESS = {"OMP_NUM_THREADS": "1", "SPLATMILL_THREADS": "1"}
"""Two cores may be all that there is."""


class Site:
    """A network of its own, with PostgreSQL in it, and the folders that its boxes write to.

    Each box is a session of its own: on a busy machine the kernel gives each its part, as it does a container.
    """

    def __init__(self, folder):
        self.folder, self.processes, self.logs = folder, {}, {}
        self.net = subprocess.Popen(["unshare", "--net", "sh", "-c", "ip link set lo up; exec sleep infinity"])
        (folder / "hosts").write_text(HOSTS)
        (folder / "etc").mkdir(mode=0o755)
        for name, text in env_files(PASSWORD).items():
            (folder / "etc" / name).write_text(text)
        self.owned("library")

    def owned(self, name, mode=0o755):
        """A folder of the boxes' user."""
        path = self.folder / name
        path.mkdir(exist_ok=True, parents=True)
        path.chmod(mode)
        os.chown(path, USER, USER)
        return str(path)

    def binds(self, name, command, container):
        """What a box shows in its places; a unit's own folders are shared by all units, a container's are its own."""
        own = name if container else "machine"
        if container:
            shown = [[str(ROOT / each), f"{command.cwd}/{each}", False] for each in image().copied]
            shown += [[str(ROOT / ".venv"), "/opt/venv", False]]
        else:
            shown = [[str(ROOT), command.cwd, False], [str(self.folder / "etc"), "/etc/splatmill", False]]
        for place in command.writes:
            mine = "library" if place.endswith("library") else f"{own}{place.replace('/', '-')}"
            shown.append([self.owned(mine, 0o1777 if place == "/tmp" else 0o755), place, True])
            self.warm(self.folder / mine, place, command.env.get("SPLATMILL_CACHE", ""))
        return shown

    def warm(self, folder, place, cache):
        """Give a box the kernels that this user has compiled, as splatmill doctor --warmup would."""
        kernels = jit.cache_folder()
        if kernels and Path(cache).is_relative_to(place):
            there = folder / Path(cache).relative_to(place) / kernels.name
            if not there.exists():
                shutil.copytree(kernels, there)
                subprocess.run(["chown", "--recursive", f"{USER}:{USER}", folder], check=True)

    def line(self, name, command, words=(), container=True, user=USER, binds=()):
        """The command line of a box."""
        hosts = [str(self.folder / "hosts"), "/etc/hosts", False]
        told = {
            "net": self.net.pid,
            "host": name if container else "machine",
            "root": str(self.folder / "roots" / f"{name}-{time.monotonic_ns()}"),
            "hidden": ["/home", "/mnt", "/run"],
            "binds": [hosts, *(binds or self.binds(name, command, container))],
            "uid": user,
            "gid": user,
            "cwd": command.cwd,
            "env": command.env | PROCESS,
            "command": list(words or command.words),
        }
        Path(told["root"]).mkdir(parents=True)
        return [sys.executable, "-P", "-m", "tests.deployments.box", json.dumps(told)]

    def start(self, name, command, **options):
        """Start a box; its log is kept."""
        self.logs[name] = self.folder / f"{name}.log"
        with open(self.logs[name], "ab") as log:
            self.processes[name] = subprocess.Popen(
                self.line(name, command, **options), stdout=log, stderr=log, cwd=ROOT, env=outside(),
                start_new_session=True,
            )  # fmt: skip

    def call(self, name, command, words=(), code=0, **options):
        """Run a command in a box to its end; what it printed."""
        done = subprocess.run(
            self.line(name, command, words, **options),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=outside(),
            timeout=400,
            start_new_session=True,
        )
        assert done.returncode == code, f"{name}: {words or command.words}: {done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, url, body=None, auth=f"splatmill:{PASSWORD}"):
        """GET, or POST of a document, from inside the network."""
        code = (
            "import base64, json, sys, urllib.request as u; url, body, auth = json.loads(sys.argv[1]);"
            "r = u.Request(url, body and body.encode(), {'Content-Type': 'application/json', 'Authorization': 'Basic ' "
            "+ base64.b64encode(auth.encode()).decode()}); print(u.urlopen(r, timeout=20).read().decode())"
        )
        told = json.dumps([url, None if body is None else json.dumps(body), auth])
        inside = ["nsenter", f"--net=/proc/{self.net.pid}/ns/net", sys.executable, "-c", code, told]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=60)
        return done.stdout if done.returncode == 0 else ""

    def wait(self, what, condition, seconds=240, alive=()):
        """Until the condition holds, while the processes of ``alive`` live."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            ended = [name for name in alive if self.processes[name].poll() is not None]
            assert time.monotonic() < end and not ended, f"{what}: {ended} ended\n{self.told()}"
            time.sleep(0.5)
        return found

    def told(self):
        """The end of every log."""
        return "\n".join(f"--- {name}\n{path.read_text()[-3000:]}" for name, path in self.logs.items())

    def stop(self, *names, number=signal.SIGTERM, seconds=60):
        """Stop processes by a signal, and wait for their ends; their exit codes."""
        for name in names:
            if self.processes[name].poll() is None:
                self.processes[name].send_signal(number)
        return [self.processes.pop(name).wait(seconds) for name in names]

    def clear(self):
        """End all that is in the network but PostgreSQL, however a test ended: the next one wants the same ports."""
        mine = [self.processes.pop(name) for name in list(self.processes) if name != "postgres"]
        for process in mine:
            process.terminate()
        end = time.monotonic() + 60
        for process in mine:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, end - time.monotonic()))
        kept = {self.net.pid}
        if "postgres" in self.processes:
            server = psutil.Process(self.processes["postgres"].pid)
            kept |= {server.pid, *(child.pid for child in server.children(recursive=True))}
        here = network_of(self.net.pid)
        left = [each for each in psutil.process_iter() if each.pid not in kept and network_of(each.pid) == here]
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=60)

    def small(self, name, call, steps=4):
        """Submit two small assets with ``call(words)``, and wait until their run is over; their ids."""
        ids = [f"{name}-{i}" for i in range(2)]
        manifest = self.folder / "library" / f"{name}.csv"
        manifest.write_text("id,prompt,seed\n" + "".join(f"{each},a red mushroom,{i}\n" for i, each in enumerate(ids)))
        before = set(self.folder.glob("library/runs/*"))
        call(manifest.name, settings(TINY | {"geometry.steps": steps}))
        [run] = set(self.folder.glob("library/runs/*")) - before
        return ids, run

    def made(self, ids, run, alive):
        """Wait until a run is over: everything was made."""
        self.wait(f"run {run.name}", (run / "summary.json").exists, 900, alive)
        summary = json.loads((run / "summary.json").read_text())
        assert sorted(summary["made"]) == ids and not summary["failures"], self.told()
        assert all((self.folder / "library" / "assets" / each / "asset.glb").is_file() for each in ids)


def network_of(pid):
    """The network that a process is in; None where it has ended."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return None


def outside():
    """The environment of the program that makes a box."""
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """PostgreSQL as the README and compose set it up: role and database prefect, with a password."""
    site, account = Site(tmp_path_factory.mktemp("site")), pwd.getpwnam("postgres")
    programs = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    assert programs, "PostgreSQL: apt-get install postgresql"
    word = site.folder / "word"
    word.write_text(PASSWORD)
    shown = [[str(word), "/word", False]]
    for name, place in (("data", "/data"), ("socket", "/run/postgresql")):
        shown.append([site.owned(name), place, True])
        os.chown(site.folder / name, account.pw_uid, account.pw_gid)
    env = {"PATH": f"{programs[-1]}:{SYSTEM_PATH}", "PGPASSWORD": PASSWORD}
    options = "-D /data/db -U prefect --pwfile=/word --auth=scram-sha-256 -E UTF8 --locale=C"
    box = {"user": account.pw_uid, "binds": shown}
    try:
        site.call("initdb", Command(("initdb", *options.split()), env, "/", ()), **box)
        site.start("postgres", Command(("postgres", "-D", "/data/db"), env, "/", ()), **box)
        ready = Command(POSTGRES["healthcheck"]["test"][1:], env, "/", ())
        site.wait("PostgreSQL", lambda: succeeds(site, "ready", ready, **box), 60, ["postgres"])
        site.call("createdb", Command(("createdb", "-h", "postgres", "-U", "prefect", "prefect"), env, "/", ()), **box)
        yield site
    finally:
        try:
            site.clear()
            site.stop(*site.processes, number=signal.SIGINT)
        finally:
            site.net.kill()


@pytest.fixture
def cleared(site):
    """Nothing but PostgreSQL is there afterwards."""
    yield
    site.clear()


def succeeds(site, name, command, words=(), **options):
    """Whether a command ends well in a box."""
    try:
        site.call(name, command, words, **options)
    except AssertionError:
        return False
    return True


def submitting(site, name, command, **options):
    """A function that submits a manifest of the library with a command's environment."""
    library = next(place for place in command.writes if place.endswith("library"))

    def submit(manifest, how):
        words = [*command.words[:1], "submit", f"{library}/{manifest}", "--library", library, "--recipe", "draft", *how]
        site.call(name, command, words, **options)

    return submit


@pytest.mark.usefixtures("cleared")
def test_the_units(site):
    """Server, deploy as the README says it, worker, control, reconcile, metrics; a run; drained and stopped."""
    found, machine = units(PASSWORD), {"container": False}
    site.start("splatmill-server", found.pop("splatmill-server"), **machine)
    site.wait("the server", lambda: site.ask("http://127.0.0.1:4200/api/health"), 180, ["splatmill-server"])
    worker = found["splatmill-worker@0"]
    bare = {name: worker.env[name] for name in ("PATH", "HOME")}
    words = shlex.split(readme_line("sudo -u splatmill sh -c "))[3:]
    site.call("deploy", replace(worker, env=bare), words, **machine)
    once = found.pop("splatmill-gc")
    for name, command in found.items():
        site.start(name, command, **machine)
    ids, run = site.small("unit", submitting(site, "submit", worker, **machine))
    site.made(ids, run, found)
    assert "splatmill_assets" in site.ask("http://127.0.0.1:9464/metrics"), site.told()
    assert "500G allowed" in site.call("gc", once, once.words, **machine)
    assert "is drained" in site.call("stop", worker, worker.last, **machine)
    site.stop(*found, "splatmill-server")
    assert "Traceback" not in site.told(), site.told()


@pytest.fixture(scope="module")
def composed(site):
    """The services of compose.yaml, of all profiles, started as compose orders them."""
    values = {"SPLATMILL_AUTH": f"splatmill:{PASSWORD}", "POSTGRES_PASSWORD": PASSWORD, "SPLATMILL_HOST_LIBRARY": "/x"}
    found, begun = services(values), {"postgres"}
    while waiting := [name for name in found if name not in begun]:
        [name, *_] = [each for each in waiting if set(found[each].needs) <= begun]
        site.start(name, found[name])
        conditions = {each.needs.get(name) for each in found.values()}
        if "service_healthy" in conditions:
            healthy = partial(succeeds, site, name, found[name], found[name].check)
            site.wait(f"{name} is healthy", healthy, 400, [name])
        if "service_completed_successfully" in conditions:
            assert site.processes.pop(name).wait(400) == 0, site.told()
        begun.add(name)
    return found


def test_the_services_of_compose(site, composed):
    ids, run = site.small("compose", submitting(site, "control", composed["control"]))
    site.made(ids, run, [name for name in composed if name != "setup"])
    assert "splatmill_assets" in site.ask("http://127.0.0.1:9464/metrics"), site.told()


def test_a_server_that_is_away_for_more_than_a_minute(site, composed):
    """Workers say so in two lines, their shards go on, and what is cancelled afterwards is cancelled."""
    _, run = site.small("outage", submitting(site, "control", composed["control"]), steps=100_000)
    site.wait("a shard", lambda: list(run.glob("beats/*.live")), 180)
    site.stop("server", number=signal.SIGKILL)
    time.sleep(80)
    [beat] = run.glob("beats/*.live")
    assert time.time() - beat.stat().st_mtime < 10, "the shard went on"
    site.start("server", composed["server"])
    workers = [site.logs[name] for name in composed if "worker" in name or name == "control"]
    site.wait("the workers", lambda: all("answers again" in path.read_text() for path in workers), 240)
    state = {"state": {"type": "CANCELLING"}}
    assert site.ask(f"http://127.0.0.1:4200/api/flow_runs/{beat.stem}/set_state", state)
    site.wait(
        "it is cancelled", lambda: "CANCELLED" in site.ask(f"http://127.0.0.1:4200/api/flow_runs/{beat.stem}"), 90
    )
    site.wait("its end", beat.with_suffix(".done").exists, 90)
    site.call("control", composed["control"], ["splatmill", "cancel", run.name])
    site.wait("the run's end", (run / "summary.json").exists, 180)
    for path in workers:
        text = path.read_text()
        assert text.count("does not answer") == text.count("answers again") == 1 and "Traceback" not in text, text


def test_the_pod(site, composed):
    """The pod of the StatefulSet, beside server and reconcile that are the cluster's."""
    site.wait("worker-0", lambda: "started" in site.logs["worker-0"].read_text(), 180, ["worker-0"])
    assert "is drained" in site.call("worker-0", composed["worker-0"], ["splatmill", "drain"])
    site.stop(*[name for name in composed if name in site.processes and name != "server"])
    command = pod(f"splatmill:{PASSWORD}")
    library = ["--library", command.env["SPLATMILL_LIBRARY"]]
    site.call("pod-setup", command, ["splatmill", "deploy", *library])
    site.start("pod-reconcile", command, words=["splatmill", "reconcile", *library, "--every", "5"])
    site.start("pod", command)
    ids, run = site.small("pod", submitting(site, "pod-submit", command))
    site.made(ids, run, ["pod"])
    assert "is drained" in site.call("pod", command, command.last)
    assert site.stop("pod") == [0], site.told()
