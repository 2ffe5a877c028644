"""The gallery: complete, deaf to hostile text, and alive in a real browser from disk."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from catalog.gallery import write_gallery
from catalog.schema import Artifact, request
from catalog.writer import append
from pipeline_core.acceptance import Held
from pipeline_core.errors import RequestError
from pipeline_core.findings import Finding

HOSTILE = (
    "</script><script>document.title='HACKED'</script><img src=x onerror=\"document.title='HACKED'\"> \u2028 & chair"
)
FLAGS = (
    "--headless --no-sandbox --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader --hide-scrollbars"
).split()


def cube_glb() -> bytes:
    """A GLB of a cube: positions, indices and a translated node; as plain as glTF allows."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
    faces = "0 1 3 0 3 2 4 6 7 4 7 5 0 4 5 0 5 1 2 3 7 2 7 6 0 2 6 0 6 4 1 5 7 1 7 3"
    index = np.array(faces.split(), np.uint16)
    binary = corners.tobytes() + index.tobytes()
    document = {
        "asset": {"version": "2.0"},
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "translation": [0, 1, 0]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 8, "type": "VEC3", "min": [0, 0, 0], "max": [1, 1, 1]},
            {"bufferView": 1, "componentType": 5123, "count": 36, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 96},
            {"buffer": 0, "byteOffset": 96, "byteLength": 72},
        ],
        "buffers": [{"byteLength": len(binary)}],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    return (
        struct.pack("<III", 0x46546C67, 2, total)
        + struct.pack("<II", len(text), 0x4E4F534A)
        + text
        + struct.pack("<II", len(binary), 0x004E4942)
        + binary
    )


@pytest.fixture
def library(tmp_path: Path, make_run) -> Path:
    """A delivered asset with a hostile prompt, and one that failed with a hostile message."""
    folder = tmp_path / "assets" / "chair-07"
    folder.mkdir(parents=True)
    (folder / "asset.glb").write_bytes(cube_glb())
    png = bytes.fromhex(
        "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63f8cfc0f01f0005050102"
        "cf4e2b480000000049454e44ae426082"
    )
    (folder / "preview.png").write_bytes(png)
    files = tuple(
        Artifact(role, f"assets/chair-07/{name}", "ab" * 32, 1)
        for role, name in (("glb", "asset.glb"), ("preview", "preview.png"), ("turntable", "../../../etc/passwd"))
    )
    append(
        tmp_path,
        [request("night-1", "chair-07", {"prompt": HOSTILE, "seed": 7, "prompt_reading": {"warnings": [HOSTILE]}})],
    )
    findings = (Finding("MESH_OPEN", "error", HOSTILE, "asset.glb", 3), Finding("X", "info", "not shown", "asset.glb"))
    append(tmp_path, [make_run(stage="validate", artifacts=(), findings=findings, metrics={"finding_errors": 1.0})])
    append(tmp_path, [make_run(stage="record", artifacts=files, metrics={"faces": 12.0, "fidelity": float("nan")})])
    spec = {"prompt": "a glass vase", "tags": {"category": HOSTILE, "lod": 1}}
    append(tmp_path, [request("night-1", "vase-01", spec)])
    append(tmp_path, [make_run("vase-01", status="failed", error_message=HOSTILE, recipe="factory")])
    return tmp_path


def cards(page: str) -> list[dict]:
    """The data of a page."""
    text = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1]
    return json.loads(text)["assets"]


def test_everything_is_there_and_nothing_hostile_is_html(library) -> None:
    page = write_gallery(library).read_text(encoding="utf-8")
    failed, made = cards(page)
    assert (failed["status"], failed["error_stage"], failed["error_message"]) == ("failed", "extract_mesh", HOSTILE)
    assert (made["prompt"], made["faces"], made["fidelity"]) == (HOSTILE, 12, None)
    assert (failed["prompt_warnings"], made["prompt_warnings"]) == (None, [HOSTILE])
    assert (made["findings"], made["finding_errors"]) == ([f"error in asset.glb: {HOSTILE} (3)"], 1)
    assert (failed["findings"], failed["finding_errors"]) == ([], None)
    assert made["preview"] == "../assets/chair-07/preview.png"
    assert made["view"] == "view/chair-07.html"
    assert (failed["tags"], made["tags"]) == ({"category": HOSTILE, "lod": "1"}, {"category": "furniture"})
    assert "turntable" not in made, "a path that leaves the library is no link"
    assert "HACKED'</script>" not in page
    assert page.count("<script") == 2
    assert "Content-Security-Policy" in page
    assert not re.search(r"(src|href)=.https?:", page), "nothing is fetched"


def test_the_image_that_an_asset_is_made_from_is_shown_from_the_librarys_copy(tmp_path) -> None:
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / f"{'0' * 64}.png").write_bytes(b"png")
    for asset, image in (
        ("kept", {"name": "../../red mug.PNG", "sha256": "0" * 64}),
        ("gone", {"name": "red mug.png", "sha256": "1" * 64}),
        ("foreign", {"name": "red mug.png", "sha256": "../../../etc/passwd"}),
        ("none", None),
    ):
        append(tmp_path, [request("night-1", asset, {"prompt": "a red mug", "seed": 7, "image": image})])
    shown = {card["asset_id"]: card.get("image") for card in cards(write_gallery(tmp_path).read_text("utf-8"))}
    assert shown == {"kept": f"../inputs/{'0' * 64}.png", "gone": None, "foreign": None, "none": None}


def test_a_view_is_written_again_only_when_it_changes(library) -> None:
    index = write_gallery(library)
    view = index.parent / "view" / "chair-07.html"
    os.utime(view, (0, 0))
    write_gallery(library)
    assert view.stat().st_mtime == 0
    assert write_gallery(library, viewers=0).exists()
    assert "view" not in cards(index.read_text(encoding="utf-8"))[1]


def test_a_rejected_asset_says_why_and_shows_the_seeds_it_was_made_from(tmp_path, make_run) -> None:
    for seed, figure in ((7, 0.01), (8, 0.04)):
        picture = f"stages/evaluate/{seed}/preview.png"
        (tmp_path / picture).parent.mkdir(parents=True)
        (tmp_path / picture).write_bytes(b"png")
        files, words = (Artifact("preview", picture, "ab" * 32, 3),), {"seed": seed, "metrics": {"fidelity": figure}}
        append(tmp_path, [make_run(stage="evaluate", artifacts=files, **words)])
        clauses = (Held("faces", 9000, 5000, True), Held("fidelity", 0.05, figure, False))
        append(tmp_path, [make_run(stage="accept", artifacts=(), clauses=clauses, **words)])
    append(tmp_path, [make_run(stage="audition", seed=9, metrics={"candidate_margin": -0.2}, artifacts=())])
    append(tmp_path, [make_run(stage="record", seed=8)])
    [card] = cards(write_gallery(tmp_path).read_text(encoding="utf-8"))
    assert (card["status"], card["why"]) == ("rejected", ["fidelity 0.04 (at least 0.05)"])
    assert card["tries"] == [
        {
            "seed": seed,
            "fate": f"rejected fidelity {figure} (at least 0.05), likeness {figure}",
            "picture": f"../stages/evaluate/{seed}/preview.png",
        }
        for seed, figure in ((7, 0.01), (8, 0.04))
    ] + [{"seed": 9, "fate": "not taken, likeness -0.2", "picture": None}]


def test_no_library_no_gallery(tmp_path) -> None:
    with pytest.raises(RequestError, match="no library"):
        write_gallery(tmp_path / "none")


@pytest.mark.browser
def test_in_a_real_browser_from_disk(library, tmp_path_factory) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium)")
    index = write_gallery(library)
    page = _dump(chromium, index, tmp_path_factory.mktemp("profile"), "index")
    assert 'data-ready="2"' in page
    assert page.count("<article") == 2
    assert "<title>splatmill gallery</title>" in page, "no hostile script has run"
    assert html.escape(HOSTILE, quote=False) in page
    assert page.count('class="unread"') == 1
    view = _dump(chromium, index.parent / "view" / "chair-07.html", tmp_path_factory.mktemp("profile"), "view")
    if 'data-ready="failed"' in view and ">this browser has no WebGL" in view:
        pytest.skip("this Chromium has no WebGL, not even in software")
    assert 'data-ready="true"' in view
    assert "<title>chair-07</title>" in view
    assert "12 triangles" in view
    assert "1.00 × 1.00 × 1.00 m" in view
    covered = int(re.search(r'data-drawn="(\d+)"', view)[1])
    assert 5 < covered < 60, "the cube fills a fair part of the picture"


def _dump(chromium: str, page: Path, profile: Path, name: str) -> str:
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", "--timeout=60000", "--virtual-time-budget=4000"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=240)
    assert done.stdout, f"{name}: {done.stderr[-2000:]}"
    return done.stdout
