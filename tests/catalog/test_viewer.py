"""The page of one asset in a real Chromium, from disk: framed, true to the files and to our own renderer, in reach of
every hand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from catalog.gallery import write_gallery
from catalog.schema import Artifact, StageRun, request
from catalog.splats import pack
from catalog.writer import append
from pipeline_core.frame import Frame
from pipeline_core.io.levels import save_bodies, save_levels
from pipeline_core.io.ply import load_splat, save_splat, write
from pipeline_core.rendering.rasterize import rasterize
from tests.chromium import Chromium, Page, chromium
from tests.finished_asset import HOSTILE, box, cloud

SHAPES = {"box": (2.0, 2.0, 2.0), "signpost": (0.3, 8.0, 0.3), "wheel": (3.0, 0.4, 4.0)}
WINDOWS = {"desktop": (900, 600), "phone": (390, 844), "phone, lying": (844, 390)}
PROVENANCE = {"asset_id": "box", "prompt": HOSTILE, "seed": 1, "frame": {"scale": 2.0, "offset": [0.0, 0.4, 0.0]}}
STAGES = {
    "Points": (250, 0, 0), "Shape": (0, 250, 0), "Splat": (0, 0, 250), "Mesh": (250, 250, 0), "Textured": (0, 250, 250)
}  # fmt: skip
SPLAT = Frame.from_json(PROVENANCE["frame"]).gaussians(replace(cloud(400), shN=torch.zeros(400, 0, 3)))


@pytest.fixture(scope="module")
def views(tmp_path_factory) -> Path:
    """The folder of the pages of a box with everything, a signpost and a wheel."""
    library = tmp_path_factory.mktemp("library")
    for name, scale in SHAPES.items():
        folder = library / "assets" / name
        folder.mkdir(parents=True)
        frame = Frame(scale, (0.0, 0.2 * scale[1], 0.0))
        levels = {"LOD0": box(4), "LOD1": box(2), "LOD2": box(1)} if name == "box" else {"LOD0": box(4)}
        save_levels(folder / "lods.glb", levels, name=name, frame=frame)
        save_levels(folder / "asset.glb", {"LOD0": box(4)}, name=name, frame=frame)
        if name == "box":
            bodies = [(each, box(1).vertices, box(1).faces) for each in ("hull", "00", "01")]
            save_bodies(folder / "collision.glb", bodies, name=name, frame=frame)
            write(folder / "splat.ply", SPLAT, provenance=PROVENANCE)
            pictures = np.repeat(np.array([[*STAGES.values()]], np.uint8), 256, axis=1).repeat(256, axis=0)
            PIL.Image.fromarray(pictures).save(folder / "stages.webp", lossless=True)
            PIL.Image.fromarray(pictures[:, :256]).save(folder / "preview.png")
        roles = {"glb": "asset.glb", "lods": "lods.glb", "collision": "collision.glb", "splat": "splat.ply"}
        roles |= {"stages": "stages.webp", "preview": "preview.png"}
        there = [(role, file) for role, file in roles.items() if (folder / file).is_file()]
        files = tuple(Artifact(role, f"assets/{name}/{file}", "ab" * 32, 1) for role, file in there)
        asked = request("night-1", name, {"prompt": f"@GLB@ @DATA@ {HOSTILE}"})
        made = StageRun(run_id="night-1", asset_id=name, stage="record", status="ok", artifacts=files)
        append(library, [asked, made])
    return write_gallery(library).parent / "view"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if chromium() is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium)")
    with Chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


def ready(browser: Chromium, path: Path, fragment: str = "", **window) -> Page:
    page = browser.open(path, fragment, **window)
    page.until("document.documentElement.dataset.ready")
    return page


def inside(canvas: np.ndarray) -> float:
    """The share of the nearer side that the drawing spans; it touches no edge of its canvas."""
    drawn = canvas[..., 3] > 0
    edges = np.concatenate([drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]])
    assert drawn.any()
    assert not edges.any(), "the object is cropped"
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    return max((rows[-1] - rows[0] + 1) / drawn.shape[0], (columns[-1] - columns[0] + 1) / drawn.shape[1])


@pytest.mark.browser
@pytest.mark.parametrize("shape", SHAPES)
def test_the_whole_object_is_in_view_and_fills_it(browser, views, shape) -> None:
    page = ready(browser, views / f"{shape}.html", "surface=8")
    for width, height in WINDOWS.values():
        page.size(width, height)
        shares = []
        for azimuth in (30, 90):
            for elevation in (18, 89):
                page.js(f"set({{azimuth: {azimuth}, elevation: {elevation}}})")
                shares.append(inside(page.canvas()))
        assert max(shares) > 0.75, (shape, width, height, shares)
    page.js("set({azimuth: 30, elevation: 18, zoom: 3})")
    page.size(900, 600)
    assert page.js("state.zoom") == 3, "what the user chose stays"
    page.key("f")
    inside(page.canvas())
    page.close()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a.astype(float) - b.astype(float)) ** 2)))


@pytest.mark.browser
@pytest.mark.parametrize("look", ["azimuth: 0, elevation: 0", "azimuth: 130, elevation: 50, zoom: 2.5, panX: 0.4"])
def test_the_splat_looks_as_our_own_renderer_draws_it(browser, views, look) -> None:
    page = ready(browser, views / "box.html", "show=splat", width=320, height=400)
    page.js(f"set({{{look}}})")
    canvas = page.canvas().astype(np.float32) / 255
    height, width = canvas.shape[:2]
    camera = page.js(f"camera({width} / {height})")
    page.close()
    view, projection = (np.array(camera[name]).reshape(4, 4).T for name in ("view", "projection"))
    fx, fy = projection[0, 0] * width / 2, projection[1, 1] * height / 2
    K = [[fx, 0, width / 2 * (1 - projection[0, 2])], [0, fy, height / 2 * (1 + projection[1, 2])], [0, 0, 1]]
    colours, alphas, _ = rasterize(
        **SPLAT.activated(), viewmats=torch.tensor(np.diag([1, -1, -1, 1]) @ view, dtype=torch.float32)[None],
        Ks=torch.tensor(K, dtype=torch.float32)[None], width=width, height=height, sh_degree=0,
    )  # fmt: skip
    assert alphas.mean() > 0.1
    drawn = canvas[..., :3] * canvas[..., 3:]
    assert psnr(drawn, colours[0].clamp(0, 1).numpy()) > 38
    assert psnr(canvas[..., 3:], alphas[0].numpy()) > 38


def colour_at(page: Page, change: str) -> list[int]:
    """The colour in the middle of the canvas after a change."""
    page.js(f"set({{{change}}})")
    canvas = page.canvas()
    return canvas[canvas.shape[0] // 2, canvas.shape[1] // 2, :3].tolist()


@pytest.mark.browser
def test_every_map_and_property_is_shown_as_the_file_has_it(browser, views) -> None:
    page = ready(browser, views / "box.html", "azimuth=0&elevation=89", width=500, height=500)
    names = page.js("SURFACES")
    seen = {name: colour_at(page, f"surface: {i}") for i, name in enumerate(names)}
    near = {
        "base colour": (255, 0, 0), "ORM: occlusion, roughness, metal": (255, 153, 64), "occlusion": (255,) * 3,
        "roughness": (153,) * 3, "metal": (64,) * 3, "glow": (0, 0, 0), "normals": (128, 255, 128),
        "normal map": (128, 128, 255),
    }  # fmt: skip
    for name, wanted in near.items():
        assert np.abs(np.subtract(seen[name], wanted)).max() <= 2, (name, seen[name])
    lit, clay = seen["as in an engine"], seen["clay"]
    assert lit[0] > 3 * max(lit[1:]), lit
    assert max(clay) - min(clay) < 40, clay
    page.js("set({surface: 2, elevation: 18})")
    plain, facts = page.canvas(), page.js("$('facts').textContent")
    assert facts.startswith("level 0: 192 triangles · 1.60 × 0.80 × 1.20 m")
    changed = {}
    for change in ("wire: true", "wire: false, bodies: 1", "bodies: 2", "bodies: 0, level: 2"):
        page.js(f"set({{{change}}})")
        changed[change] = (page.canvas() != plain).any(-1).mean()
    assert changed["wire: true"] > 0.01
    assert changed["wire: false, bodies: 1"] > 0.1
    assert changed["bodies: 2"] > 0.1
    assert changed["bodies: 0, level: 2"] < 0.01, "the same box of fewer faces"
    assert page.js("$('facts').textContent").startswith("level 2: 12 triangles")
    page.js("set({show: 'atlas', level: 0})")
    sheet = page.canvas()
    drawn = np.argwhere(sheet[..., 3] > 0)
    (top, left), (bottom, right) = drawn.min(0), drawn.max(0)
    cell = sheet[top + 3 * (bottom - top) // 4 : bottom, left : left + (right - left) // 3, :3].reshape(-1, 3)
    assert np.median(cell, axis=0).tolist() == [255, 0, 0], "the top's sixth of the atlas is red"
    assert (np.abs(np.subtract(cell, (255.0, 89, 26))) <= 2).all(1).any(), "its border is drawn"
    page.close()


@pytest.mark.browser
def test_mouse_touch_and_keys_reach_everything_that_the_page_lists(browser, views) -> None:
    page = ready(browser, views / "box.html", width=600, height=600)
    listed = page.js("[...$('keys').children].map(row => row.textContent)")
    assert len(listed) > 20
    assert all(re.fullmatch(r"(\S|arrows|Escape) .+", row) for row in listed)
    for key, change in {
        "s": {"show": "splat"}, "u": {"show": "atlas"}, "m": {"show": "mesh"}, "w": {"wire": True}, "l": {"level": 1},
        "c": {"bodies": 1}, "r": {"spin": True}, "R": {"spin": False}, "d": {"dark": True}, "3": {"surface": 2},
        "0": {"surface": 9}, "k": {"surface": 10}, "ArrowLeft": {"azimuth": 22}, "ArrowUp": {"elevation": 26},
        "+": {"zoom": 1.2}, "f": {"zoom": 1, "azimuth": 30},
    }.items():  # fmt: skip
        page.key(key)
        assert {name: page.js(f"state.{name}") for name in change} == change, key
    assert page.js("document.activeElement === document.body && document.body.className") == "dark"
    page.mouse("mousePressed", 300, 300, clickCount=1)
    page.mouse("mouseMoved", 350, 300, buttons=1)
    page.mouse("mouseReleased", 350, 300)
    assert page.js("state.azimuth") == 10
    page.mouse("mouseWheel", 300, 300, button="none", deltaX=0, deltaY=-200)
    page.until("state.zoom > 1.1")
    for kind, apart in (("touchStart", 20), ("touchMove", 60), ("touchMove", 90)):
        points = [{"x": 300 + side * apart, "y": 250, "id": i} for i, side in enumerate((-1, 1))]
        page.ask("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    page.until("state.zoom > 2")
    page.close()


@pytest.mark.browser
def test_before_and_after_by_stage(browser, views) -> None:
    page = ready(browser, views / "box.html", "surface=8", width=600, height=800)
    page.js("Object.assign(new Image(), {src: info.pictures.stages}).decode()")
    captions = page.js("[...$('stages').children].map(button => button.textContent)")
    assert [caption.partition(": ")[0] for caption in captions] == [*STAGES]
    for i, colour in enumerate(STAGES.values()):
        page.key("ArrowRight" if i else "b")
        shown, place = page.picture(), "(box => [box.x + box.width / 2, box.y + box.height / 2].map(Math.round))"
        for what in (f"$('stages').children[{i}].firstChild", "$('still')"):
            x, y = page.js(f"{place}({what}.getBoundingClientRect())")
            assert np.abs(np.subtract(shown[y, x], colour, dtype=int)).max() <= 4, (what, i)
        assert page.js("$('still').getAttribute('aria-label')") == captions[i]
    page.key("Escape")
    assert inside(page.canvas())
    page.close()
    page = ready(browser, views / "wheel.html")
    assert page.js("$('stages').hidden"), "an asset of before has none"
    page.close()


@pytest.mark.browser
def test_a_screen_reader_is_told_what_each_thing_is(browser, views) -> None:
    page = ready(browser, views / "box.html")
    nodes = page.ask("Accessibility.getFullAXTree")["nodes"]
    told = [(node["role"]["value"], node["name"]["value"]) for node in nodes if node.get("name") and "role" in node]
    chosen = {("combobox", name) for name in ("show", "surface", "level of detail", "collision")}
    assert chosen | {("button", "wire")} <= {*told}
    assert ("application", f"@GLB@ @DATA@ {' '.join(HOSTILE.split())}") in told
    assert all(name for role, name in told if role in ("button", "combobox", "link"))
    assert page.js("document.title") == "box", "no hostile script has run"
    page.close()


@pytest.mark.browser
def test_without_webgl_the_page_says_so(tmp_path, views, browser) -> None:
    with Chromium(tmp_path, webgl=False) as other:
        page = ready(other, views / "box.html")
        assert page.js("document.documentElement.dataset.ready") == "failed"
        assert page.js("$('error').textContent").startswith("this browser has no WebGL")
        assert page.js("$('canvas').hidden && $('tools').hidden")
        page.js("$('pictures').firstChild.decode()")


def test_the_packed_splat_is_the_files(tmp_path) -> None:
    write(tmp_path / "splat.ply", SPLAT, provenance=PROVENANCE)
    packed = pack((tmp_path / "splat.ply").read_bytes())
    assert packed is not None
    count, low, high = (packed.about[name] for name in ("count", "low", "high"))
    assert len(packed.data) == 17 * count == 17 * 400
    places = np.frombuffer(packed.data, "<u2", 3 * count).reshape(3, count).T / 65535
    means = places * np.subtract(high[:3], low[:3]) + low[:3]
    assert np.abs(means - load_splat(tmp_path / "splat.ply", frame="metres").means.numpy()).max() < 1e-4
    save_splat(tmp_path / "foreign.ply", SPLAT)
    assert pack((tmp_path / "foreign.ply").read_bytes()) is None
    assert pack(b"") is None
