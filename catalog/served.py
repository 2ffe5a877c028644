"""The gallery over HTTP, for the people at this machine: verdicts go into the catalogue at once, a selection comes as a
ZIP.

    serve("library", port=8480, by="ana", viewers=1000)      # prints the address; Ctrl-C ends it

It listens on loopback only. Other pages that the browser has open are kept out: a request must name this machine as its
host and carry the token of the printed address (afterwards in a cookie); one that changes something must come from our
own page and say the token itself.
"""

from __future__ import annotations

import hmac
import json
import secrets
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.cookies import SimpleCookie
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from catalog import gallery, query, review
from catalog.store import Store, open_store
from pipeline_core.deliverables import DELIVERABLES, PROVENANCE
from pipeline_core.errors import RequestError, SplatmillError
from pipeline_core.secrets import redact

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
MOST_BYTES = 32 * 2**20
"""A larger body is refused, and not read."""
OURS = ("gallery", "view", "files", "assets", "inputs")
"""Folders that are answered from; no other file of the library is."""
DEAF = "sandbox; default-src 'none'; img-src 'self'; style-src 'unsafe-inline'"
"""What a file of the library may do where somebody opens it as a page: nothing."""


class Served(ThreadingHTTPServer):
    """One library's gallery at one port of 127.0.0.1 (0: any that is free)."""

    daemon_threads = True

    def __init__(self, library: str, *, port: int, by: str, out: Path | None = None, viewers: int) -> None:
        self.store, self.by, self.token = open_store(library), by, secrets.token_urlsafe(24)
        if self.store.folder is not None and out is not None:
            raise RequestError("--serve reads the library itself: leave --output out")
        index = gallery.write_gallery(self.store, out, viewers=viewers)
        self.folder, self.viewers, self.root = index.parent, viewers, self.store.folder or index.parent
        self.index = index.relative_to(self.root).as_posix()
        self.recording = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def address(self) -> str:
        """Where a browser finds it, with the token."""
        return f"http://127.0.0.1:{self.server_port}/?token={self.token}"


class Refused(Exception):
    """An answer that is no 200: its status, and why."""


class Handler(SimpleHTTPRequestHandler):
    """One request."""

    server: Served

    def log_message(self, *words: Any) -> None:
        """Nothing: addresses have the token in them."""

    def do_GET(self) -> None:
        """The page as the catalogue is now, or a file of it."""
        self._answered(self._get)

    def do_HEAD(self) -> None:
        """Likewise, without its content."""
        self._answered(self._get)

    def do_POST(self) -> None:
        """Record verdicts, or pack a ZIP."""
        self._answered(self._post)

    def _answered(self, answer: Any) -> None:
        try:
            self._know_host()
            answer()
        except Refused as refused:
            status, words = refused.args
            self._send(json.dumps({"error": words}).encode(), "application/json", status)
        except SplatmillError as error:
            self._send(json.dumps({"error": redact(str(error))}).encode(), "application/json", 422)
        except (BrokenPipeError, ConnectionResetError):  # whoever asked has gone
            self.close_connection = True

    def _get(self) -> None:
        url = urlsplit(self.path)
        given = parse_qs(url.query).get("token", [""])[0]
        if url.path == "/" and self._is_token(given):
            self.send_response(303)
            self.send_header("Location", f"/{self.server.index}")
            self.send_header("Set-Cookie", f"{self._cookie}={given}; HttpOnly; SameSite=Lax; Path=/")
            self.end_headers()
            return
        kept = SimpleCookie(self.headers.get("Cookie", "")).get(self._cookie)
        if kept is None or not self._is_token(kept.value):
            raise Refused(403, "open the address that splatmill gallery --serve printed")
        path = unquote(url.path).lstrip("/")
        if path in ("", self.server.index):
            served = {"token": self.server.token, "by": self.server.by}
            page = gallery.index(self.server.store, self.server.folder, viewers=self.server.viewers, served=served)
            self._send(page.encode(), "text/html; charset=utf-8")
            return
        full = (self.server.root / path).resolve()
        if path.split("/")[0] not in OURS or not full.is_relative_to(self.server.root.resolve()) or not full.is_file():
            raise Refused(404, "no such file of the gallery")
        super().do_GET() if self.command == "GET" else super().do_HEAD()

    def translate_path(self, path: str) -> str:
        """The file that an address means; it is known to be one of ours."""
        return str(self.server.root / unquote(urlsplit(path).path).lstrip("/"))

    def end_headers(self) -> None:
        """Add what keeps other pages out of all answers."""
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "same-origin")
        self.send_header("Cache-Control", "no-cache")
        if urlsplit(self.path).path.startswith(("/assets/", "/inputs/", "/files/")):
            self.send_header("Content-Security-Policy", DEAF)
        super().end_headers()

    def _post(self) -> None:
        origin, host = self.headers.get("Origin", ""), self.headers["Host"]
        if origin != f"http://{host}":
            raise Refused(403, f"Origin {origin[:99]!r}: only the gallery's own page may ask for that")
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal() or int(size) > MOST_BYTES:
            raise Refused(413, f"a body of {size[:20] or 'unknown'} bytes; at most {MOST_BYTES}")
        body = self.rfile.read(int(size))
        if self.path == "/reviews":
            self._need_token(self.headers.get("X-Splatmill-Token", ""))
            self._send(json.dumps(self._record(body)).encode(), "application/json")
        elif self.path == "/zip":
            form = parse_qs(body.decode("utf-8", "replace"))
            self._need_token(form.get("token", [""])[0])
            self._zip(form.get("asset_ids", [""])[0], form.get("role", []))
        else:
            raise Refused(404, "POST /reviews or /zip")

    def _record(self, body: bytes) -> dict[str, Any]:
        try:
            document = json.loads(body)
            rows = [dict(each) | {"by": self.server.by} for each in document["decisions"]]
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(400, f'no {{"decisions": [...]}}: {error}') from None
        decisions = review.decisions_of({"decisions": rows}, "the page")
        with self.server.recording:
            report = review.record(self.server.store, decisions)
        asset_ids = {each.asset_id for each in decisions}
        standing = query.rows(self.server.store, "select * from reviews where is_latest")
        return {
            "reviews": [review.told(row) for row in standing if row["asset_id"] in asset_ids],
            "newer": [row["asset_id"] for row in report.newer],
        }

    def _zip(self, text: str, roles: list[str]) -> None:
        """Stream a ZIP of some deliverables of some assets; what an asset has not is left out."""
        try:
            asset_ids = {str(each) for each in json.loads(text)}
        except (ValueError, TypeError):
            raise Refused(400, "asset_ids: a JSON list of ids") from None
        found = list(files(self.server.store, asset_ids, set(roles)))
        if not found:
            raise Refused(404, "none of these assets has such a file")
        self.send_response(200)
        self.send_header("Content-Type", "application/zip")
        self.send_header("Content-Disposition", 'attachment; filename="selection.zip"')
        self.end_headers()
        with zipfile.ZipFile(self.wfile, "w") as packed:
            for path, name in found:
                with self.server.store.open(path) as source, packed.open(name, "w", force_zip64=True) as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)

    def _know_host(self) -> None:
        """Refuse a page of some other site whose name was made to lead here."""
        host = self.headers.get("Host", "")
        if host not in {f"{name}:{self.server.server_port}" for name in LOOPBACK_NAMES}:
            raise Refused(403, f"Host {host[:99]!r}: ask by {', '.join(LOOPBACK_NAMES)}")

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.server.token.encode())

    def _need_token(self, given: str) -> None:
        if not self._is_token(given):
            raise Refused(403, "the token is another one: load the page again")

    @property
    def _cookie(self) -> str:
        return f"splatmill-{self.server.server_port}"  # cookies know no ports

    def _send(self, data: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def files(store: Store, asset_ids: set[str], roles: set[str]) -> Iterator[tuple[str, str]]:
    """Path in the library and name in the ZIP of each file of the assets that has one of the roles."""
    wanted = [row for row in DELIVERABLES if row.role in roles]
    for asset in query.rows(store, "select * from assets where glb_path is not null order by asset_id"):
        if asset["asset_id"] not in asset_ids:
            continue
        paths = [asset[f"{row.role}_path"] for row in wanted]
        if "provenance" in roles:
            paths.append(str(PurePosixPath(asset["glb_path"]).with_name(PROVENANCE)))
        for path in paths:
            if gallery.inside(path) and store.size(path) is not None:
                yield path, "/".join(PurePosixPath(path).parts[-2:])


def serve(library: str, *, port: int, by: str, out: Path | None = None, viewers: int) -> None:
    """Answer until stopped. Raises :class:`RequestError` before anything is bound."""
    try:
        server = Served(library, port=port, by=by, out=out, viewers=viewers)
    except OSError as error:
        raise RequestError(f"--port {port}: {error.strerror or error}; give another one") from None
    print(f"gallery of {library} for {by}: {server.address}", file=sys.stderr, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
