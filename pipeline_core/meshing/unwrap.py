"""A UV atlas for a mesh: charts cut by xatlas in a process of its own, laid into the square by our own packing.

    vertices, faces, uvs, source = unwrap(mesh, 1024)

xatlas packs a page that is not square and misses the size that it is asked for, mirrors charts, and stretches each to
whole texels: here its charts are taken as they were flattened. Texels are square, every chart has the same density,
none is mirrored, the page has exactly the size that is asked for, and every chart owns the centre of a texel. Where a
density is asked for, the page is the smallest power of two that it fits in.

No normals are passed: with them xatlas took four times as long and cut an order of magnitude more charts. Its time
grows with the square of the faces, so that a mesh of more than :data:`BLOCK` is cut into blocks first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline_core.errors import DataError
from pipeline_core.meshing.process import run_in_process

if TYPE_CHECKING:
    from pipeline_core.types import Mesh

PADDING = 4
"""Texels between charts, so that the first mip levels do not mix them."""
LIGHTMAP_PADDING = 2
"""Texels between charts of a light map: small and without mip levels, so that only a linear filter could mix them."""
BLOCK = 10_000
"""Most faces that are cut into charts together: xatlas took 1.7 s for 10,000 of a rough house, 27 s for 50,000."""
SIZES = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
_SHEET, _CHART = 1024, 16
"""xatlas's page, and its largest chart there: small, for its packing is thrown away, and slow where pages are many."""
_THIN, _SMALL = 0.5, 6.0
"""Texels that a chart's largest face is at least thick: it could miss every texel. A chart that is not is enlarged, up
to so many texels a side."""


@dataclass(frozen=True)
class Charts:
    """A mesh cut open, each chart flat and as large as its surface.

    ``vertices`` [W, 3] float32 (duplicated along seams), ``faces`` [F, 3] int32, ``source`` [W] int32: the vertex of
    the mesh that each comes from, ``flat`` [W, 2] float64 in object units, y up, each chart about its own origin,
    ``chart`` [F] the number of each face's chart.
    """

    vertices: np.ndarray
    faces: np.ndarray
    source: np.ndarray
    flat: np.ndarray
    chart: np.ndarray

    @property
    def area(self) -> float:
        """Of all charts, in square object units."""
        return float(np.abs(_doubled_areas(self.flat, self.faces)).sum() / 2)

    @property
    def reach(self) -> float:
        """Largest distance of a chart's corner from its middle, in object units; above 0."""
        return max(float(np.abs(self.flat).max(initial=0)), 1e-30)


def unwrap(mesh: Mesh, texture_size: int = 1024) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut ``mesh`` into charts packed into one square of ``texture_size`` texels a side.

    Returns:
        vertices [W, 3] float32 (duplicated along seams), faces [F, 3] int32, uvs [W, 2] float32 in [0, 1],
        source [W] int32: the vertex of ``mesh`` each comes from.

    Raises:
        DataError: the mesh has more pieces than such a square has room for.
    """
    charts = cut(mesh)
    return charts.vertices, charts.faces, pack(charts, texture_size), charts.source


def cut(mesh: Mesh) -> Charts:
    """The charts of ``mesh``."""
    source, faces, uvs = run_in_process("pipeline_core.meshing.unwrap:flatten", mesh.vertices, mesh.faces)
    vertices, chart = mesh.vertices[source], _pieces(faces, len(source))
    return Charts(vertices, faces, source, _evened(vertices, faces, uvs.astype(np.float64), chart), chart)


def flatten(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source vertex [W], faces [F, 3] and flat places [W, 2] of the charts; holds the GIL for its whole run."""
    import xatlas

    if not np.isfinite(vertices).all():
        raise DataError(f"no UV atlas: {int((~np.isfinite(vertices)).any(axis=1).sum())} vertices are not finite")
    charting, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    packing.resolution, packing.max_chart_size, packing.padding = _SHEET, _CHART, 0
    packing.rotate_charts = False  # it would mirror them
    packing.texels_per_unit = 1e5 / max(float(np.ptp(vertices, axis=0).max(initial=0)), 1e-20)
    sources, corners, places, count = [], [], [], 0
    for block in blocks(vertices, faces):
        used, local = np.unique(faces[block], return_inverse=True)
        atlas = xatlas.Atlas()
        atlas.add_mesh(np.ascontiguousarray(vertices[used], np.float32), local.reshape(-1, 3).astype(np.uint32))
        atlas.generate(chart_options=charting, pack_options=packing)
        source, corner, uvs = atlas[0]
        if len(corner) != len(block):
            raise DataError(f"no UV atlas: {len(corner)} of {len(block)} faces were mapped")
        sources.append(used[source].astype(np.int32))
        corners.append(corner.astype(np.int32) + count)
        # Faces without area are in no chart; xatlas puts them at 0, or at NaN where there is no chart at all.
        places.append(np.nan_to_num(uvs * [atlas.width, atlas.height]).astype(np.float32))
        count += len(source)
    faces_out = np.empty((len(faces), 3), np.int32)
    faces_out[np.concatenate(list(blocks(vertices, faces)))] = np.concatenate(corners)
    return np.concatenate(sources), faces_out, np.concatenate(places)


def blocks(vertices: np.ndarray, faces: np.ndarray) -> list[np.ndarray]:
    """Numbers of the faces of each block: halves across the longest side, again and again, of at most :data:`BLOCK`."""
    middle = vertices[faces].astype(np.float64).sum(axis=1)
    todo, done = [np.arange(len(faces))], []
    while todo:
        block = todo.pop()
        if len(block) <= BLOCK:
            done.append(block)
            continue
        place = middle[block]
        order = block[np.argsort(place[:, np.ptp(place, axis=0).argmax()], kind="stable")]
        todo += [np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])]
    return done


def pack(charts: Charts, size: int, *, texels_per_unit: float | None = None, lightmap: bool = False) -> np.ndarray:
    """Places uvs [W, 2] float32 of the charts in a square of ``size`` texels a side: at ``texels_per_unit``, or as
    large as they fit, with :data:`LIGHTMAP_PADDING` between them for a ``lightmap``. Raises DataError where they do
    not."""
    padding, field = (LIGHTMAP_PADDING, "mesh.lightmap_size") if lightmap else (PADDING, "mesh.texture_size")
    count = int(charts.chart.max(initial=-1)) + 1
    scale, found = texels_per_unit or size * min(0.97 / max(charts.area, 1e-30) ** 0.5, 1 / charts.reach), None
    if count * (padding + 1) ** 2 <= size**2:
        found = _laid(charts, scale, size, padding)
        if texels_per_unit is None:
            floor = scale / 64
            while found is None and scale > floor:
                scale *= 0.92
                found = _laid(charts, scale, size, padding)
            for step in (1.04, 1.02):
                larger = None if found is None else _laid(charts, scale * step, size, padding)
                if larger is not None:
                    found, scale = larger, scale * step
    if found is None:
        raise DataError(
            f"{count} charts do not fit into a texture of {size} texels with {padding} between them; ask for a larger "
            f"{field}, or have small pieces dropped (mesh.min_component)"
        )
    return found


def size_for(charts: Charts, texels_per_unit: float) -> tuple[int, np.ndarray]:
    """The smallest size of a texture, and the uvs there, that has ``texels_per_unit`` everywhere."""
    for size in SIZES:
        if size**2 > charts.area * texels_per_unit**2:
            uvs = _laid(charts, texels_per_unit, size, PADDING)
            if uvs is not None:
                return size, uvs
    raise DataError(
        f"mesh.texels_per_metre asks for {texels_per_unit * charts.area**0.5:.0f} texels a side and more, and a "
        f"texture has at most {SIZES[-1]}; ask for fewer, or a smaller height_m or size_m"
    )


def _laid(charts: Charts, scale: float, size: int, padding: int) -> np.ndarray | None:
    from pipeline_core.rendering.packing import place

    order = np.argsort(charts.chart, kind="stable")
    numbers = charts.chart[order]
    first = np.append(np.flatnonzero(np.diff(numbers, prepend=-1)), len(numbers))
    flat = _thickened(charts.flat * scale, charts.faces, charts.chart)
    corners = flat[charts.faces[order]]
    area = np.abs(_doubled_areas(flat, charts.faces[order]))
    largest = np.lexsort((np.arange(len(area)), -area, numbers))[first[:-1]]
    placed = place(corners, first, corners[largest].mean(axis=1), size, padding)
    if placed is None:
        return None
    vertex_chart = _of_vertices(charts.faces, charts.chart, len(flat))
    turn, shift = placed[vertex_chart, 0], placed[vertex_chart, 1:3]
    x, y = flat.T
    turned = np.stack([np.choose(turn.astype(int), each) for each in ([x, -y, -x, y], [y, x, -y, -x])], axis=1)
    uvs = (turned + shift) / size
    uvs[:, 1] = 1 - uvs[:, 1]  # v runs down: seen from outside, the picture is not mirrored
    return uvs.astype(np.float32)


def _pieces(faces: np.ndarray, count: int) -> np.ndarray:
    from pipeline_core.meshing.surface import face_components

    return face_components(faces, count)


def _doubled_areas(flat: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Twice the signed area [F] of each face in the plane."""
    a, b, c = (flat[faces[:, i]] for i in range(3))
    return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])


def _evened(vertices: np.ndarray, faces: np.ndarray, flat: np.ndarray, chart: np.ndarray) -> np.ndarray:
    """``flat`` [W, 2] with every chart as large as its surface, as wide as high as it is there, not mirrored, and
    about its own middle. A chart without area, in the plane or in space, keeps its place and has no size."""
    count = int(chart.max(initial=-1)) + 1
    corner, place = vertices[faces].astype(np.float64), flat[faces]
    edge, step = corner[:, 1:] - corner[:, :1], place[:, 1:] - place[:, :1]
    doubled = _doubled_areas(flat, faces)
    surface = np.linalg.norm(np.cross(edge[:, 0], edge[:, 1]), axis=1)
    safe = np.where(doubled == 0, 1, doubled)[:, None]
    along_u = (step[:, 1, 1, None] * edge[:, 0] - step[:, 0, 1, None] * edge[:, 1]) / safe
    along_v = (step[:, 0, 0, None] * edge[:, 1] - step[:, 1, 0, None] * edge[:, 0]) / safe
    weight = np.abs(doubled)

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(chart, values, count)

    u, v = (np.sqrt(total(weight * (each**2).sum(axis=1))) for each in (along_u, along_v))
    good = (u > 0) & (v > 0) & np.isfinite(u + v)
    ratio = np.sqrt(np.divide(u, v, out=np.ones(count), where=good))
    size = np.sqrt(np.divide(total(surface), total(weight), out=np.zeros(count), where=good & (total(weight) > 0)))
    scale = np.stack([size * ratio * np.where(total(doubled) < 0, -1, 1), size / ratio], axis=1)
    vertex_chart = _of_vertices(faces, chart, len(flat))
    members = np.maximum(np.bincount(vertex_chart, minlength=count), 1)
    middle = np.stack([np.bincount(vertex_chart, each, count) / members for each in flat.T], axis=1)
    return (flat - middle[vertex_chart]) * scale[vertex_chart]


def _thickened(flat: np.ndarray, faces: np.ndarray, chart: np.ndarray) -> np.ndarray:
    """``flat`` [W, 2] in texels, with charts that are too thin to hold the centre of a texel enlarged, or where that
    makes them long, laid out anew: as triangles of a texel. They are specks and slivers that nobody sees, and still
    need a colour."""
    count = int(chart.max(initial=-1)) + 1
    corner = flat[faces]
    longest = np.linalg.norm(corner - np.roll(corner, 1, axis=1), axis=2).max(axis=1)
    thick, reach = np.zeros(count), np.zeros(count)
    np.maximum.at(thick, chart, np.abs(_doubled_areas(flat, faces)) / np.maximum(longest, 1e-30))
    np.maximum.at(reach, chart, np.abs(corner).max(axis=(1, 2)))
    larger = np.maximum(_THIN / np.maximum(thick, 1e-9), 1)
    small = (thick > 1e-9) & (larger * reach <= np.maximum(_SMALL, reach))
    out = flat * np.where(small, larger, 1)[_of_vertices(faces, chart, len(flat))][:, None]
    out[faces[~small[chart]]] = np.array([[0.0, 0.0], [1.5, 0.0], [0.0, 1.5]])
    return out


def _of_vertices(faces: np.ndarray, chart: np.ndarray, count: int) -> np.ndarray:
    """Number [W] of the chart that each of ``count`` vertices belongs to."""
    out = np.zeros(count, np.int64)
    out[faces.reshape(-1)] = np.repeat(chart, 3)
    return out
