"""PLY files: Gaussian splats in the standard 3DGS layout, coloured point clouds, and (to read) meshes.

    save_splat("splat.ply", gaussians); load_splat("splat.ply")
    write("splat.ply", in_metres, provenance=provenance)            # Y-down, as programs for splats expect
    look("any.ply").kind                                            # splat, mesh or points: by its header

A splat file is one ``vertex`` element of little-endian float32: ``x y z nx ny nz f_dc_0..2 f_rest_* opacity
scale_0..2 rot_0..3`` with log scales, logit opacities, wxyz rotations and *channel-major* ``f_rest`` (all red
coefficients, then green, then blue), as written by the 3DGS reference code and by gsplat. The reader also takes what
other programs write: any property order and number type, ASCII or big-endian bodies, no normals, extra properties,
further elements, SH degree 0 to 3.

Plain splat files are Y-down by custom. Those of ours that are delivered are too, and say so in their header, with the
way back: ``comment frame y-down`` and ``comment object_frame {"scale": ..., "offset": ...}``. :func:`load_splat` goes
that way, so it answers with the same Gaussians for a stage's file and for the asset's.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pipeline_core.errors import DataError
from pipeline_core.files import write_bytes
from pipeline_core.frame import Frame, flipped
from pipeline_core.io.splats import check
from pipeline_core.io.surface import Surface, check_count, corners_of, fan
from pipeline_core.spec import AssetSpec
from pipeline_core.types import SH_C0, Gaussians, PointCloud

_NUMBER_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
_STRUCT = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "f4": "f", "f8": "d"}
_HEADER_LIMIT = 1 << 16
MOST_TEXT = 256 * 2**20
"""Bytes of an ASCII PLY that is read at all."""
_REST_COUNTS = {0: 0, 9: 3, 24: 8, 45: 15}
FINISH = ("metallic", "roughness")
"""Properties of a point that say how it reflects."""


def save_splat(path: str | Path, gaussians: Gaussians, *, comment: str = "") -> None:
    """Write ``gaussians`` to ``path`` in the standard 3DGS layout, raw values, normals zero; each line of ``comment``
    becomes one of the header."""
    n, k = len(gaussians), gaussians.shN.shape[1]
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(3 * k))]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    rows = np.zeros((n, len(names)), dtype="<f4")
    host = {key: value.detach().cpu().to(torch.float32).numpy() for key, value in gaussians.tensors().items()}
    rows[:, 0:3] = host["means"]
    rows[:, 6:9] = host["sh0"][:, 0]
    rows[:, 9 : 9 + 3 * k] = host["shN"].transpose(0, 2, 1).reshape(n, 3 * k)
    rows[:, 9 + 3 * k] = host["opacities"]
    rows[:, 10 + 3 * k : 13 + 3 * k] = host["scales"]
    rows[:, 13 + 3 * k :] = host["quats"]
    header = _header(n, [("float", name) for name in names], comment)
    write_bytes(Path(path), header + rows.tobytes())


def export(source: Path, target: Path, *, spec: AssetSpec, provenance: Mapping[str, Any]) -> None:
    """Write the deliverable ``target``: the splat ``source`` where the mesh stands, as ``provenance`` tells it."""
    gaussians = Frame.from_json(provenance["frame"]).gaussians(load_splat(source))
    check(target, gaussians)
    write(target, gaussians, provenance=provenance)


def write(path: Path, gaussians: Gaussians, *, provenance: Mapping[str, Any]) -> None:
    """Write ``gaussians``, of metres and +Y up, as programs for splats expect them: Y-down."""
    save_splat(path, flipped(gaussians), comment="\n".join(comments(provenance)))


def comments(provenance: Mapping[str, Any]) -> list[str]:
    """Header lines of a delivered splat: its frame, the way back to object units, what it is. ASCII, whatever the
    prompt holds."""
    frame = json.dumps(Frame.from_json(provenance["frame"]).to_json())
    asset = json.dumps({name: provenance[name] for name in ("asset_id", "prompt", "seed")})
    recipe = provenance.get("spec", {}).get("recipe", {})
    drawn = recipe.get("dress", {}).get("splat") == "mesh"
    return [
        "frame y-down",
        "metres, pivot centre-bottom, half a turn about X from the mesh in asset.glb",
        *(["drawn on that mesh; the optimised Gaussians are the stage densify_prune's"] if drawn else []),
        f"object_frame {frame}",
        f"asset {asset}",
    ]


def read(path: Path) -> Gaussians:
    """The Gaussians of a splat, in the units of the file and +Y up: :func:`load_splat` in metres."""
    return load_splat(path, frame="metres")


def load_splat(path: str | Path, *, frame: Literal["object", "metres", "file"] = "object") -> Gaussians:
    """Read a 3DGS ``.ply``. Raises :class:`DataError` that names what is missing or wrong.

    Args:
        frame: ``object`` turns a file that says it is Y-down, and goes back to object units where it says how;
            ``metres`` only turns it; ``file`` takes the numbers as they stand there.
    """
    gaussians, told = _load_splat(Path(path)), [] if frame == "file" else _comments(Path(path))
    if "frame y-down" in told:
        gaussians = flipped(gaussians)
    way = next((line.partition(" ")[2] for line in told if line.startswith("object_frame ")), None)
    if way is None or frame != "object":
        return gaussians
    try:
        return Frame.from_json(json.loads(way)).inverse().gaussians(gaussians)
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        raise DataError(f"{path}: the header line object_frame {way[:80]!r} is not understood; remove it") from None


def _load_splat(path: Path) -> Gaussians:
    table = _read_vertices(path)
    if "packed_position" in table:
        raise DataError(f"{path} is a compressed splat file (packed_position): convert it to a plain 3DGS .ply first")
    needed = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
    needed += [f"rot_{i}" for i in range(4)]
    missing = [name for name in needed if name not in table]
    if missing:
        raise DataError(
            f"{path} is not a Gaussian splat file: vertex properties {', '.join(missing)} are missing "
            f"(it has {', '.join(table)})"
        )
    rest = sum(bool(re.fullmatch(r"f_rest_\d+", name)) for name in table)
    if rest not in _REST_COUNTS or any(f"f_rest_{i}" not in table for i in range(rest)):
        raise DataError(
            f"{path} has {rest} f_rest_* properties; expected f_rest_0.. counting 0, 9, 24 or 45 (SH degree 0 to 3)"
        )
    n, k = len(table["x"]), _REST_COUNTS[rest]

    def stack(*names: str) -> np.ndarray:
        return np.stack([table[name].astype(np.float32) for name in names], axis=1)

    shN = (
        stack(*(f"f_rest_{i}" for i in range(rest))).reshape(n, 3, k).transpose(0, 2, 1)
        if rest
        else np.zeros((n, 0, 3), np.float32)
    )
    arrays = {
        "means": stack("x", "y", "z"),
        "quats": stack(*(f"rot_{i}" for i in range(4))),
        "scales": stack("scale_0", "scale_1", "scale_2"),
        "opacities": table["opacity"].astype(np.float32),
        "sh0": stack("f_dc_0", "f_dc_1", "f_dc_2")[:, None],
        "shN": shN,
    }
    for name, value in arrays.items():
        _refuse_nonfinite(path, name, value)
    return Gaussians(**{name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()})


def save_points(path: str | Path, points: PointCloud) -> None:
    """Write ``points`` as float ``x y z`` and uchar ``red green blue``, and ``metallic roughness`` where they have
    a finish (15 or 17 bytes a point)."""
    shares = points.rgb if points.finish is None else torch.cat([points.rgb, points.finish], dim=1)
    names = ("red", "green", "blue", *FINISH)[: shares.shape[1]]
    rows = np.zeros(len(points), dtype=[("xyz", "<f4", 3), ("shares", "u1", len(names))])
    rows["xyz"] = points.xyz.detach().cpu().numpy()
    rows["shares"] = np.rint(shares.detach().cpu().numpy().clip(0, 1) * 255)
    properties = [("float", name) for name in "xyz"] + [("uchar", name) for name in names]
    write_bytes(Path(path), _header(len(points), properties) + rows.tobytes())


def load_points(path: str | Path) -> PointCloud:
    """Read a coloured point cloud: integer colours are divided by their range, float colours taken as [0, 1]; so are
    metallic and roughness where the file has both.

    A splat file is read as the points at its means; a file without colours gives mid grey.
    """
    table = _read_vertices(Path(path))
    missing = [name for name in "xyz" if name not in table]
    if missing:
        raise DataError(
            f"{path} has no points: vertex properties {', '.join(missing)} are missing (it has {', '.join(table)})"
        )
    xyz = np.stack([table[name].astype(np.float32) for name in "xyz"], axis=1)
    _refuse_nonfinite(path, "x, y, z", xyz)
    for names in (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")):
        if all(name in table for name in names):
            rgb = _shares(table, names)
            break
    else:
        if all(f"f_dc_{i}" in table for i in range(3)):
            rgb = np.stack([table[f"f_dc_{i}"] for i in range(3)], axis=1) * SH_C0 + 0.5
        else:
            rgb = np.full_like(xyz, 0.5)
    _refuse_nonfinite(path, "colours", rgb)
    finish = _shares(table, FINISH) if table.keys() >= set(FINISH) else None
    if finish is not None:
        _refuse_nonfinite(path, "metallic, roughness", finish)
    return PointCloud(torch.from_numpy(xyz), _in_unit(rgb), None if finish is None else _in_unit(finish))


def _in_unit(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32).clip(0, 1))


def _shares(table: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Columns ``names`` side by side, integers divided by their range."""
    columns = [table[name] for name in names]
    return np.stack([c / np.iinfo(c.dtype).max if c.dtype.kind in "iu" else c for c in columns], axis=1)


@dataclass(frozen=True)
class About:
    """What a PLY's header tells: the kind of its content, counts, comments, rows of harmonics beyond the first."""

    kind: Literal["splat", "mesh", "points"]
    vertices: int
    faces: int
    comments: tuple[str, ...]
    shN: int


def look(path: Path) -> About:
    """Read a PLY's header. Raises :class:`DataError` where it is none, or tells of more than is read."""
    with path.open("rb") as file:
        data = file.read(_HEADER_LIMIT)
    byte_order, elements, _ = _parse_header(path, data)
    if byte_order == "ascii" and path.stat().st_size > MOST_TEXT:
        raise DataError(f"{path} is text of {path.stat().st_size} bytes; save it as a binary PLY")
    counts = {name: count for name, count, _ in elements}
    for name, count in counts.items():
        check_count(path, count, {"vertex": "vertices", "face": "faces"}.get(name, f"rows of {name!r}"))
    names = {prop for name, _, properties in elements if name == "vertex" for _, prop in properties}
    if "packed_position" in names or {"f_dc_0", "opacity", "scale_0", "rot_0"} <= names:
        kind: Literal["splat", "mesh", "points"] = "splat"
    else:
        kind = "mesh" if counts.get("face") else "points"
    rest = sum(name.startswith("f_rest_") for name in names)
    return About(kind, counts.get("vertex", 0), counts.get("face", 0), tuple(_comments(path)), rest // 3)


def load_surfaces(path: Path) -> list[Surface]:
    """The triangles of a PLY with faces; polygons become fans, a mesh without colours of its own is grey."""
    data = path.read_bytes()
    byte_order, elements, start = _parse_header(path, data)
    cloud = load_points(path)
    try:
        faces = np.array(_faces(_Cursor(data, byte_order, start), elements), dtype=np.int64).reshape(-1, 3)
    except (struct.error, IndexError, ValueError) as error:
        raise DataError(f"{path} is cut short, or its faces are not lists of vertex numbers: {error}") from None
    check_count(path, len(faces), "triangles")
    at = corners_of(path, np.concatenate([cloud.xyz.numpy(), cloud.rgb.numpy()], axis=1).astype(np.float64), faces)
    return [Surface(at[..., :3], at[..., 3:])]


class _Cursor:
    """Walks through the body of a PLY, value by value: for faces, whose rows are of different lengths."""

    def __init__(self, data: bytes, byte_order: str, start: int) -> None:
        self._order, self._data = byte_order, data
        self._words, self._at = (data[start:].split(), 0) if byte_order == "ascii" else ([], start)

    def take(self, kind: str, count: int) -> Sequence[float]:
        """The next ``count`` numbers of a numpy kind."""
        begin = self._at
        if self._order == "ascii":
            self._at += count
            if count < 0 or self._at > len(self._words):
                raise IndexError(f"{count} numbers at {begin} of {len(self._words)}")
            return [float(word) for word in self._words[begin : self._at]]
        form = f"{self._order}{count}{_STRUCT[kind]}"
        self._at += struct.calcsize(form)
        return struct.unpack_from(form, self._data, begin)


def _faces(cursor: _Cursor, elements: list[tuple[str, int, list[tuple[str, str]]]]) -> list[tuple[int, int, int]]:
    """Triangles of the ``face`` element; polygons become fans."""
    faces: list[tuple[int, int, int]] = []
    for name, count, properties in elements:
        for _ in range(count):
            for kind, prop in properties:
                if not kind.startswith("list"):
                    cursor.take(kind, 1)
                    continue
                _, count_kind, item_kind = kind.split()
                items = cursor.take(item_kind, int(cursor.take(count_kind, 1)[0]))
                if name == "face" and prop in ("vertex_indices", "vertex_index"):
                    faces += fan([int(item) for item in items])
        if name == "face":
            break
    return faces


def _comments(path: Path) -> list[str]:
    with path.open("rb") as file:
        data = file.read(_HEADER_LIMIT)
    head = data[: _parse_header(path, data)[2]].decode("latin-1")
    return re.findall(r"^comment (.*?)\s*$", head, re.MULTILINE)


def _header(count: int, properties: list[tuple[str, str]], comment: str = "") -> bytes:
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {each}" for each in comment.splitlines())]
    lines += [f"element vertex {count}"]
    lines += [f"property {kind} {name}" for kind, name in properties] + ["end_header", ""]
    return "\n".join(lines).encode("ascii")


def _refuse_nonfinite(path: str | Path, name: str, value: np.ndarray) -> None:
    bad = value.shape[0] - int(np.isfinite(value.reshape(value.shape[0], -1)).all(axis=1).sum()) if value.size else 0
    if bad:
        raise DataError(
            f"{path}: {bad} of {value.shape[0]} vertices have NaN or infinite {name}; remove them and try again"
        )


def elements_of(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Columns of every element by element and property, for files without lists. Raises :class:`DataError`."""
    return dict(_elements(path))


def _read_vertices(path: Path) -> dict[str, np.ndarray]:
    """Columns of the ``vertex`` element by property name."""
    seen = []
    for name, columns in _elements(path):
        if name == "vertex":
            return columns
        seen.append(name)
    raise DataError(f"{path} has no vertex element (it has {', '.join(seen) or 'none'})")


def _elements(path: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Each element in turn, with its columns by property name."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    byte_order, elements, offset = _parse_header(path, data)
    words, token = data[offset:].split() if byte_order == "ascii" else [], 0
    for name, count, properties in elements:
        if any(kind.startswith("list") for kind, _ in properties):
            if name == "vertex":
                raise DataError(f"{path}: list properties in the vertex element are not supported")
            raise DataError(
                f"{path}: element {name!r} with a list property stands before 'vertex'; write the vertices first"
            )
        if byte_order == "ascii":
            yield name, _ascii_columns(path, words[token:], count, properties)
            token += count * len(properties)
            continue
        dtype = np.dtype([(prop, byte_order + kind) for kind, prop in properties])
        size = count * dtype.itemsize
        if offset + size > len(data):
            raise DataError(
                f"{path} is cut short: {count} {name} rows need {size} bytes, {len(data) - offset} are there"
            )
        rows = np.frombuffer(data, dtype, count, offset)
        yield name, {prop: rows[prop].astype(rows[prop].dtype.newbyteorder("=")) for _, prop in properties}
        offset += size


def _ascii_columns(
    path: Path, words: list[bytes], count: int, properties: list[tuple[str, str]]
) -> dict[str, np.ndarray]:
    width = len(properties)
    if len(words) < count * width:
        raise DataError(
            f"{path} is cut short: {count} vertex rows need {count * width} numbers, {len(words)} are there"
        )
    try:
        values = np.array(words[: count * width], dtype=np.float64).reshape(count, width)
    except ValueError as error:
        raise DataError(f"{path}: the vertex rows hold something that is not a number: {error}") from None
    return {name: values[:, i].astype(kind) for i, (kind, name) in enumerate(properties)}


def _parse_header(path: Path, data: bytes) -> tuple[str, list[tuple[str, int, list[tuple[str, str]]]], int]:
    """Byte order ("<", ">", "ascii"), elements as (name, count, properties), start of the body.

    A property is (numpy kind, name), or ("list <count's kind> <items' kind>", name).
    """
    if data[:3] != b"ply":
        raise DataError(f"{path} is not a PLY file: it starts with {data[:8]!r}")
    end = re.search(rb"end_header[ \t]*(\r\n|\n|\r)", data[:_HEADER_LIMIT])
    if end is None:
        raise DataError(f"{path}: the PLY header has no end_header line")
    byte_order = ""
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []
    for line in data[: end.start()].decode("latin-1").splitlines()[1:]:
        words = line.split()
        try:
            if not words or words[0] in ("comment", "obj_info"):
                continue
            if words[0] == "format":
                byte_order = {"ascii": "ascii", "binary_little_endian": "<", "binary_big_endian": ">"}[words[1]]
            elif words[0] == "element":
                elements.append((words[1], _count(words[2]), []))
            elif words[0] == "property" and words[1] == "list":
                count_kind, item_kind = _NUMBER_TYPES[words[2]], _NUMBER_TYPES[words[3]]
                elements[-1][2].append((f"list {count_kind} {item_kind}", words[4]))
            elif words[0] == "property":
                if any(name == words[2] for _, name in elements[-1][2]):
                    raise ValueError
                elements[-1][2].append((_NUMBER_TYPES[words[1]], words[2]))
            else:
                raise ValueError
        except (KeyError, IndexError, ValueError):
            raise DataError(f"{path}: the PLY header line {line[:80]!r} is not understood") from None
    if not byte_order:
        raise DataError(f"{path}: the PLY header has no format line")
    return byte_order, elements, end.end()


def _count(word: str) -> int:
    count = int(word)
    if count < 0:
        raise ValueError(word)
    return count
