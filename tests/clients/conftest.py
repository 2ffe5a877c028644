"""Programs that others made, and the assets that they are given: ``make test-clients``."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline_core.packing.finished import Finished
from tests.finished_asset import HOSTILE, finished

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CLIENTS = Path(os.environ.get("SPLATMILL_CLIENTS", ROOT / ".clients"))
PICTURES = CLIENTS / "pictures"


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("clients")


@pytest.fixture(scope="session", autouse=True)
def installed():
    """The folder that ``make test-clients`` installs into, its programs on the PATH."""
    if not (CLIENTS / "node_modules").is_dir():
        pytest.fail(f"{CLIENTS} has no node_modules: make test-clients installs what is read with")
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{CLIENTS / 'node_modules' / '.bin'}{os.pathsep}{before}"
    os.environ["SPLATMILL_BLENDER"] = str(CLIENTS / "blender" / "bin" / "python")
    PICTURES.mkdir(exist_ok=True)
    yield CLIENTS
    os.environ["PATH"] = before
    del os.environ["SPLATMILL_BLENDER"]


@pytest.fixture(scope="session")
def box(tmp_path_factory):
    """A finished asset with everything: 192 faces, 1.6 by 0.8 by 1.2 metres, the top red, the front green."""
    return Finished(finished(tmp_path_factory.mktemp("finished"), prompt=HOSTILE))


@pytest.fixture(scope="session")
def assets(box):
    """The box, and where SPLATMILL_ASSETS names a folder of finished assets (``library/assets``), those."""
    folder = os.environ.get("SPLATMILL_ASSETS")
    return [box, *(Finished(place) for place in sorted(Path(folder).iterdir()))] if folder else [box]


def run(*words, timeout=180, **more):
    """What a program prints on standard output; its words where it fails."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=timeout, check=False, **more)
    assert done.returncode == 0, f"{words[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def told(text, word):
    """The JSON of the lines that begin with a word."""
    return [json.loads(line.removeprefix(f"{word} ")) for line in text.splitlines() if line.startswith(f"{word} ")]


class _Quiet(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def log_message(self, *words):
        pass


@pytest.fixture(scope="session")
def site(installed, tmp_path_factory):
    """A folder, and the address of its server on loopback; ``node_modules`` and our pages are in it."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "node_modules").symlink_to(installed / "node_modules")
    for page in HERE.glob("*.html"):
        shutil.copy(page, folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def shoot(installed, site, tmp_path_factory):
    """A function: open a page of the site in Chromium, wait until it sets ``window.done``, keep a picture."""
    _, address = site

    def take(page, name):
        picture = PICTURES / f"{name}.png"
        profile = tmp_path_factory.mktemp("chromium")
        words = ("node", HERE / "shoot.mjs", f"{address}/{page}", picture, profile)
        done = json.loads(run(*words, env=os.environ | {"NODE_PATH": str(installed / "node_modules")}))
        assert done["errors"] == [], done
        return picture, done["value"]

    return take
