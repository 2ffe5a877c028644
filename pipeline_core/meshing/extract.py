"""From Gaussians to a closed mesh: density field, surface level, surface.

    mesh = extract_mesh(gaussians, recipe.mesh)

The density is DreamGaussian's: d(x) = sum_i opacity_i exp(-(x - mu_i)^T Sigma_i^-1 (x - mu_i) / 2), its surface d = 1.
One fixed level fits no two models alike (thin parts vanish, dense ones swell), so by default the level is the one
whose silhouettes agree best with the Gaussians' own.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from pipeline_core.cameras import Cameras, orbit
from pipeline_core.config import Meshing
from pipeline_core.errors import DataError, DivergedError
from pipeline_core.meshing.process import run_in_process
from pipeline_core.rendering.density import density_grid
from pipeline_core.rendering.rasterize import rasterize_views
from pipeline_core.types import Gaussians, Mesh

MIN_OPACITY = 0.005
"""Gaussians fainter than this are left out of the density (DreamGaussian)."""
ANCHOR_OPACITY = 0.3
"""Gaussians fainter than this do not say where the surface is (nor are they points of the F-score). 0.1 and 0.6
draw the same surfaces of the starter's, which are all denser (docs/LOG.md: Constants at half and double)."""
REACH = 3.0
"""The grid covers this many standard deviations about each mean: there the densest has 1 % of its peak, which is below
all of :data:`LEVELS`. 2 and 4.5 change no figure by more than noise."""
BOUND = 1.2
"""The grid never leaves the cube of this half side (object units): a stray Gaussian must not coarsen it. The
starts lie within 0.5, GSGen's within 0.8; 0.8 and 2 change nothing in either."""
LEVELS = (3.0, 2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.15)
"""Candidate densities of the surface, in the order they are tried: about a root of two apart, about the published 1.
The starter's clouds take 0.15 to 0.5 (docs/LOG.md: Meshing and texturing). Half and twice as many levels: no figure
moves (docs/LOG.md: Constants at half and double, as below)."""
SILHOUETTE_VIEWS = ((0.0, 0.0), (90.0, 0.0), (45.0, 30.0), (135.0, 30.0), (0.0, 80.0), (-60.0, -20.0))
"""Azimuth and elevation, degrees, of the silhouettes: sides, quarters, top, and one from below. Three and
twelve choose the same levels."""
SILHOUETTE_SIZE = 96
"""Their pixels a side. 48 and 192 choose another level here and there, with no loss."""
SILHOUETTE_ALPHA = 0.5
"""A pixel is in the silhouette where the Gaussians hide half of what is behind. At three quarters surfaces
are thinner: their outlines agree less with the splat's by 0.004, and some cross."""
CLEARLY = 1e-4
"""A level must be better than those before it by this much IoU, which is less than one pixel: of equals the highest.
None and ten times as much choose the same."""
THINNEST, FLAT = 0.5, 2.0
"""Discs and needles, whose longest axis is more than twice their shortest, are as thick as half a grid spacing in the
density, or they would lie between its samples and the surface would fall to pieces (docs/METHODS.md: Meshing). Half
as thick costs 0.09 of discs' F-scores, only from four times on 0.10; twice as thick gains 0.007 and loses outlines."""
EMPTY = 1e-3
"""Densities below it are nothing: what is added before the logarithm is taken, and what no surface is drawn in. A
tenth and ten times change no figure by more than noise."""


def extract_mesh(gaussians: Gaussians, settings: Meshing) -> Mesh:
    """The first of :func:`extract_surfaces`."""
    return extract_surfaces(gaussians, settings)[0]


def extract_surfaces(gaussians: Gaussians, settings: Meshing) -> tuple[Mesh, Mesh]:
    """Closed mesh of at most ``settings.face_budget`` faces, in object units, and the surface before decimation.

    Raises DataError where there is nothing to mesh, DivergedError where the field has no usable surface.
    """
    gaussians, fixed = solid_part(gaussians), settings.iso
    origin, spacing, shape = grid_for(gaussians, settings.grid)
    values = smooth_density(sample_density(gaussians, origin, spacing, shape), settings.blur)
    iso = choose_level(gaussians, values, origin, spacing) if fixed is None else fixed_level(values, fixed)
    anchors = []
    if settings.settle:
        solid = gaussians.opacities.sigmoid() > ANCHOR_OPACITY
        anchors.append((gaussians.means[solid].double().numpy() - origin) / spacing)
    vertices, faces, fine, fine_faces = run_in_process(
        "pipeline_core.meshing.surface:surfaces",
        values,
        *anchors,
        iso=iso,
        face_budget=settings.face_budget,
        min_component=settings.min_component,
        smooth=settings.smooth,
    )
    mesh, before = ((each * spacing + origin).astype(np.float32) for each in (vertices, fine))
    return Mesh(mesh, faces), Mesh(before, fine_faces)


def solid_part(gaussians: Gaussians) -> Gaussians:
    """The Gaussians that have a density, on the CPU. Raises DataError for NaN, DivergedError when none are left."""
    host = gaussians.detach().to("cpu")
    bad = sum(int((~t.isfinite()).sum()) for t in host.tensors().values())
    if bad:
        raise DivergedError(f"{bad} parameters of the Gaussians are NaN or infinite; try another seed")
    keep = (host.opacities.sigmoid() > MIN_OPACITY) & (host.means.abs().amax(dim=1) < BOUND)
    if not keep.any():
        raise DivergedError(
            f"none of the {len(host)} Gaussians is opaque and inside the scene: there is nothing to mesh"
        )
    return host.chosen(keep)


def grid_for(gaussians: Gaussians, samples: int) -> tuple[np.ndarray, float, tuple[int, int, int]]:
    """Origin [3], spacing and shape of a grid of cubic cells with ``samples`` along the longest side."""
    spread = gaussians.scales.exp().amax(dim=1, keepdim=True) * REACH
    low = (gaussians.means - spread).amin(dim=0).clamp(min=-BOUND).double().numpy()
    high = (gaussians.means + spread).amax(dim=0).clamp(max=BOUND).double().numpy()
    spacing = float((high - low).max() / (samples - 1))
    if not spacing > 0:
        raise DataError(f"the Gaussians fill a box of size {(high - low).tolist()}: there is nothing to mesh")
    counts = np.ceil((high - low) / spacing - 1e-6).astype(int) + 1
    return low, spacing, (int(counts[0]), int(counts[1]), int(counts[2]))


def sample_density(gaussians: Gaussians, origin: np.ndarray, spacing: float, shape: tuple[int, int, int]) -> np.ndarray:
    """Density [shape] float32 at the grid points ``origin + spacing * (i, j, k)``, of Gaussians no thinner than it can
    show (:data:`THINNEST`)."""
    args = gaussians.activated()
    flat = args["scales"].amax(dim=1, keepdim=True) > FLAT * args["scales"].amin(dim=1, keepdim=True)
    args["scales"] = torch.where(flat, args["scales"].clamp(min=THINNEST * spacing), args["scales"])
    high = origin + spacing * (np.array(shape) - 1)
    return density_grid(
        args["means"], args["quats"], args["scales"], args["opacities"], low=origin, high=high, shape=shape
    ).numpy()


def smooth_density(values: np.ndarray, blur: float) -> np.ndarray:
    """``values`` with their logarithm smoothed by ``blur`` grid spacings.

    Gaussians lie unevenly, and their density dents where they are sparse. Of a single Gaussian the logarithm is a
    parabola, which smoothing only lowers: thin parts keep their shape, where smoothing the density would swell them.
    """
    if not blur:
        return values
    floor = np.float32(EMPTY)
    return np.maximum(np.exp(ndimage.gaussian_filter(np.log(values + floor), blur)) - floor, 0)


def fixed_level(values: np.ndarray, iso: float) -> float:
    """``iso``, or half of the largest density where nothing reaches ``iso``."""
    top = float(values.max())
    if not top > EMPTY:
        raise DivergedError(f"the largest density is {top:.3g}: there is nothing to mesh")
    return iso if top > iso else top / 2


def choose_level(gaussians: Gaussians, values: np.ndarray, origin: np.ndarray, spacing: float) -> float:
    """The one of :data:`LEVELS` whose silhouettes overlap best with the Gaussians', by mean IoU over views."""
    azimuth, elevation = (torch.tensor(v) for v in zip(*SILHOUETTE_VIEWS, strict=True))
    cameras = orbit(azimuth, elevation, size=SILHOUETTE_SIZE)
    _, alpha = rasterize_views(gaussians, cameras)
    target = alpha[..., 0].numpy() > SILHOUETTE_ALPHA
    inside = np.argwhere(values > LEVELS[-1])
    density = values[tuple(inside.T)]
    highest = highest_density(inside * spacing + origin, density, cameras)
    best, level = -1.0, fixed_level(values, LEVELS[-1])
    for candidate in LEVELS:
        mask = highest > candidate
        overlap = (mask & target).sum() / max((mask | target).sum(), 1)
        if overlap > best + CLEARLY:
            best, level = float(overlap), candidate
    return level if best > 0 else fixed_level(values, 1.0)


def highest_density(points: np.ndarray, density: np.ndarray, cameras: Cameras) -> np.ndarray:
    """Largest density [V, H, W] among the ``points`` [P, 3] in each pixel; the silhouette of a level is ``> level``.

    Grid points are denser than pixels here, so no pixel inside a silhouette is missed.
    """
    out = np.zeros((len(cameras), cameras.height, cameras.width), np.float32)
    for view, (viewmat, K) in enumerate(
        zip(cameras.viewmats.double().numpy(), cameras.Ks.double().numpy(), strict=True)
    ):
        camera = points @ viewmat[:3, :3].T + viewmat[:3, 3]
        pixel = (camera[:, :2] / camera[:, 2:] * np.diag(K)[:2] + K[:2, 2]).astype(int)
        ok = (pixel >= 0).all(axis=1) & (pixel < [cameras.width, cameras.height]).all(axis=1) & (camera[:, 2] > 0)
        np.maximum.at(out[view], (pixel[ok, 1], pixel[ok, 0]), density[ok])
    return out
