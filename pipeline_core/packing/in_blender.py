"""Run by Blender, or by a Python with its module: ``in_blender.py -- scene.glb scene.fbx '{"settings": {}, ...}'``."""

from __future__ import annotations

import json
import sys
from typing import Any

import bpy


def main(source: str, target: str, asked: dict[str, Any]) -> None:
    """Read a GLB and write an FBX; ``group`` names the parent of its levels of detail, empty = none."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_scene.gltf(filepath=source)
    parts = list(bpy.context.scene.objects)
    for part in parts:
        for name, value in asked["told"].items():
            part[name] = value
    levels = [part for part in parts if part.name.rpartition("_LOD")[2].isdigit() and not part.name.startswith("UCX_")]
    if asked["group"] and len(levels) > 1:
        group = bpy.data.objects.new(asked["group"], None)
        group["fbx_type"] = "LodGroup"
        bpy.context.scene.collection.objects.link(group)
        for level in levels:
            level.parent = group
    bpy.ops.export_scene.fbx(
        filepath=target, path_mode="COPY", embed_textures=True, mesh_smooth_type="OFF", use_custom_props=True,
        add_leaf_bones=False, object_types={"EMPTY", "MESH"}, **asked["settings"],
    )  # fmt: skip


if __name__ == "__main__":
    words = sys.argv[sys.argv.index("--") + 1 :]
    main(words[0], words[1], json.loads(words[2]))
