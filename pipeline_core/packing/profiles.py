"""The table of profiles: what each engine wants its files, meshes, levels of detail and collision hulls to be named.

``--profile`` of ``splatmill export`` takes one of these names. GLB, USD and FBX say their own axes and unit (glTF: +Y
up, metres), which every importer turns into its engine's; OBJ and STL do not, so the row has the unit of OBJ. To add an
engine: its row here. Loads neither torch nor Prefect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline_core.errors import RequestError

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)", re.IGNORECASE)
"""Names that Windows gives to no file."""


@dataclass(frozen=True)
class Profile:
    """One row. Patterns are of ``str.format``: ``asset`` is the asset's plain name, ``mesh`` what ``mesh`` gave.

    Args:
        name: what ``--profile`` says.
        engine: who it is for, in words.
        mesh: name of the mesh, its node and its files.
        level: of a level of detail, with ``number``, in its file or as a node.
        hull: of a collision hull, with ``number`` from 0.
        levels: where levels of detail go: ``nodes`` of the scene, which the importer gathers by their names; ``msft``,
            out of the scene and named by MSFT_lod; ``files`` of their own; or empty, nowhere.
        hulls: where collision goes: ``nodes`` of the scene, a ``file`` of its own, or empty, nowhere.
        obj_unit_m: length of one unit of an OBJ in metres.
        formats: what is written where ``--format`` says nothing.
        compress: rows of ``compress`` that every GLB goes through.
        fbx: settings of Blender's exporter.
    """

    name: str
    engine: str
    mesh: str = "{asset}"
    level: str = "{mesh}_LOD{number}"
    hull: str = "{mesh}_collision{number}"
    levels: str = "files"
    hulls: str = "file"
    obj_unit_m: float = 1.0
    formats: tuple[str, ...] = ("glb",)
    compress: tuple[str, ...] = ()
    fbx: Mapping[str, Any] = field(default_factory=dict)

    def mesh_of(self, asset: str) -> str:
        """The asset's mesh."""
        return self.mesh.format(asset=asset)

    def level_of(self, asset: str, number: int) -> str:
        """A level of detail; level 0 where levels are told by their names, else the mesh itself."""
        mesh = self.mesh_of(asset)
        return mesh if number == 0 and self.levels != "nodes" else self.level.format(mesh=mesh, number=number)

    def hull_of(self, asset: str, number: int) -> str:
        """A collision hull; it is the hull of level 0, by whose name Unreal finds what it belongs to."""
        return self.hull.format(mesh=self.level_of(asset, 0), number=number)


CENTIMETRES = {"apply_scale_options": "FBX_SCALE_NONE"}
METRES = {"apply_scale_options": "FBX_SCALE_ALL", "bake_space_transform": True}

# fmt: off
PROFILES: tuple[Profile, ...] = (
    Profile("unreal", "Unreal Engine 5 (Interchange)", mesh="SM_{asset}", hull="UCX_{mesh}_{number:02d}",
            levels="nodes", hulls="nodes", obj_unit_m=0.01, fbx=CENTIMETRES),
    Profile("unity", "Unity 6 (FBX, or GLB by glTFast or UnityGLTF)", levels="msft", fbx=METRES),
    Profile("godot", "Godot 3 and 4", hull="{mesh}_{number}-convcolonly", hulls="nodes", fbx=METRES),
    Profile("blender", "Blender 3.4 and later", fbx=METRES),
    Profile("web", "three.js, model-viewer, Babylon.js", hulls="", compress=("webp", "meshopt"), fbx=METRES),
)
# fmt: on


def profile(name: str) -> Profile:
    """The row of that name. Raises :class:`RequestError` for a name that no row has."""
    found = next((row for row in PROFILES if row.name == name), None)
    if found is None:
        raise RequestError(f"--profile {name}: one of {', '.join(row.name for row in PROFILES)}")
    return found


def safe(name: str) -> str:
    """``name``, a plain asset id, as a file's name on every system."""
    return f"{name}_" if RESERVED.fullmatch(name) else name
