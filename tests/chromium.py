"""A real Chromium, without a window and without a network, that tests open pages in: its debugging protocol, no more.

    with Chromium(profile) as browser:
        page = browser.open(path, width=390, height=844)
        page.key("s"); page.js("document.title"); page.picture()
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from websockets.sync.client import connect

FLAGS = (
    "--headless --no-sandbox --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --hide-scrollbars --remote-debugging-port=0"
).split()
SOFTWARE = "--use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader".split()


def chromium() -> str | None:
    """Where it is on this machine."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Chromium:
    """One browser; with ``webgl=False`` one that cannot draw in 3D."""

    def __init__(self, profile: Path, *, webgl: bool = True) -> None:
        words = [chromium() or "chromium", *FLAGS, *(SOFTWARE if webgl else ["--disable-3d-apis"])]
        self._process = subprocess.Popen(
            [*words, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.PIPE, text=True
        )
        assert self._process.stderr
        line = next(line for line in self._process.stderr if "ws://" in line)
        self._socket = connect("ws://" + line.split("ws://")[1].strip(), max_size=None, open_timeout=120)
        os.set_blocking(self._process.stderr.fileno(), False)
        self._last = 0

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def ask(self, method: str, session: str | None = None, **params: Any) -> Any:
        """The answer to one call of the protocol."""
        self._last += 1
        call = {"id": self._last, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self._socket.send(json.dumps(call))
        while (answer := json.loads(self._socket.recv(timeout=120))).get("id") != self._last:
            pass
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def open(
        self, path: Path | str, fragment: str = "", *, width: int = 1200, height: int = 800, dark: bool = False
    ) -> Page:
        """A page of the disk, or of an address; ``fragment`` is what follows # in its address."""
        address = path if isinstance(path, str) else path.as_uri()
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        page.ask("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ])  # fmt: skip
        page.size(width, height)
        page.ask("Page.navigate", url=f"{address}#{fragment}")
        page.until(f"location.protocol === '{address.partition(':')[0]}:' && document.readyState === 'complete'")
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser, self._session = browser, session

    def ask(self, method: str, **params: Any) -> Any:
        """The answer to one call of the protocol about this page."""
        return self._browser.ask(method, self._session, **params)

    def size(self, width: int, height: int) -> None:
        """Give its window a size, in pixels."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def js(self, expression: str) -> Any:
        """The value of an expression; promises are waited for."""
        answer = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> Any:
        """The value of an expression once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.js(expression)):
            assert time.monotonic() < end, f"never true: {expression}"
        return value

    def key(self, key: str, modifiers: int = 0) -> None:
        """Press a key, as a keyboard names it: ``s``, ``ArrowLeft``."""
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, modifiers=modifiers)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """One event of the mouse: ``mousePressed``, ``mouseMoved``, ``mouseReleased``, ``mouseWheel``."""
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=more.pop("button", "left"), **more)

    def picture(self) -> np.ndarray:
        """What it looks like, [H, W, 3] uint8."""
        return _pixels(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))[..., :3]

    def canvas(self) -> np.ndarray:
        """What its canvas holds in the next frame, [H, W, 4] uint8, colours not multiplied by alpha."""
        frame = "new Promise(done => requestAnimationFrame(() => done(document.querySelector('canvas').toDataURL())))"
        return _pixels(base64.b64decode(self.js(frame).partition(",")[2]))

    def close(self) -> None:
        self.ask("Page.close")


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(png)))
