"""Surfaces of analytic fields: known volume and genus, closed, outward; cavities filled, gaps kept; budgets kept."""

import numpy as np
import pytest
from scipy import ndimage

from pipeline_core.errors import DivergedError
from pipeline_core.meshing import surface as S
from pipeline_core.meshing.collapse import ASPECT
from pipeline_core.meshing.crossings import crossing_faces
from pipeline_core.meshing.settle import settle
from pipeline_core.metrics.mesh_health import aspects

N = 40


def grid(n=N):
    x = np.linspace(-1, 1, n)
    return np.stack(np.meshgrid(x, x, x, indexing="ij"), axis=-1)


def ball(radius, centre=(0, 0, 0), n=N):
    """Field that is 1 on the sphere, larger inside, linear with distance."""
    return (1 + 4 * (radius - np.linalg.norm(grid(n) - np.array(centre), axis=-1))).clip(0, None)


def torus(major, minor, n=N):
    p = grid(n)
    ring = np.hypot(p[..., 0], p[..., 2]) - major
    return (1 + 4 * (minor - np.hypot(ring, p[..., 1]))).clip(0, None)


def euler(vertices, faces):
    edges = np.unique(np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)
    return len(vertices) - len(edges) + len(faces)


def volume(vertices, faces):
    return S.tetra_volumes(vertices, faces).sum() * (2 / (N - 1)) ** 3


def mesh(field, **options):
    return S.surface(field.astype(np.float32), **{"iso": 1.0, "face_budget": 10**6, "smooth": 0, **options})


def test_ball_has_its_volume_and_genus():
    vertices, faces = mesh(ball(0.6))
    assert S.edge_counts(faces)["watertight"] == 1
    assert euler(vertices, faces) == 2
    assert volume(vertices, faces) == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.01)
    world = vertices * (2 / (N - 1)) - 1
    assert np.abs(np.linalg.norm(world, axis=1) - 0.6).max() < 0.005


def test_torus_keeps_its_hole():
    vertices, faces = mesh(torus(0.55, 0.2))
    assert S.edge_counts(faces)["watertight"] == 1
    assert euler(vertices, faces) == 0
    assert volume(vertices, faces) == pytest.approx(2 * np.pi**2 * 0.55 * 0.2**2, rel=0.02)


@pytest.mark.parametrize("budget", [200, 1000])
def test_decimation_keeps_budget_closedness_and_volume(budget):
    vertices, faces = mesh(torus(0.55, 0.2), face_budget=budget)
    assert 0.9 * budget <= len(faces) <= budget
    assert S.edge_counts(faces)["watertight"] == 1
    assert volume(vertices, faces) == pytest.approx(2 * np.pi**2 * 0.55 * 0.2**2, rel=0.06)


def test_a_mesh_of_many_handles_stays_closed_and_keeps_them_all_or_is_refused():
    """A sponge: a gyroid in a ball."""
    x = np.moveaxis(9 * grid(64), -1, 0)
    sponge = np.abs((np.sin(x) * np.cos(np.roll(x, 1, axis=0))).sum(0)) < 0.8
    field = ndimage.gaussian_filter((sponge & (np.linalg.norm(grid(64), axis=-1) < 0.85)).astype(float), 1) * 2
    full = mesh(field, seal_radius=0, min_component=0.5)
    assert euler(*full) < -100  # more than fifty handles
    vertices, faces = S.decimate(*full, 900)
    assert S.edge_counts(faces)["watertight"] == 1 and len(faces) <= 900 < len(full[1]) / 50
    assert euler(vertices, faces) == euler(*full)
    with pytest.raises(DivergedError, match=r"needs \d+ faces to stay closed, more than mesh.face_budget = 100"):
        S.decimate(*full, 100)


def test_taubin_smooths_without_shrinking():
    rng = np.random.default_rng(0)
    vertices, faces = mesh(ball(0.6) + 0.1 * rng.normal(size=(N, N, N)), min_component=0.5)
    before = np.linalg.norm(vertices - (N - 1) / 2, axis=1)
    after = np.linalg.norm(S.taubin(vertices.astype(float), faces, 10) - (N - 1) / 2, axis=1)
    assert after.std() < 0.8 * before.std()
    assert after.mean() == pytest.approx(before.mean(), rel=0.01)


def test_object_that_touches_the_grid_is_closed():
    vertices, faces = mesh(np.full((8, 8, 8), 2.0))
    assert S.edge_counts(faces)["watertight"] == 1
    assert vertices.min() < 0 and vertices.max() > 7


def test_closed_cavity_is_filled():
    shell = np.minimum(ball(0.7), 2 - ball(0.5)).clip(0, None)
    vertices, faces = mesh(shell)
    assert euler(vertices, faces) == 2
    assert volume(vertices, faces) == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.01)


def test_pinhole_does_not_open_the_inside():
    shell = np.minimum(ball(0.7), 2 - ball(0.5)).clip(0, None)
    middle = N // 2
    shell[middle : middle + 2, middle : middle + 2, middle:] = 0
    vertices, faces = mesh(shell)
    assert S.edge_counts(faces)["watertight"] == 1
    assert volume(vertices, faces) == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.02)
    assert np.linalg.norm(vertices * (2 / (N - 1)) - 1, axis=1).min() > 0.5


def test_wide_opening_stays_open():
    """A bowl: half a shell."""
    shell = np.minimum(ball(0.7), 2 - ball(0.5)).clip(0, None)
    shell[:, :, N // 2 :] = 0
    vertices, faces = mesh(shell)
    assert volume(vertices, faces) == pytest.approx(2 / 3 * np.pi * (0.7**3 - 0.5**3), rel=0.1)


def test_narrow_gap_between_solids_stays_open():
    field = np.zeros((N, N, N))
    field[5:18, 10:30, 10:30] = 2
    field[20:33, 10:30, 10:30] = 2  # two samples apart, less than a seal ball
    _, faces = mesh(field)
    assert S.face_components(faces, faces.max() + 1).max() == 1


def test_small_components_go_and_large_ones_stay():
    field = np.maximum(ball(0.4, (-0.5, 0, 0)), ball(0.3, (0.5, 0, 0)))
    speck = np.maximum(field, ball(0.05, (0, 0.9, 0)))
    vertices, faces = mesh(speck)
    assert S.face_components(faces, len(vertices)).max() == 1
    vertices, faces = mesh(speck, min_component=0.9)
    assert S.face_components(faces, len(vertices)).max() == 0


def test_pinched_sheets_are_taken_apart():
    """Two tetrahedra that share an edge: four faces on it. Afterwards both are closed and nothing else moved."""
    vertices = np.array([[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 1, 0], [-1, 0, 0], [-1, -1, 0]], float)
    one = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    other = one.copy()
    other[one == 2], other[one == 3] = 4, 5
    faces = np.concatenate([one, other])
    assert S.edge_counts(faces)["nonmanifold_edges"] == 1
    split, parts = S.split_pinches(vertices, faces)
    assert S.edge_counts(parts)["watertight"] == 1
    assert len(split) == 8
    assert np.array_equal(split[:6], vertices)
    assert len(np.unique(split, axis=0)) == 8
    assert np.abs(split[6:] - [[0, 0, 0], [0, 0, 1]]).max() < 0.1


def test_folded_faces_are_removed():
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3], [4, 5, 6], [4, 6, 5], [1, 1, 2]])
    _, kept = S.repair(np.random.default_rng(0).random((7, 3)), faces)
    assert len(kept) == 4
    assert S.edge_counts(kept)["watertight"] == 1


def test_inward_meshes_are_turned():
    vertices, faces = mesh(ball(0.6))
    _, turned = S.outward(vertices, faces[:, ::-1])
    assert volume(vertices, turned) > 0


def test_nothing_inside_is_said():
    with pytest.raises(DivergedError, match=r"largest density is 0\.5, the surface is at 1"):
        mesh(np.full((8, 8, 8), 0.5))


def test_same_field_same_bytes():
    first, second = (mesh(torus(0.5, 0.25), face_budget=500, smooth=2) for _ in range(2))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


def test_a_settled_surface_is_whole_and_crosses_nothing():
    """A plate with a wall on it: both sides of a sheet are drawn to one layer of anchors."""
    x = np.stack(np.meshgrid(*[np.arange(N)] * 3, indexing="ij"), -1) - (N - 1) / 2
    plate = (np.abs(x[..., 2]) < 3.5) & (np.abs(x[..., :2]).max(-1) < 15)
    wall = (np.abs(x[..., 0]) < 3.5) & (np.abs(x[..., 1]) < 15) & (np.abs(x[..., 2] - 6) < 9)
    rng = np.random.default_rng(0)
    a, b = (
        rng.uniform([-12, -12, -0.4], [12, 12, 0.4], (4000, 3)),
        rng.uniform([-0.4, -12, 0], [0.4, 12, 12], (2500, 3)),
    )
    anchors = np.concatenate([a, b]) + (N - 1) / 2
    field = (plate | wall).astype(np.float32)
    full = mesh(field, iso=0.5, smooth=5)
    assert crossing_faces(settle(*full, anchors), full[1]).any()  # what there is to mend
    vertices, faces = S.surface(field, anchors, iso=0.5, face_budget=800, smooth=5)
    assert S.edge_counts(faces)["watertight"] == 1 and S.face_components(faces, len(vertices)).max() == 0
    assert not crossing_faces(vertices, faces).any()
    assert aspects(vertices, faces).max() <= 1.5 * ASPECT


def test_more_pieces_than_faces_are_told():
    field = np.zeros((24, 24, 24))
    field[2::3, 2::3, 2::3] = 2  # 512 specks
    with pytest.raises(DivergedError, match="has 512 pieces and needs 2048 faces to stay closed"):
        mesh(field, face_budget=1000)


def test_ten_thousand_pieces_take_bounded_time():
    field = np.zeros((66, 66, 66))
    field[2::3, 2::3, 2::3] = 2
    field[30:36, 30:36, 30:36] = 2
    vertices, faces = mesh(field, face_budget=400, min_component=0.5)
    assert S.face_components(faces, len(vertices)).max() == 0


def test_sheets_that_touch_along_edges_are_taken_apart_before_decimation():
    """A checkerboard of cubes: every second edge has four faces, and a closed mesh comes out all the same."""
    field = np.zeros((20, 20, 20))
    field[2:18, 2:18, 2:18] = 2.0 * (np.indices((16, 16, 16)).sum(0) % 2)
    vertices, faces = mesh(field, face_budget=10**6, seal_radius=0)
    assert S.edge_counts(faces)["watertight"] == 1
