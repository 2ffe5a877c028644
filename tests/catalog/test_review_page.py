"""The review page in a real Chromium, from disk and served: what an artist does, and what other pages cannot."""

from __future__ import annotations

import http.client
import io
import json
import threading
import zipfile
from urllib.parse import urlencode

import pytest

from catalog import query
from catalog.gallery import write_gallery
from catalog.review import Decision, decisions_of, record
from catalog.schema import Artifact, request
from catalog.served import Served
from catalog.writer import append
from tests.chromium import Chromium, chromium

HOSTILE = "</script><script>document.title='HACKED'</script><img src=x onerror=\"document.title='HACKED'\">"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63f8cfc0f01f0005050102"
    "cf4e2b480000000049454e44ae426082"
)
READY = "document.documentElement?.dataset.ready"
SHIFT, CTRL = 8, 2


def fill(library, make_run):
    """Four chairs of two prompts, delivered, with falling likeness; and a vase that failed."""
    runs = []
    for n in range(4):
        name, prompt = f"chair-{n}", ("an oak chair", HOSTILE)[n // 2]
        (library / "assets" / name).mkdir(parents=True)
        for file in ("asset.glb", "preview.png"):
            (library / "assets" / name / file).write_bytes(PNG)
        files = tuple(
            Artifact(role, f"assets/{name}/{file}", "ab" * 32, 1)
            for role, file in (("glb", "asset.glb"), ("preview", "preview.png"))
        )
        runs.append(request("night", name, {"prompt": prompt, "seed": n % 2}, seed=n % 2))
        metrics = {"fidelity": 1 - n / 4, "faces": 100.0 * n, "judged": 1.0}
        runs.append(make_run(name, "record", artifacts=files, metrics=metrics, seed=n % 2, duration_s=150.0))
    runs.append(request("night", "vase", {"prompt": "a glass vase", "tags": {"category": "vase"}}))
    runs.append(make_run("vase", status="failed", error_message=HOSTILE, tags={"category": "vase"}))
    append(library, runs)
    return library


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if chromium() is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium)")
    with Chromium(tmp_path_factory.mktemp("profile"), webgl=False) as browser:
        yield browser


@pytest.fixture
def library(tmp_path, make_run):
    return fill(tmp_path / "library", make_run)


@pytest.fixture
def opened(browser, library):
    page = browser.open(write_gallery(library), "sort=name")
    page.until(READY)
    yield page
    page.js("localStorage.clear()")
    page.close()


def ids(page):
    """What is shown, in order."""
    return page.js("[...document.querySelectorAll('article')].map((node) => node.id.slice(6))")


def again(page):
    """Load the page once more."""
    page.js("window.before = true")
    page.ask("Page.reload")
    page.until(f"!window.before && {READY}")


def downloaded(page, path):
    """The file, once the browser has written it: it does so in its own time, under another name first."""
    for _ in range(400):
        if path.exists():
            return path
        page.js("new Promise((done) => setTimeout(done, 50))")
    raise AssertionError(f"never came: {path}")


def focus(page, asset_id):
    page.js(f"document.getElementById('asset-{asset_id}').focus()")


@pytest.mark.browser
def test_an_artists_evening(browser, library, opened, tmp_path) -> None:
    """Judged by keyboard, many at once; kept while nothing is saved; saved, recorded once, and gone from the page."""
    page = opened
    focus(page, "chair-0")
    page.key("a")
    page.key("4")
    page.key("ArrowRight")
    assert page.js("document.activeElement.id") == "asset-chair-1"
    page.key("R", SHIFT)
    assert page.js("document.activeElement.id") == "asset-chair-2", "with Shift it goes on"
    page.key("x")
    page.key("ArrowRight", SHIFT)
    assert page.js("document.getElementById('count').textContent") == "2 assets selected"
    page.key("e")
    page.key("2")
    page.key("r")
    assert page.js("document.getElementById('said').textContent") == "rejected: 2 assets"
    page.key("Escape")
    page.key("a", CTRL)
    assert page.js("document.getElementById('count').textContent") == "5 assets selected"
    page.key("Escape")
    focus(page, "vase")
    page.key("a")
    page.key("u")
    label = page.js("document.getElementById('asset-chair-0').ariaLabel")
    assert label == "an oak chair, ok, you: accepted, 4 stars"

    again(page)
    assert page.js("document.getElementById('asset-chair-3').dataset.verdict") == "rejected"
    page.js("$('save').click()")
    assert "your name" in page.js("$('said').textContent")
    folder = tmp_path / "saved"
    browser.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder), eventsEnabled=True)
    page.js("$('by').value = 'ana'; $('save').click()")
    page.until("$('said').textContent.includes('splatmill review import')")
    page.until("$('waiting').textContent === '4 verdicts not in the library yet, 0 not in a file'")
    name = page.js("$('said').textContent").split()[0]
    saved = decisions_of(json.loads(downloaded(page, folder / name).read_bytes()), name)
    assert [record(library, saved).recorded, record(library, saved).known] == [4, 4]
    rows = query.rows(library, "select asset_id, verdict, stars, reason, reviewed_by from reviews order by 1")
    assert [tuple(row.values()) for row in rows] == [
        ("chair-0", "accepted", 4, None, "ana"),
        ("chair-1", "rejected", None, None, "ana"),
        ("chair-2", "rejected", None, "two faces", "ana"),
        ("chair-3", "rejected", None, "two faces", "ana"),
    ]
    write_gallery(library)
    again(page)
    assert page.js("$('unsaved').hidden"), "the library has them all"
    assert "“two faces” · by ana" in page.js("document.querySelector('#asset-chair-2 .words').textContent")
    assert page.js("document.title") == "splatmill gallery", "no hostile script has run"


@pytest.mark.browser
def test_the_address_has_the_view(opened) -> None:
    page = opened
    for address, shown in (
        ("sort=fidelity", ["chair-0", "chair-1", "chair-2", "chair-3", "vase"]),
        ("sort=fidelity&up", ["chair-3", "chair-2", "chair-1", "chair-0", "vase"]),
        ("sort=name&least.faces=100&most.faces=200", ["chair-1", "chair-2"]),
        ("sort=name&status=failed", ["vase"]),
        ("sort=name&tag=furniture&q=oak", ["chair-0", "chair-1"]),
        ("verdict=accepted", []),
        ("sort=faces&group", ["chair-3", "chair-2", "chair-1", "chair-0", "vase"]),
    ):
        page.js(f"location.hash = {json.dumps(address)}")
        page.until(f"view.toString() === new URLSearchParams({json.dumps(address)}).toString()")
        assert ids(page) == shown, address
    assert page.js("[...document.querySelectorAll('h2')].slice(0, 3).map((node) => node.textContent)")[0] == HOSTILE
    page.js("location.hash = ''")
    page.until("!view.size")
    page.js("$('sort').value = 'faces'; $('sort').dispatchEvent(new Event('input'))")
    page.js("$('figure').value = 'fidelity'; $('figure').dispatchEvent(new Event('input'))")
    page.js("$('least').value = '0.5'; $('least').dispatchEvent(new Event('change'))")
    assert page.js("location.hash") == "#sort=faces&least.fidelity=0.5"
    assert ids(page) == ["chair-2", "chair-1", "chair-0"]
    assert "3 min" in page.js("document.querySelector('#asset-chair-0 dl').textContent"), "work in words"
    assert page.js("document.querySelector('#bounds').textContent") == "likeness to the prompt ≥ 0.5 ✕"


@pytest.mark.browser
def test_what_somebody_else_decided_later_is_shown(browser, library, opened) -> None:
    page = opened
    focus(page, "chair-0")
    page.key("a")
    record(library, [Decision(asset_id="chair-0", verdict="rejected", reason="holes", by="ben")])
    write_gallery(library)
    again(page)
    assert page.js("document.querySelector('.conflict').textContent").startswith(
        "You had decided “accepted” before; ben decided later ("
    )
    page.js("document.querySelector('[data-act=mine]').click()")
    assert page.js("document.getElementById('asset-chair-0').dataset.verdict") == "accepted"
    assert page.js("document.querySelector('.conflict')") is None


@pytest.mark.browser
def test_a_screen_reader_and_a_keyboard_find_everything(opened) -> None:
    """Each control has a name, Tab goes through the tools, one card and the bar, and what was done is said."""
    page = opened
    nodes = page.ask("Accessibility.getFullAXTree")["nodes"]
    of = {}
    for node in nodes:
        if not node["ignored"]:
            of.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    for role in ("button", "link", "checkbox", "combobox", "searchbox", "spinbutton", "image", "article", "feed"):
        assert of.get(role, [""]) and all(of.get(role, [""])), (role, of.get(role))
    assert len(of["article"]) == 5 and len(of["status"]) == 2 and of["search"] == ["filters and order"]
    found = []
    page.js("document.activeElement.blur()")
    for _ in range(60):
        page.ask("Input.dispatchKeyEvent", type="keyDown", key="Tab", windowsVirtualKeyCode=9)
        found.append(page.js("document.activeElement.closest('header, article, aside, footer')?.tagName"))
        if found[-1] is None:
            break
    order = [name for at, name in enumerate(found) if not at or found[at - 1] != name]
    assert order == ["HEADER", "ARTICLE", "ASIDE", None], found


@pytest.mark.browser
def test_on_a_phone_nothing_is_wider_than_the_page(browser, library) -> None:
    page = browser.open(write_gallery(library), width=390, height=844)
    page.until(READY)
    assert page.js("document.documentElement.scrollWidth") <= 390
    assert page.js("$('filters').open") is False
    page.js("$('filters').open = true")
    assert page.js("document.documentElement.scrollWidth") <= 390
    page.close()


@pytest.fixture
def served(library):
    server = Served(str(library), port=0, by="ana", viewers=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def ask(server, method, path, body=None, **headers):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def test_served_to_its_own_page_alone(served, library) -> None:
    page, cookie = f"/{served.index}", f"splatmill-{served.server_port}={served.token}"
    own = f"http://127.0.0.1:{served.server_port}"
    status, headers, _ = ask(served, "GET", f"/?token={served.token}")
    assert (status, headers["Location"]) == (303, "/gallery/index.html")
    assert headers["Set-Cookie"] == f"{cookie}; HttpOnly; SameSite=Lax; Path=/"
    status, headers, body = ask(served, "GET", page, Cookie=cookie)
    assert status == 200 and served.token.encode() in body and b"connect-src 'self'" in body
    status, headers, body = ask(served, "GET", "/assets/chair-0/preview.png", Cookie=cookie)
    assert (status, body) == (200, PNG) and headers["Content-Security-Policy"].startswith("sandbox;")
    for path in ("/catalog/catalog.duckdb", "/records/", "/assets/", "/assets/../catalog/live", "/%2e%2e/etc/passwd",
                 "/gallery/..%2f..%2fetc/passwd", "/stages"):  # fmt: skip
        assert ask(served, "GET", path, Cookie=cookie)[0] == 404, path
    evil = {"Cookie": cookie, "Host": f"evil.example:{served.server_port}"}
    for path, wrong in ((page, {}), (page, {"Cookie": cookie + "x"}), ("/?token=x", {}), (page, evil),
                        ("/assets/chair-0/asset.glb", {})):  # fmt: skip
        assert ask(served, "GET", path, **wrong)[0] == 403, (path, wrong)
    good = {"Origin": own, "X_Splatmill_Token": served.token, "Cookie": cookie}
    decision = {"id": Decision(asset_id="x", by="x").id, "asset_id": "chair-0", "verdict": "accepted", "by": "mallory"}
    body = json.dumps({"decisions": [decision]})
    for wrong in ({"Origin": "http://evil.example"}, {"X_Splatmill_Token": ""}, {"Origin": "null"}, {"Host": "x"}):
        assert ask(served, "POST", "/reviews", body, **good | wrong)[0] == 403, wrong
    assert query.rows(library, "select * from reviews") == []
    assert ask(served, "POST", "/reviews", "[]", **good)[0] == 400
    assert ask(served, "POST", "/reviews", body.replace("chair-0", "nobody"), **good)[0] == 422
    for _ in range(2):
        status, _, told = ask(served, "POST", "/reviews", body, **good)
        assert status == 200 and json.loads(told)["reviews"][0]["verdict"] == "accepted"
    rows = query.rows(library, "select event_id, reviewed_by from reviews")
    assert [tuple(row.values()) for row in rows] == [(decision["id"], "ana")], "once, and by whoever serves"


def test_a_selection_as_a_zip(served) -> None:
    form = {"token": served.token, "asset_ids": '["chair-1", "chair-0", "vase"]', "role": ["glb", "preview", "splat"]}
    own = {"Origin": f"http://127.0.0.1:{served.server_port}"}
    assert ask(served, "POST", "/zip", urlencode(form | {"token": "x"}, True), **own)[0] == 403
    assert ask(served, "POST", "/zip", urlencode(form | {"role": ["splat"]}, True), **own)[0] == 404
    status, _, body = ask(served, "POST", "/zip", urlencode(form, True), **own)
    names = [f"chair-{n}/{file}" for n in (0, 1) for file in ("asset.glb", "preview.png")]
    assert status == 200 and zipfile.ZipFile(io.BytesIO(body)).namelist() == names
    assert zipfile.ZipFile(io.BytesIO(body)).read(names[1]) == PNG


@pytest.mark.browser
def test_served_verdicts_are_recorded_at_once(browser, served, library, tmp_path) -> None:
    page = browser.open(served.address)
    page.until(READY)
    focus(page, "chair-0")
    page.key("a")
    page.until("!pending.size && document.querySelector('#asset-chair-0 .words')?.textContent.includes('by ana')")
    rows = query.rows(library, "select asset_id, verdict from reviews")
    assert rows == [{"asset_id": "chair-0", "verdict": "accepted"}]
    page.key("u")
    page.until("!pending.size && document.querySelector('#asset-chair-0').dataset.verdict === ''")
    assert query.rows(library, "select verdict from reviews where is_latest") == [{"verdict": None}]
    assert page.js("document.cookie") == "", "scripts do not see the token's cookie"
    page.key("t")
    browser.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "saved"))
    page.js("document.querySelector('#zip button').click()")
    packed = zipfile.ZipFile(downloaded(page, tmp_path / "saved" / "selection.zip"))
    assert packed.namelist() == [f"chair-{n}/asset.glb" for n in range(4)]
    page.close()
