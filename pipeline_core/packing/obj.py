"""OBJ and its MTL, for whatever reads nothing newer. Textures lie beside them in ``textures/``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pipeline_core.files import write_bytes, write_text
from pipeline_core.packing.finished import Finished
from pipeline_core.packing.profiles import Profile
from pipeline_core.packing.textures import write_channels, write_maps


def pack(asset: Finished, profile: Profile, target: Path) -> None:
    """Write the mesh: +Y up, front +Z, in the profile's unit; names and provenance are comments of one line."""
    mesh, name = asset.mesh, profile.mesh_of(asset.name)
    low = [
        f"# {json.dumps({'prompt': asset.prompt, 'asset_id': asset.asset_id})}",
        f"# unit: {profile.obj_unit_m:g} m, +Y up, front +Z",
        f"mtllib {target.with_suffix('.mtl').name}",
        f"o {name}",
    ]
    uvs = np.stack([mesh.uvs[:, 0], 1 - mesh.uvs[:, 1]], axis=1)
    corners = (mesh.faces + 1).repeat(3, axis=1).reshape(-1, 9)
    parts = [
        "\n".join(low),
        _lines("v %.7g %.7g %.7g", mesh.vertices.astype(np.float64) / profile.obj_unit_m),
        _lines("vt %.7g %.7g", uvs),
        _lines("vn %.5f %.5f %.5f", mesh.normals),
        f"usemtl M_{asset.name}",
        _lines("f %d/%d/%d %d/%d/%d %d/%d/%d", corners),
    ]
    write_bytes(target, ("\n".join(parts) + "\n").encode())
    write_text(target.with_suffix(".mtl"), _material(asset, target.parent))


def _lines(pattern: str, rows: np.ndarray) -> str:
    return "\n".join([pattern] * len(rows)) % tuple(rows.reshape(-1).tolist())


def _material(asset: Finished, folder: Path) -> str:
    """The MTL, with the metallic-roughness keys (Pm, Pr, norm) that newer readers know."""
    maps = write_maps(asset, folder)
    channels = write_channels(asset, folder)
    pbr = asset.material.get("pbrMetallicRoughness", {})
    told = {
        "map_Kd": maps.get("BC"),
        "norm": maps.get("N"),
        "map_Ke": maps.get("E"),
        "map_Pr": channels.get("R"),
        "map_Pm": channels.get("M"),
    }
    lines = [f"newmtl M_{asset.name}", "Kd 1 1 1", "Ks 0 0 0", "d 1"]
    lines += [f"Pr {pbr.get('roughnessFactor', 1.0):g}", f"Pm {pbr.get('metallicFactor', 1.0):g}"]
    lines += ["Ke 1 1 1"] if "E" in maps else []
    return "\n".join(lines + [f"{key} {file}" for key, file in told.items() if file]) + "\n"
