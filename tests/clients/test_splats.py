"""splat-transform reads every format of a splat back, and Spark shows it right side up, where the mesh is."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline_core.cameras import orbit
from pipeline_core.config import Init
from pipeline_core.frame import Frame, flipped
from pipeline_core.gaussians.initialise import from_points
from pipeline_core.io.gltf import load_surfaces, read_accessor, read_glb
from pipeline_core.io.images import decode_image
from pipeline_core.io.ply import load_splat
from pipeline_core.io.splats import SPLAT_FORMATS
from pipeline_core.io.surface import sample
from pipeline_core.metrics.views import render_gaussians
from tests.clients.conftest import run
from tests.clients.test_blender import check_picture

PLAIN = ("ply", "compressed-ply", "sog")
"""Formats that are Y-down by custom."""


@pytest.fixture(scope="module")
def splats(assets):
    """Name, splat in metres and provenance of each asset; of the box a splat of its surface."""
    found = []
    for number, asset in enumerate(assets):
        splat = asset.splat
        if number == 0:
            mesh = asset.path("asset.glb")
            cloud = sample(mesh, load_surfaces(mesh), 8000, torch.Generator().manual_seed(0))
            splat = from_points(cloud, Init(start="file", num_points=8000, opacity=0.95), torch.Generator())
            splat = replace(splat, shN=torch.zeros(len(splat), 3, 3))
        told = asset.told | {"frame": asset.frame.to_json()}
        found.append(SimpleNamespace(name=asset.name, splat=splat, told=told))
    return found


def psnr(one, other):
    """Of what two splats in metres look like, from two sides."""
    extent = float((one.means.amax(0) - one.means.amin(0)).max())
    place = Frame((1 / extent,) * 3, (0.0, -0.5 * float(one.means[:, 1].max()) / extent, 0.0))
    camera = orbit(torch.tensor([30.0, 200.0]), torch.tensor([20.0, -10.0]), size=192)
    first, second = (render_gaussians(place.gaussians(each), camera)[0] for each in (one, other))
    return float(-10 * torch.log10((first - second).square().mean().clamp(min=1e-16)))


@pytest.mark.parametrize("name", [name for name in SPLAT_FORMATS if name != "splat-glb"])
def test_splat_transform_reads_it_back(splats, tmp_path, name):
    row = SPLAT_FORMATS[name]
    for each in splats:
        path, back = tmp_path / f"{each.name}{row.suffix}", tmp_path / f"{each.name}.back.ply"
        row.write(path, each.splat, provenance=each.told)
        run("splat-transform", "-q", "-w", path, back)
        after = load_splat(back, frame="file")  # its header says nothing, and it writes plain PLYs as they are: Y-down
        assert len(after) == len(each.splat)
        assert psnr(each.splat, flipped(after)) >= (40 if row.lossless else 32), path.name


def test_its_own_glb_has_the_same_numbers_as_ours(splats, tmp_path):
    """It writes KHR_gaussian_splatting and does not read it. It turns a PLY half about Z to +Y up, we about X: so its
    GLB looks backwards, and the quaternions differ by that turn."""
    each, prefix = splats[0], "KHR_gaussian_splatting:"
    SPLAT_FORMATS["ply"].write(tmp_path / "a.ply", each.splat, provenance=each.told)
    SPLAT_FORMATS["splat-glb"].write(tmp_path / "ours.glb", each.splat, provenance=each.told)
    run("splat-transform", "-q", "-w", tmp_path / "a.ply", tmp_path / "theirs.glb")
    tables = []
    for name in ("ours", "theirs"):
        document, body = read_glb(tmp_path / f"{name}.glb")
        named = document["meshes"][0]["primitives"][0]["attributes"]
        tables.append({key: read_accessor(document, body, index) for key, index in named.items()})
    ours, theirs = tables
    assert set(ours) == set(theirs)
    np.testing.assert_allclose(theirs["POSITION"], ours["POSITION"] * [-1, 1, -1], atol=1e-6)
    for key in ("SCALE", "OPACITY", "SH_DEGREE_0_COEF_0"):
        np.testing.assert_allclose(theirs[prefix + key], ours[prefix + key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in SPLAT_FORMATS if name != "splat-glb"])
def test_a_browser_shows_it_right_side_up(splats, site, shoot, name):
    row, (folder, _) = SPLAT_FORMATS[name], site
    for number, each in enumerate(splats):
        row.write(folder / f"{each.name}{row.suffix}", each.splat, provenance=each.told)
        asked = f"splat.html?file={each.name}{row.suffix}{'&plain=1' if name in PLAIN else ''}"
        picture, told = shoot(asked, f"spark-{each.name}-{name}")
        check_picture(picture, box=number == 0)
        assert told["splats"] == len(each.splat)
        extent = (each.splat.means.amax(0) - each.splat.means.amin(0)).numpy()
        assert np.allclose(told["size"], extent, atol=0.01) and abs(told["low"][1]) < 0.01 * extent[1] + 0.005


@pytest.mark.parametrize("name", PLAIN)
def test_supersplat_s_viewer_shows_it_right_side_up(splats, site, shoot, name):
    """SuperSplat's viewer is the page that splat-transform writes. It turns plain files half about Z where we turn half
    about X: what it shows stands upright and has front and back exchanged, which its camera behind it evens out."""
    (folder, _), each, row = site, splats[0], SPLAT_FORMATS[name]
    row.write(folder / f"super{row.suffix}", each.splat, provenance=each.told)
    run("splat-transform", "-q", "-w", "-g", "cpu", folder / f"super{row.suffix}", folder / f"super-{name}.html")
    picture, _ = shoot(f"supersplat.html?page=super-{name}.html", f"supersplat-box-{name}")
    pixels = decode_image(picture.read_bytes())
    red, rest = pixels[..., 0] - pixels[..., 1:].max(-1) > 0.2, pixels[..., 1:].max(-1) - pixels[..., 0] > 0.2
    assert red.sum() > 500 and rest.sum() > 500, picture
    assert np.nonzero(red)[0].mean() < np.nonzero(rest)[0].mean() - 5, picture
