"""Every format for splats: what is written looks the same when it is read, bad splats are refused by file and field."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline_core.cameras import orbit
from pipeline_core.errors import DataError
from pipeline_core.frame import Frame
from pipeline_core.io import sog, splat_glb, splats, spz
from pipeline_core.io.gltf import read_glb
from pipeline_core.io.splats import SPLAT_FORMATS
from pipeline_core.metrics.views import render_gaussians
from pipeline_core.types import Gaussians, rotation_matrices

ASSET = {
    "asset_id": "mug",
    "seed": 3,
    "prompt": 'a "red" mug\u2028 \U0001f600 <script>alert(1)</script>\nend_header\n',
    "frame": Frame((2.0,) * 3, (0.1, 0.7, 0.0)).to_json(),
}
LOSSY = sorted(name for name, row in SPLAT_FORMATS.items() if not row.lossless)


def splat(degree: int = 0, count: int = 900) -> Gaussians:
    """A speckled cloud about a metre in size, with Gaussians of every shape, opacity and colour."""
    draw = torch.Generator().manual_seed(degree)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=draw)

    return Gaussians(
        means=uniform(count, 3) - torch.tensor([0.5, 0.0, 0.4]),
        quats=torch.randn(count, 4, generator=draw),
        scales=uniform(count, 3) * 2 - 5,
        opacities=uniform(count) * 8 - 3,
        sh0=uniform(count, 1, 3) * 3 - 1.5,
        shN=0.2 * torch.randn(count, (degree + 1) ** 2 - 1, 3, generator=draw),
    )


def covariances(gaussians: Gaussians) -> torch.Tensor:
    axes = rotation_matrices(gaussians.quats.double()) * gaussians.scales.double().exp()[:, None]
    return axes @ axes.transpose(1, 2)


def psnr(one: Gaussians, other: Gaussians) -> float:
    camera = orbit(torch.tensor([30.0, 200.0]), torch.tensor([20.0, -10.0]), size=96)
    moved = Frame((1.0,) * 3, (0.0, -0.5, 0.0))
    first, second = (render_gaussians(moved.gaussians(each), camera)[0] for each in (one, other))
    return float(-10 * torch.log10((first - second).square().mean()))


@pytest.mark.parametrize("degree", [0, 3])
@pytest.mark.parametrize("name", SPLAT_FORMATS)
def test_what_is_written_looks_the_same_when_it_is_read(tmp_path, name, degree):
    row, before = SPLAT_FORMATS[name], splat(degree)
    path = tmp_path / f"splat{row.suffix}"
    row.write(path, before, provenance=ASSET)
    first = path.read_bytes()
    row.write(path, before, provenance=ASSET)
    assert path.read_bytes() == first
    after = row.read(path)
    assert (len(after), after.sh_degree) == (len(before), degree)
    if row.lossless:
        torch.testing.assert_close(after.means, before.means, rtol=0, atol=0)
        torch.testing.assert_close(covariances(after), covariances(before), rtol=1e-4, atol=1e-9)
        for field in ("scales", "opacities", "sh0", "shN"):
            torch.testing.assert_close(getattr(after, field), getattr(before, field), rtol=1e-5, atol=1e-5)
    assert psnr(before, after) > (60 if row.lossless else 36)


@pytest.mark.parametrize("name", LOSSY)
def test_what_a_format_rounds_is_bounded(tmp_path, name):
    """Bits as the format has them: positions to a half step, opacities and colours to a half of 255."""
    before = splat()
    path = tmp_path / "a"
    SPLAT_FORMATS[name].write(path, before, provenance=ASSET)
    after = SPLAT_FORMATS[name].read(path)
    before = before.__class__(**{k: v[torch.from_numpy(order_of(name, before))] for k, v in before.tensors().items()})
    assert (after.means - before.means).abs().max() < {"spz": 1e-6, "sog": 2e-5, "compressed-ply": 1e-3}[name]
    assert (after.opacities.sigmoid() - before.opacities.sigmoid()).abs().max() < 0.6 / 255
    assert (after.sh0 - before.sh0).abs().max() < 0.02
    size = covariances(before).diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    assert ((covariances(after) - covariances(before)) / size).abs().max() < 0.08


def order_of(name: str, gaussians: Gaussians) -> np.ndarray:
    """These formats sort; the Y-down ones by turned positions."""
    turn = [1.0, 1.0, 1.0] if name == "spz" else [1.0, -1.0, -1.0]
    return splats.morton_order(gaussians.means.double().numpy() * turn)


@pytest.mark.parametrize("name", SPLAT_FORMATS)
def test_one_gaussian_is_a_splat(tmp_path, name):
    row, one = SPLAT_FORMATS[name], splat(1, count=1)
    row.write(tmp_path / "one", one, provenance=ASSET)
    after = row.read(tmp_path / "one")
    torch.testing.assert_close(after.means, one.means, rtol=0, atol=1e-3)
    torch.testing.assert_close(after.scales.sum(), one.scales.sum(), rtol=0, atol=0.12)


@pytest.mark.parametrize("name", SPLAT_FORMATS)
def test_an_empty_field_and_nan_are_refused_by_file_and_field(tmp_path, name):
    row, whole = SPLAT_FORMATS[name], splat(1)
    empty = Gaussians(**{field: value[:0] for field, value in whole.tensors().items()})
    with pytest.raises(DataError, match=r"mug\.x: there are no Gaussians"):
        row.write(tmp_path / "mug.x", empty, provenance=ASSET)
    for field in ("means", "scales", "shN"):
        bad = whole.tensors()[field].clone()
        bad[3].flatten()[0] = torch.nan if field != "scales" else torch.inf
        with pytest.raises(DataError, match=rf"mug\.x: 1 of 900 Gaussians have NaN or infinite {field}"):
            row.write(tmp_path / "mug.x", replace(whole, **{field: bad}), provenance=ASSET)
    assert not (tmp_path / "mug.x").exists()


@pytest.mark.parametrize("name", SPLAT_FORMATS)
def test_damaged_files_are_refused(tmp_path, name):
    row, path = SPLAT_FORMATS[name], tmp_path / "a"
    with pytest.raises(DataError, match="does not exist"):
        row.read(path)
    row.write(path, splat(1, count=30), provenance=ASSET)
    data = path.read_bytes()
    for cut in (0, 3, 25, len(data) // 2, len(data) - 5):
        path.write_bytes(data[:cut])
        with pytest.raises(DataError, match=str(path)):
            row.read(path)


def test_a_prompt_of_quotes_emoji_and_html_is_kept_as_it_is(tmp_path):
    SPLAT_FORMATS["sog"].write(tmp_path / "a.sog", splat(), provenance=ASSET)
    with zipfile.ZipFile(tmp_path / "a.sog") as archive:
        assert json.loads(archive.read("meta.json"))["asset"]["extras"]["prompt"] == ASSET["prompt"]
    SPLAT_FORMATS["splat-glb"].write(tmp_path / "a.glb", splat(), provenance=ASSET)
    document, _ = read_glb(tmp_path / "a.glb")
    assert document["asset"]["extras"]["prompt"] == ASSET["prompt"]
    SPLAT_FORMATS["compressed-ply"].write(tmp_path / "a.ply", splat(), provenance=ASSET)
    head = (tmp_path / "a.ply").read_bytes().partition(b"\nend_header\n")[0].decode("ascii")
    assert head.count("\nend_header") == 0 and json.dumps(ASSET["prompt"]) in head


def test_a_splat_glb_is_what_the_extension_asks_for(tmp_path):
    splat_glb.write(tmp_path / "a.glb", splat(3), provenance=ASSET)
    document, _ = read_glb(tmp_path / "a.glb")
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    [primitive] = document["meshes"][0]["primitives"]
    assert primitive["mode"] == 0
    assert primitive["extensions"] == {
        "KHR_gaussian_splatting": {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    }
    named = {f"SH_DEGREE_{d}_COEF_{n}": "VEC3" for d in range(4) for n in range(2 * d + 1)}
    named |= {"ROTATION": "VEC4", "SCALE": "VEC3", "OPACITY": "SCALAR"}
    wanted = {f"KHR_gaussian_splatting:{name}": kind for name, kind in named.items()}
    kinds = {name: document["accessors"][index]["type"] for name, index in primitive["attributes"].items()}
    assert kinds == wanted | {"POSITION": "VEC3", "COLOR_0": "VEC4"}
    rotation = document["accessors"][primitive["attributes"]["KHR_gaussian_splatting:ROTATION"]]
    assert rotation["componentType"] == 5126


def test_spz_renames_axes_until_w_is_large_and_the_ellipsoids_stay():
    data = splats.host(splat())
    quats, scales = spz._upright(data["quats"], data["scales"])
    assert quats[:, 0].min() > 0.85
    before = rotation_matrices(torch.from_numpy(data["quats"])) * torch.from_numpy(data["scales"]).exp()[:, None]
    after = rotation_matrices(torch.from_numpy(quats)) * torch.from_numpy(scales).exp()[:, None]
    torch.testing.assert_close(after @ after.transpose(1, 2), before @ before.transpose(1, 2))


def test_more_gaussians_than_a_palette_holds_share_the_nearest_harmonics(tmp_path, monkeypatch):
    monkeypatch.setattr(sog, "_PALETTE", 256)
    before = splat(1)
    shared = replace(before, shN=before.shN[:5].repeat(180, 1, 1)[splats.morton_order(before.means.double().numpy())])
    sog.write(tmp_path / "a.sog", shared, provenance=ASSET)
    assert psnr(shared, sog.read(tmp_path / "a.sog")) > 36
