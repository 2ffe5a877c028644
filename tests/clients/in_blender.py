"""Run with Blender's Python: import files, tell of each as a line ``LOOK {...}``, and draw the last where asked.

    in_blender.py --picture picture.png a.glb b.usd
"""

import json
import sys
from math import radians
from pathlib import Path

import bpy
from mathutils import Vector

IMPORT = {
    ".glb": bpy.ops.import_scene.gltf,
    ".fbx": bpy.ops.wm.fbx_import,
    ".obj": bpy.ops.wm.obj_import,
    ".stl": bpy.ops.wm.stl_import,
    ".usd": bpy.ops.wm.usd_import,
    ".usdz": bpy.ops.wm.usd_import,
}


def look(path):
    """What a file brings, in Blender's own units and axes (metres, +Z up, front -Y)."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    IMPORT[path.suffix](filepath=str(path))
    found = {}
    for each in bpy.context.scene.objects:
        if each.type != "MESH":
            continue
        corners = [each.matrix_world @ vertex.co for vertex in each.data.vertices]
        found[each.name] = {
            "low": [min(corner[axis] for corner in corners) for axis in range(3)],
            "high": [max(corner[axis] for corner in corners) for axis in range(3)],
            "faces": len(each.data.polygons),
            "parent": each.parent.name if each.parent else "",
            "told": {key: str(value) for key, value in each.items()},
            "materials": {
                slot.name: sorted({n.image.name for n in slot.node_tree.nodes if n.type == "TEX_IMAGE" and n.image})
                for slot in each.data.materials
            },
        }
    return {"unit": bpy.context.scene.unit_settings.scale_length, "meshes": found}


def draw(target):
    """A picture from the front and above, lit from everywhere."""
    scene = bpy.context.scene
    meshes = [each for each in scene.objects if each.type == "MESH" and each.data.materials]
    corners = [each.matrix_world @ Vector(corner) for each in meshes for corner in each.bound_box]
    low, high = (Vector([end(corner[axis] for corner in corners) for axis in range(3)]) for end in (min, max))
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.data.angle = radians(35)
    away = Vector((0, -1, 0.7)).normalized()
    camera.location = (low + high) / 2 + away * 2.2 * (high - low).length
    camera.rotation_euler = away.to_track_quat("Z", "Y").to_euler()
    scene.collection.objects.link(camera)
    world = bpy.data.worlds.new("world")
    world.use_nodes = True
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (1, 1, 1, 1)
    scene.world, scene.camera = world, camera
    scene.render.engine, scene.cycles.samples, scene.cycles.device = "CYCLES", 16, "CPU"
    scene.view_settings.view_transform = "Standard"
    scene.render.resolution_x = scene.render.resolution_y = 512
    scene.render.filepath = str(target)
    bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    picture = Path(words.pop(1)) if words[0] == "--picture" else None
    for name in words[1:] if picture else words:
        print("LOOK " + json.dumps({name: look(Path(name))}))
    if picture:
        draw(picture)
