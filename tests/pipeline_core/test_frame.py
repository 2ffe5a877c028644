"""The one frame of an asset: its mesh stands centre-bottom in metres, and its splat with it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from pipeline_core.cameras import orbit
from pipeline_core.errors import DataError
from pipeline_core.frame import Frame, flipped, frame_of, stretch_of
from pipeline_core.io import gltf, ply
from pipeline_core.metrics.views import render_gaussians
from pipeline_core.rendering.mesh import render_mesh
from pipeline_core.rendering.sh import sh_colors
from pipeline_core.spec import AssetSpec
from pipeline_core.types import Gaussians, TexturedMesh, rotation_matrices

BOX = np.array([[-0.3, -0.5, -0.1], [0.1, 0.3, 0.4], [0.0, 0.0, 0.2]], np.float32)


def splat(degree: int = 0, count: int = 40) -> Gaussians:
    draw = torch.Generator().manual_seed(degree)
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3)}
    shapes["shN"] = ((degree + 1) ** 2 - 1, 3)
    return Gaussians(**{name: torch.randn(count, *shape, generator=draw) for name, shape in shapes.items()})


def covariance(gaussians: Gaussians) -> torch.Tensor:
    axes = rotation_matrices(gaussians.quats.double()) * gaussians.scales.double().exp()[:, None]
    return axes @ axes.transpose(1, 2)


def test_a_mesh_stands_centre_bottom_at_its_height():
    at = frame_of(BOX, 1.6).points(BOX)
    np.testing.assert_allclose(at.min(0), [-0.4, 0, -0.5], atol=1e-6)
    np.testing.assert_allclose(at.max(0), [0.4, 1.6, 0.5], atol=1e-6)


def test_a_size_is_met_on_every_axis():
    frame = frame_of(BOX, 1.0, size_m=(2.0, 3.0, 4.0))
    np.testing.assert_allclose(np.ptp(frame.points(BOX), axis=0), [2, 3, 4], rtol=1e-6)
    np.testing.assert_allclose(frame.points(BOX).min(0), [-1, 0, -2], atol=1e-6)
    assert not frame.uniform


def test_a_stretch_has_the_proportions_and_stays_as_large():
    frame = stretch_of(BOX, (2.0, 3.0, 4.0))
    at, middle = frame.points(BOX), (BOX.min(0) + BOX.max(0)) / 2
    np.testing.assert_allclose(np.ptp(at, axis=0) / np.ptp(at[:, 0]), [1, 1.5, 2], rtol=1e-6)
    np.testing.assert_allclose(at.min(0), -at.max(0), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(at, axis=1).max(), np.linalg.norm(BOX - middle, axis=1).max(), rtol=1e-6)
    nothing = np.array([[-0.0, 0.0, 1e-30]], np.float32)
    for frame in (stretch_of(BOX, None), stretch_of(BOX, None).inverse()):
        assert frame.points(nothing).tobytes() == nothing.tobytes()


@pytest.mark.parametrize("size", [None, (2.0, 3.0, 4.0)])
def test_a_frame_survives_json_and_leads_back(size):
    frame = frame_of(BOX, 1.6, size)
    assert Frame.from_json(json.loads(json.dumps(frame.to_json()))) == frame
    np.testing.assert_allclose(frame.units(frame.points(BOX)), BOX, atol=1e-7)
    np.testing.assert_allclose(frame.inverse().points(frame.points(BOX)), BOX, atol=1e-6)


@pytest.mark.parametrize("size", [None, (2.0, 3.0, 4.0)])
def test_gaussians_go_with_the_space_about_them(size):
    frame, before = frame_of(BOX, 1.6, size), splat()
    after = frame.gaussians(before)
    np.testing.assert_array_equal(after.means.numpy(), frame.points(before.means.numpy()))
    scale = torch.tensor(frame.scale, dtype=torch.float64)
    want = scale[:, None] * covariance(before) * scale
    torch.testing.assert_close(covariance(after), want, rtol=1e-4, atol=1e-6 * float(want.abs().max()))
    assert torch.equal(after.opacities, before.opacities)


def test_normals_stay_at_right_angles_to_a_stretched_surface():
    frame = frame_of(BOX, 1.0, size_m=(2.0, 3.0, 4.0))
    first, second = BOX[1] - BOX[0], BOX[2] - BOX[0]
    normal = frame.normals(np.cross(first, second)[None].astype(np.float32))[0]
    assert abs(np.linalg.norm(normal) - 1) < 1e-6
    assert max(abs(normal @ (side * np.array(frame.scale))) for side in (first, second)) < 1e-6


@pytest.mark.parametrize("degree", range(4))
def test_half_a_turn_turns_everything_and_twice_is_nothing(degree):
    before = splat(degree)
    after, turn = flipped(before), torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    assert torch.equal(after.means, before.means @ turn)
    torch.testing.assert_close(covariance(after), turn.double() @ covariance(before) @ turn.double())
    seen = torch.randn(len(before), 3, generator=torch.Generator().manual_seed(9))
    colours = [
        sh_colors(degree, at, torch.cat([each.sh0, each.shN], dim=1))
        for at, each in ((seen, before), (seen @ turn, after))
    ]
    torch.testing.assert_close(*colours)
    for name, value in flipped(after).tensors().items():
        assert torch.equal(value, before.tensors()[name]), name


@pytest.mark.parametrize("size", [None, (3.0, 2.0, 0.5)])
def test_a_delivered_splat_covers_what_the_mesh_beside_it_covers(tmp_path, size):
    """From one camera, after both were exported and read; the thing has no symmetry that would hide a turn."""
    boxes = [([0.9, 0.2, 0.3], [0.1, 0.0, 0.0]), ([0.2, 0.8, 0.3], [0.45, 0.5, 0]), ([0.2, 0.2, 0.5], [-0.25, 0, 0.4])]
    body = trimesh.util.concatenate([trimesh.creation.box(extents).apply_translation(at) for extents, at in boxes])
    corners, faces = body.triangles.reshape(-1, 3).astype(np.float32), np.arange(36 * 3).reshape(-1, 3).astype(np.int32)
    flat = np.zeros((len(corners), 2), np.float32)
    gltf.save_glb(tmp_path / "mesh.glb", TexturedMesh(corners, faces, corners * 0 + 1, flat, np.ones((4, 4, 3))))
    means = torch.from_numpy(trimesh.sample.sample_surface(body, 20000, seed=0)[0]).float()
    ply.save_splat(tmp_path / "stage.ply", replace(splat(0, 20000), means=means, scales=means * 0 - 5.5,
                                                   opacities=means[:, 0] * 0 + 4))  # fmt: skip
    frame = frame_of(gltf.bounds(tmp_path / "mesh.glb"), 6.0, size)
    told = {"asset_id": "a", "prompt": "a", "seed": 0, "models": {}, "code_version": "", "frame": frame.to_json()}
    spec = AssetSpec(prompt="a thing", asset_id="a")
    gltf.export(tmp_path / "mesh.glb", tmp_path / "asset.glb", spec=spec, provenance=told)
    ply.export(tmp_path / "stage.ply", tmp_path / "splat.ply", spec=spec, provenance=told)
    metres = gltf.load_glb(tmp_path / "asset.glb", object_units=False)
    height = float(np.ptp(metres.vertices[:, 1]))
    seen, camera = (
        Frame((1 / height,) * 3, (0.0, -0.5, 0.0)),
        orbit(torch.tensor([35.0]), torch.tensor([20.0]), size=256),
    )
    mesh = render_mesh(replace(metres, vertices=seen.points(metres.vertices)), camera)[1] > 0.5
    cloud = seen.gaussians(ply.load_splat(tmp_path / "splat.ply", frame="metres"))
    covered = render_gaussians(cloud, camera)[1] > 0.5
    assert mesh.float().mean() > 0.1 and (mesh & covered).sum() / (mesh | covered).sum() > 0.9


@pytest.mark.parametrize(
    ("vertices", "height", "size"),
    [(BOX * [1, 0, 1], 1.0, None), (BOX, 0.0, None), (BOX * [0, 1, 1], 1.0, (1, 1, 1)), (BOX, 1.0, (1, 0, 1))],
)
def test_what_is_flat_or_has_no_size_is_refused(vertices, height, size):
    with pytest.raises(DataError, match=r"cannot scale a mesh .* must be > 0"):
        frame_of(vertices, height, size)
