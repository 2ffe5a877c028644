"""Where distillation starts from a file: another generator's splat, mesh or points, brought into our frame.

    start = load_start(Path("mug.glb"), recipe.init, generator)
    start.cloud, start.gaussians, start.frame               # points; Gaussians of a splat, else None; "y-up"

A splat is kept as it is, turned and scaled with its harmonics. On a mesh, ``init.num_points`` points are drawn, uniform
by area; of a cloud all points are kept, and become ``init.num_points`` Gaussians as any cloud does.

The frame is ``init.file_frame``, or, where that is ``auto``:

=========================================  ==========  ============================================================
the file                                   frame       up, front
=========================================  ==========  ============================================================
says ``comment frame <frame>`` (PLY)       that one
GLB                                        y-up        +Y, +Z: the standard
OBJ                                        y-up        +Y, +Z: what exporters write unless told otherwise
splat with view-dependent colours          y-down      -Y, -Z: of cameras (3DGS, COLMAP)
splat without                              y-up        of generators (DreamGaussian, splatmill)
PLY of points or a mesh                    z-up        +Z, -Y: Blender, Point-E, Shap-E
=========================================  ==========  ============================================================

``init.file_turn`` then turns it about the vertical. Last, it is centred on its bounding box and scaled to the radius
OBJECT_RADIUS, as samples of the point prior are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline_core.config import Init
from pipeline_core.errors import DataError
from pipeline_core.io.ply import load_points, load_splat, look
from pipeline_core.io.surface import load_surfaces, sample
from pipeline_core.rendering.sh import sh_basis
from pipeline_core.types import OBJECT_RADIUS, Gaussians, PointCloud, rotation_matrices, sh0_to_rgb

FRAMES = {
    "y-up": (1.0, 0.0, 0.0, 0.0),
    "z-up": (math.sqrt(0.5), -math.sqrt(0.5), 0.0, 0.0),
    "y-down": (0.0, 1.0, 0.0, 0.0),
}
"""Quaternions wxyz that turn a frame into ours."""
FAINT = 0.1
"""Opacity below which a Gaussian does not count for the bounding box."""
FEWEST = 4
DENSE = 50_000
"""Points, at most, by which a mesh or a cloud is judged: enough for a picture of it as it is."""


@dataclass(frozen=True)
class Start:
    """What a file holds, in our frame. ``gaussians`` of a splat; ``dense``: more points of the same, which show what
    it looks like where there are no Gaussians; ``kind`` is splat, mesh or points."""

    cloud: PointCloud
    gaussians: Gaussians | None
    dense: PointCloud
    kind: str
    frame: str

    @property
    def begin(self) -> PointCloud | Gaussians:
        """What distillation begins with."""
        return self.cloud if self.gaussians is None else self.gaussians

    @property
    def metrics(self) -> dict[str, float]:
        """Kind and frame, as metrics of these names with value 1."""
        return {f"start_{self.kind}": 1.0, f"start_{self.frame.replace('-', '_')}": 1.0}


def load_start(path: Path, settings: Init, generator: torch.Generator) -> Start:
    """The start in ``path``, a .ply, .glb or .obj. Raises :class:`DataError` that says what is wrong with the file."""
    kind, auto = "mesh", "y-up"
    if path.suffix == ".ply":
        about = look(path)
        kind, auto = about.kind, "z-up"
        if kind == "splat":
            auto = "y-down" if about.shN else "y-up"
        auto = next((text[6:] for text in about.comments if text in {f"frame {name}" for name in FRAMES}), auto)
    frame = auto if settings.file_frame == "auto" else settings.file_frame
    quat = product(spin(1, settings.file_turn), torch.tensor(FRAMES[frame], dtype=torch.float64))
    if kind == "splat":
        gaussians = _place(path, _most_seen(load_splat(path, frame="file"), settings.max_gaussians), quat)
        cloud = PointCloud(gaussians.means, sh0_to_rgb(gaussians.sh0).clamp(0, 1))
        return Start(cloud, gaussians, cloud, kind, frame)
    if kind == "points":
        cloud = dense = load_points(path)
    else:
        surfaces = load_surfaces(path)
        cloud, dense = (sample(path, surfaces, count, generator) for count in (settings.num_points, DENSE))
    [rotation] = rotation_matrices(quat)
    centre, scale = _fit(path, dense.xyz.double() @ rotation.T)

    def placed(points: PointCloud) -> PointCloud:
        return PointCloud(((points.xyz.double() @ rotation.T - centre) * scale).float(), points.rgb)

    return Start(placed(cloud), None, placed(dense), kind, frame)


def _fit(path: Path, xyz: Tensor) -> tuple[Tensor, float]:
    """Centre [3] of the bounding box of ``xyz`` [N, 3], and the scale that gives it the radius OBJECT_RADIUS."""
    if len(xyz) < FEWEST:
        raise DataError(f"{path} has {len(xyz)} points; at least {FEWEST} are needed")
    centre = (xyz.amin(0) + xyz.amax(0)) / 2
    radius = float((xyz - centre).norm(dim=1).max())
    if not 1e-12 < radius < 1e12:
        raise DataError(f"{path}: its points reach {radius:g} from their centre; a thing with an extent is needed")
    return centre, OBJECT_RADIUS / radius


def _most_seen(gaussians: Gaussians, count: int) -> Gaussians:
    """The ``count`` Gaussians that cover most: opacity times the area of the two longer axes; in their order."""
    if len(gaussians) <= count:
        return gaussians
    area = gaussians.scales.double().topk(2, dim=1).values.sum(1).exp()
    keep = (area * gaussians.opacities.double().sigmoid()).topk(count).indices.sort().values
    return gaussians.chosen(keep)


def _place(path: Path, gaussians: Gaussians, quat: Tensor) -> Gaussians:
    """Turned by ``quat``, centred and scaled."""
    turned = turn(gaussians, quat)
    means, solid = turned.means, gaussians.opacities.sigmoid() >= FAINT
    centre, scale = _fit(path, means[solid] if int(solid.sum()) >= FEWEST else means)
    return replace(turned, means=((means - centre) * scale).float(), scales=gaussians.scales + math.log(scale))


def turn(gaussians: Gaussians, quat: Tensor) -> Gaussians:
    """``gaussians`` turned about the origin by the unit quaternion ``quat`` [4] wxyz float64; means become float64."""
    [rotation] = rotation_matrices(quat)
    return replace(
        gaussians,
        means=gaussians.means.double() @ rotation.T,
        quats=product(quat, gaussians.quats.double()).float(),
        shN=_turn_harmonics(gaussians.shN, gaussians.sh_degree, rotation),
    )


def _turn_harmonics(shN: Tensor, degree: int, rotation: Tensor) -> Tensor:
    """``shN`` [N, K - 1, 3] as they are after ``rotation`` [3, 3]: each degree mixes within itself.

    The mixture is solved from 64 directions d: basis(d) new = basis(rotation^-1 d) old.
    """
    directions = torch.nn.functional.normalize(
        torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1
    )
    after, before = sh_basis(degree, directions), sh_basis(degree, directions @ rotation)
    turned = shN.double()
    for each in range(1, degree + 1):
        rows = slice(each**2, (each + 1) ** 2)
        mixture = torch.linalg.lstsq(after[:, rows], before[:, rows]).solution
        below = slice(rows.start - 1, rows.stop - 1)
        turned[:, below] = torch.einsum("ij,njc->nic", mixture, shN[:, below].double())
    return turned.float()


def spin(axis: int, degrees: float) -> Tensor:
    """The quaternion [4] wxyz of a turn about X, Y or Z (0, 1, 2)."""
    half, quat = math.radians(degrees) / 2, torch.zeros(4, dtype=torch.float64)
    quat[0], quat[1 + axis] = math.cos(half), math.sin(half)
    return quat


def product(a: Tensor, b: Tensor) -> Tensor:
    """Quaternion product [..., 4] wxyz: first ``b``, then ``a``."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    parts = [
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    ]
    return torch.stack(parts, dim=-1)
