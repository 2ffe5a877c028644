"""Starts from files: each kind in our frame, a splat seen from its side as it was, and what is wrong in words."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from pipeline_core.cameras import orbit
from pipeline_core.config import Init
from pipeline_core.errors import DataError
from pipeline_core.frame import Frame
from pipeline_core.gaussians.initialise import from_points
from pipeline_core.io import surface
from pipeline_core.io.ply import export, save_points, save_splat
from pipeline_core.make import picture_of
from pipeline_core.rendering.mesh import render_mesh
from pipeline_core.rendering.rasterize import rasterize, rasterize_views
from pipeline_core.starts import DENSE, FRAMES, load_start
from pipeline_core.types import OBJECT_RADIUS, Gaussians, PointCloud, TexturedMesh, rotation_matrices

UP_AND_FRONT = {"y-up": ([0, 1, 0], [0, 0, 1]), "z-up": ([0, 0, 1], [0, -1, 0]), "y-down": ([0, -1, 0], [0, 0, -1])}


def start(path, **settings):
    return load_start(path, Init(start="file", num_points=500, **settings), torch.Generator().manual_seed(0))


def splat(degree=0, count=40, seed=0):
    """Gaussians about a place that is not the origin, none of them faint."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g)

    return Gaussians(
        means=3 * normal(count, 3) + torch.tensor([5.0, -2, 1]),
        quats=normal(count, 4),
        scales=normal(count, 3) * 0.5 - 0.5,
        opacities=normal(count).abs(),
        sh0=normal(count, 1, 3),
        shN=0.3 * normal(count, (degree + 1) ** 2 - 1, 3),
    )


def pointing(up, front):
    """A cloud whose highest point is red and whose foremost is blue."""
    up, front = np.array(up, float), np.array(front, float)
    xyz = np.stack([up, -up, front, -front, np.cross(up, front), -np.cross(up, front)])
    rgb = np.tile([0.0, 1.0, 0.0], (6, 1))
    rgb[0], rgb[2] = (1, 0, 0), (0, 0, 1)
    return PointCloud(torch.from_numpy(xyz * 4 + 9).float(), torch.from_numpy(rgb).float())


def check(cloud, turn=0.0):
    """Up is +Y and the front +Z, or turned by ``turn`` degrees from there; the radius and place are ours."""
    red, blue = (cloud.xyz[cloud.rgb[:, channel] > 0.5].mean(0) for channel in (0, 2))
    angle = np.radians(turn)
    assert torch.allclose(red, torch.tensor([0, OBJECT_RADIUS, 0]), atol=1e-5)
    assert torch.allclose(blue, torch.tensor([np.sin(angle), 0, np.cos(angle)]).float() * OBJECT_RADIUS, atol=1e-5)
    assert cloud.xyz.norm(dim=1).max() == pytest.approx(OBJECT_RADIUS)


def test_a_delivered_splat_starts_as_the_one_that_it_was_made_from(tmp_path):
    """Its header says that it is Y-down, whatever harmonics it has; metres are fitted as any units are."""
    for degree in (0, 2):
        save_splat(tmp_path / "stage.ply", splat(degree), comment="frame y-up")
        frame = Frame((1.7,) * 3, (0.2, 0.9, -0.3)).to_json()
        told = {"frame": frame, "asset_id": "mug", "prompt": "a mug", "seed": 0}
        export(tmp_path / "stage.ply", tmp_path / "splat.ply", spec=None, provenance=told)
        begun, before = (start(tmp_path / name).gaussians for name in ("splat.ply", "stage.ply"))
        for name in ("means", "scales", "opacities", "sh0", "shN"):
            torch.testing.assert_close(getattr(begun, name), getattr(before, name), rtol=1e-4, atol=2e-5)
        axes = [rotation_matrices(each.quats) * each.scales.exp()[:, None] for each in (begun, before)]
        first, second = (each @ each.transpose(1, 2) for each in axes)  # axes may point the other way
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("frame", FRAMES)
def test_each_frame_is_turned_into_ours(tmp_path, frame):
    save_points(tmp_path / "a.ply", pointing(*UP_AND_FRONT[frame]))
    begun = start(tmp_path / "a.ply", file_frame=frame)
    check(begun.cloud)
    assert (begun.kind, begun.frame, begun.gaussians) == ("points", frame, None) and begun.begin is begun.cloud
    check(start(tmp_path / "a.ply", file_frame=frame, file_turn=90.0).cloud, turn=90)


@pytest.mark.parametrize(
    ("name", "comment", "frame"),
    [
        ("points.ply", "", "z-up"),
        ("points.ply", "comment Created by Blender\ncomment frame y-down\n", "y-down"),
        ("mesh.ply", "", "z-up"),
        ("mesh.ply", "comment frame y-up\n", "y-up"),
        ("mesh.obj", "", "y-up"),
        ("mesh.glb", "", "y-up"),
        ("splat0.ply", "", "y-up"),
        ("splat1.ply", "", "y-down"),
        ("splat3.ply", "comment frame z-up\n", "z-up"),
        ("splat0.ply", "comment frame sideways\n", "y-up"),
    ],
)
def test_the_frame_is_told_by_the_file_or_by_its_kind(tmp_path, name, comment, frame):
    path = tmp_path / name
    if name.startswith("splat"):
        save_splat(path, splat(int(name[5])))
    elif name.startswith("points"):
        save_points(path, pointing(*UP_AND_FRONT["y-up"]))
    else:
        trimesh.creation.box((1, 2, 3)).export(path)
    if comment:
        path.write_bytes(path.read_bytes().replace(b"element vertex", comment.encode() + b"element vertex", 1))
    begun = start(path)
    assert begun.frame == frame
    assert begun.metrics == {f"start_{begun.kind}": 1.0, f"start_{frame.replace('-', '_')}": 1.0}


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_a_mesh_becomes_points_of_its_surface(tmp_path, suffix):
    mesh = trimesh.creation.box((1, 2, 3))
    mesh.apply_translation([10, 20, 30])
    mesh.export(tmp_path / f"box{suffix}")
    cloud = start(tmp_path / f"box{suffix}").cloud
    extent = cloud.xyz.amax(0) - cloud.xyz.amin(0)
    want = torch.tensor([1.0, 3, 2] if suffix == ".ply" else [1.0, 2, 3]) * OBJECT_RADIUS / (0.5 * 14**0.5)
    assert len(cloud) == 500 and torch.allclose(extent, want, atol=0.05)


def test_a_mesh_is_judged_by_a_picture_of_itself(tmp_path):
    """The Gaussians that distillation begins with are few and large, and blur what the file has."""
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=OBJECT_RADIUS)
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=np.tile([255, 0, 0, 255], (len(mesh.vertices), 1)))
    mesh.export(tmp_path / "ball.glb")
    begun = start(tmp_path / "ball.glb")
    assert len(begun.cloud) == 500 and len(begun.dense) == DENSE
    cameras = orbit(torch.tensor([20.0, 140.0]), torch.tensor([10.0, 50.0]), size=64)
    flat = np.zeros((len(mesh.vertices), 2), np.float32)
    itself = TexturedMesh(
        mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32), mesh.vertices.astype(np.float32), flat,
        np.tile(np.float32([1, 0, 0]), (4, 4, 1)),
    )  # fmt: skip
    _, coverage = render_mesh(itself, cameras)
    off = []
    for dense in (begun.dense, begun.cloud):
        image, alpha = rasterize_views(picture_of(replace(begun, dense=dense)), cameras)
        assert image[alpha[..., 0] > 0.9].sub(torch.tensor([1.0, 0, 0])).abs().max() < 0.1
        off.append(float((alpha[..., 0] - coverage).abs().mean()))
    assert 3 * off[0] < off[1]


def rendered(gaussians, viewmats, Ks, size=48):
    return rasterize(
        gaussians.means, gaussians.quats, gaussians.scales.exp(), gaussians.opacities.sigmoid(),
        torch.cat([gaussians.sh0, gaussians.shN], 1), viewmats, Ks, size, size, sh_degree=gaussians.sh_degree,
    )[0]  # fmt: skip


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("degree", [0, 3])
def test_a_splat_looks_as_it_did_from_the_turned_camera(tmp_path, frame, degree):
    """Means, rotations, scales, opacities and harmonics all go along: pictures before and after are the same."""
    before = splat(degree)
    save_splat(tmp_path / "a.ply", before)
    begun = start(tmp_path / "a.ply", file_frame=frame, file_turn=35.0)
    after = begun.gaussians
    assert torch.equal(after.opacities, before.opacities) and torch.equal(after.sh0, before.sh0)
    assert begun.begin is after and torch.equal(begun.cloud.xyz, after.means)
    scale = float((after.scales - before.scales).exp().mean())
    c, s = np.cos(np.radians(35.0)), np.sin(np.radians(35.0))
    turn = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]]).float() @ rotation_matrices(torch.tensor(FRAMES[frame]))[0]
    shift = (after.means - scale * before.means @ turn.T).mean(0)
    cameras = orbit(torch.tensor([20.0, 140.0]), torch.tensor([10.0, 50.0]), size=48)
    there = cameras.viewmats.clone()  # the same camera for the file's own frame: X' = scale turn X + shift
    there[:, :3, 3] = (cameras.viewmats[:, :3, :3] @ shift + cameras.viewmats[:, :3, 3]) / scale
    there[:, :3, :3] = cameras.viewmats[:, :3, :3] @ turn
    want, got = rendered(before, there, cameras.Ks), rendered(after, cameras.viewmats, cameras.Ks)
    assert want.std() > 0.05 and torch.allclose(got, want, atol=2e-3)


def test_of_a_large_splat_those_are_kept_that_cover_most(tmp_path):
    gaussians = splat(count=300)
    gaussians.opacities[::3] = -6.0
    gaussians.scales[1::3] = -7.0
    save_splat(tmp_path / "a.ply", gaussians)
    assert len(start(tmp_path / "a.ply").gaussians) == 300
    kept = start(tmp_path / "a.ply", max_gaussians=100).gaussians
    assert torch.equal(kept.sh0, gaussians.sh0[2::3])


def test_faint_strays_do_not_decide_the_size(tmp_path):
    gaussians = splat()
    save_splat(tmp_path / "a.ply", gaussians)
    plain = start(tmp_path / "a.ply").gaussians
    gaussians = Gaussians(**{name: torch.cat([v, v[:1]]) for name, v in gaussians.tensors().items()})
    gaussians.means[-1], gaussians.opacities[-1] = torch.tensor([1e4, 0, 0]), -5.0
    save_splat(tmp_path / "a.ply", gaussians)
    assert torch.allclose(start(tmp_path / "a.ply").gaussians.means[:-1], plain.means)


def test_points_become_as_many_gaussians_as_the_recipe_says(tmp_path):
    save_points(tmp_path / "a.ply", pointing(*UP_AND_FRONT["z-up"]))
    settings = Init(start="file", num_points=64)
    cloud = start(tmp_path / "a.ply").cloud
    assert len(from_points(cloud, settings, torch.Generator().manual_seed(0))) == 64


HEAD = "ply\nformat ascii 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("PK\x03\x04", "is not a PLY file: it starts with"),
        ("\x80\x04\x95pickle", "is not a PLY file"),
        ("ply\nformat ascii 1.0\n", "no end_header"),
        (HEAD.format(4) + "0 0 0\n1 1 1\n", "cut short"),
        (HEAD.format(0), "0 points; at least 4"),
        (HEAD.format(1) + "0 0 0\n", "1 points; at least 4"),
        (HEAD.format(4) + "1 1 1\n" * 4, "reach 0 from their centre"),
        (HEAD.format(4) + "0 0 nan\n" * 4, "NaN or infinite x, y, z"),
        (HEAD.format(10_000_000), "has 10000000 vertices or more; at most 2000000 are read"),
        (HEAD.format(4).replace("property float z\n", "") + "0 0\n" * 4, "vertex properties z are missing"),
        (HEAD.format(4).replace("float x", "float packed_position") + "0 0 0\n" * 4, "compressed splat"),
    ],
)
def test_a_file_that_is_no_start_says_why(tmp_path, text, words):
    path = tmp_path / "a.ply"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=words):
        start(path)


def test_a_huge_text_is_not_read(tmp_path, monkeypatch):
    from pipeline_core.io import ply

    monkeypatch.setattr(ply, "MOST_TEXT", 100)
    (tmp_path / "a.ply").write_text(HEAD.format(4) + "0 0 0\n" * 4)
    with pytest.raises(DataError, match="save it as a binary PLY"):
        start(tmp_path / "a.ply")
    assert surface.MOST == 2_000_000
