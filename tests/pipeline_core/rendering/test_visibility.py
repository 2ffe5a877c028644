"""The z-buffer against an independent ray caster: every pixel's ray against every face, Moller-Trumbore in float64."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch

from pipeline_core.cameras import Cameras, orbit
from pipeline_core.rendering import visibility as visibility_module
from pipeline_core.rendering.visibility import NEAR, NVDIFFRAST, Visibility, chosen_backend, visibility


def cast(
    vertices: np.ndarray, faces: np.ndarray, c: Cameras, view: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Nearest face [H, W], its barycentrics, z, and the distance in z to the second nearest face."""
    m = c.viewmats[view].double().numpy()
    K = c.Ks[view].double().numpy()
    y, x = np.mgrid[: c.height, : c.width]
    rays = np.stack([(x + 0.5 - K[0, 2]) / K[0, 0], (y + 0.5 - K[1, 2]) / K[1, 1], np.ones(x.shape)], -1)
    to_world = np.linalg.inv(m[:3, :3])  # float32 rotations are not quite orthonormal
    d = rays.reshape(-1, 1, 3) @ to_world.T
    origin = -to_world @ m[:3, 3]
    a, b, e = (vertices.astype(np.float64)[faces[:, k]] for k in range(3))
    with np.errstate(all="ignore"):
        p = np.cross(d, e - a)
        det = (p * (b - a)).sum(-1)
        u = (p * (origin - a)).sum(-1) / det
        q = np.cross(origin - a, b - a)
        v = (d * q).sum(-1) / det
        z = ((e - a) * q).sum(-1) / det  # the ray's camera z is 1, so its parameter is the depth
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (z >= NEAR)
    z = np.where(hit, z, np.inf)
    order = np.sort(z, axis=1)
    face = z.argmin(1)
    weights = np.stack([1 - u - v, u, v], -1)[np.arange(len(face)), face]
    shape = (c.height, c.width)
    seen = np.isfinite(order[:, 0])
    gap = order[:, 1] - np.where(seen, order[:, 0], 0)
    face = np.where(seen, face, -1).reshape(shape)
    return face, weights.reshape(*shape, 3), order[:, 0].reshape(shape), gap.reshape(shape)


def soup(count: int, seed: int, size: float = 0.4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random triangles that overlap and intersect, with random uvs."""
    rng = np.random.default_rng(seed)
    corners = rng.normal(size=(count, 1, 3)) * 0.4 + rng.normal(size=(count, 3, 3)) * size
    vertices = corners.reshape(-1, 3).astype(np.float32)
    return vertices, np.arange(3 * count, dtype=np.int32).reshape(-1, 3), rng.random((3 * count, 2)).astype(np.float32)


@pytest.mark.parametrize("distance", [2.5, 0.6])
def test_agrees_with_the_ray_caster(distance: float) -> None:
    """At distance 0.6 the camera stands in the soup, and faces cross its plane."""
    vertices, faces, uvs = soup(60, 0)
    c = orbit(torch.tensor([20.0, 130, 250]), torch.tensor([10.0, -40, 80]), size=48, distance=distance)
    seen = visibility(vertices, faces, uvs, c)
    for view in range(3):
        face, weights, z, gap = cast(vertices, faces, c, view)
        clear = (gap > 1e-9) & (np.abs(weights).min(-1) > 1e-9)
        clear |= face < 0
        assert clear.mean() > 0.99
        got = seen.face_id[view].numpy()
        assert (got == face)[clear].all()
        hit = clear & (face >= 0)
        assert hit.mean() > 0.3
        assert np.abs(seen.barycentrics[view].numpy() - weights)[hit].max() < 1e-5
        assert np.abs(seen.depth[view].numpy() - z)[hit].max() < 1e-5
        uv = (uvs[faces[face]] * weights[..., None]).sum(-2)
        assert np.abs(seen.uv[view].numpy() - uv)[hit].max() < 1e-5
        assert not seen.depth[view].numpy()[face < 0].any()


def box() -> tuple[np.ndarray, np.ndarray]:
    """A cube of side 1, faces counter-clockwise from outside."""
    v = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)], dtype=np.float32)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return v, np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))], dtype=np.int32)


def test_a_cube_from_the_front_in_closed_form() -> None:
    vertices, faces = box()
    c = orbit(torch.tensor([0.0]), torch.tensor([0.0]), size=64)
    seen = visibility(vertices, faces, None, c)
    f = float(c.Ks[0, 0, 0])
    half = 0.5 * f / 2.0  # the front is 2 from the camera
    inside = (torch.arange(64) + 0.5 - 32).abs() < half
    assert torch.equal(seen.mask[0], inside[:, None] & inside)
    assert torch.allclose(seen.depth[seen.mask], torch.tensor(2.0), atol=1e-6)
    assert set(seen.face_id[seen.mask].tolist()) == {10, 11}  # the +Z side
    x = (torch.arange(64) + 0.5 - 32) / f
    want = 1 / (1 + x**2 + x[:, None] ** 2).sqrt()
    assert torch.allclose(seen.cosine[0][seen.mask[0]], want[seen.mask[0]], atol=1e-6)


def test_no_holes_along_shared_edges() -> None:
    vertices, faces = box()
    c = orbit(torch.tensor([33.0]), torch.tensor([41.0]), size=200)
    mask = visibility(vertices, faces, None, c).mask[0]
    filled = mask.cummax(0).values & mask.flip(0).cummax(0).values.flip(0)
    assert torch.equal(mask, filled)
    assert torch.equal(visibility(vertices, faces, None, c).cosine[0] > 0, mask)


def test_the_back_of_a_face_has_a_negative_cosine() -> None:
    vertices, faces = box()
    seen = visibility(vertices, faces[:, ::-1].copy(), None, orbit(torch.tensor([0.0]), torch.tensor([0.0]), size=16))
    assert (seen.cosine[seen.mask] < 0).all()


def test_the_lower_index_wins_a_tie_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, faces = box()
    c = orbit(torch.tensor([10.0, 60]), torch.tensor([20.0]), size=40)
    monkeypatch.setenv("SPLATMILL_THREADS", "1")
    want = visibility(vertices, np.concatenate([faces, faces]), None, c)
    assert want.face_id.max() < len(faces)
    monkeypatch.setenv("SPLATMILL_THREADS", "3")
    got = visibility(vertices, np.concatenate([faces, faces]), None, c)
    assert all(torch.equal(getattr(got, k), getattr(want, k)) for k in Visibility.__dataclass_fields__)


def test_faces_that_cannot_be_seen() -> None:
    vertices, faces = box()
    c = orbit(torch.tensor([0.0]), torch.tensor([0.0]), size=16)
    want = visibility(vertices, faces, None, c)
    odd = np.concatenate([vertices, [[np.nan, 0, 0], [np.inf, 0, 0]]]).astype(np.float32)
    got = visibility(odd, np.concatenate([faces, [[0, 1, 8], [2, 3, 9], [4, 4, 5]]]), None, c)
    assert torch.equal(got.face_id, want.face_id)
    assert not visibility(vertices, faces[:0], None, c).mask.any()
    assert not visibility(vertices + np.float32([0, 0, 100]), faces, None, c).mask.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vertices": np.zeros((4, 2))}, r"vertices must be \[P, 3\]"),
        ({"faces": np.zeros((1, 3))}, r"faces must be \[F, 3\] integers"),
        ({"faces": np.array([[0, 1, 99]])}, "faces refer to vertices 0..99, but there are 8"),
        ({"uvs": np.zeros((3, 2))}, r"uvs must be \[8, 2\]"),
        ({"backend": "gl"}, "backend='gl' must be numba"),
    ],
)
def test_bad_input_is_named(change: dict, message: str) -> None:
    vertices, faces = box()
    arguments = {
        "vertices": vertices,
        "faces": faces,
        "uvs": None,
        "cameras": orbit(torch.tensor([0.0]), torch.tensor([0.0]), size=8),
    }
    with pytest.raises(ValueError, match=message):
        visibility(**{**arguments, **change})


def test_nvdiffrast_is_used_only_on_a_gpu_and_only_when_asked(monkeypatch):
    monkeypatch.delenv(NVDIFFRAST, raising=False)
    assert chosen_backend(torch.device("cuda")) == "numba"
    monkeypatch.setenv(NVDIFFRAST, "1")
    second = torch.device("cuda", 1)
    assert chosen_backend(second) == second and chosen_backend(torch.device("cpu")) == "numba"


def test_nvdiffrast_works_on_the_device_that_it_is_told(monkeypatch):
    """Whatever is current on the thread: those that look ahead have not set any, and have the first GPU."""
    seen = []

    def rasterize(context, clip, faces, size):
        seen.append((context, clip.device, faces.device))
        return torch.zeros(*clip.shape[:1], *size, 4, device=clip.device), None

    nvdiffrast(monkeypatch, RasterizeCudaContext=lambda device: device, rasterize=rasterize)
    there, (vertices, faces) = torch.device("meta"), box()
    found = visibility(vertices, faces, None, orbit(torch.zeros(1), torch.zeros(1), size=8), backend=there)
    assert seen == [(there, there, there)] and found.face_id.device == there


def nvdiffrast(monkeypatch, **functions):
    """A package of that name with these ``functions``."""
    fake, package = types.ModuleType("nvdiffrast.torch"), types.ModuleType("nvdiffrast")
    vars(fake).update(functions)
    package.torch = fake
    monkeypatch.setitem(sys.modules, "nvdiffrast", package)
    monkeypatch.setitem(sys.modules, "nvdiffrast.torch", fake)
    visibility_module._context.cache_clear()


def test_nvdiffrasts_buffers_are_made_once(monkeypatch):
    made = []
    nvdiffrast(monkeypatch, RasterizeCudaContext=lambda device: made.append(device) or object())
    device = torch.device("cuda", 0)
    contexts = {id(visibility_module._context(device, thread)) for thread in (1, 1, 2)}
    visibility_module._context.cache_clear()
    assert len(contexts) == len(made) == 2
