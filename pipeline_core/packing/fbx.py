"""FBX, which Blender writes: it reads the profile's GLB and is told the engine's unit and axes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline_core.errors import DataError
from pipeline_core.files import replaced
from pipeline_core.packing.finished import Finished
from pipeline_core.packing.glb import scene_of
from pipeline_core.packing.profiles import Profile
from pipeline_core.packing.textures import write_maps
from pipeline_core.packing.tools import command

SCRIPT = Path(__file__).with_name("in_blender.py")
PATIENCE_S = 300.0


def pack(asset: Finished, profile: Profile, target: Path) -> None:
    """Write the FBX: levels that the engine tells by their names under one LOD group, base colour and normals inside,
    all maps beside it too (FBX knows no ORM)."""
    levels = "nodes" if profile.levels in ("nodes", "msft") else ""
    write_maps(asset, target.parent)
    with TemporaryDirectory(prefix="splatmill-fbx-") as name:
        folder = Path(name)
        source, made = folder / "scene.glb", folder / "scene.fbx"
        source.write_bytes(scene_of(asset, replace(profile, levels=levels)))
        told = {"asset_id": str(asset.asset_id), "prompt": str(asset.prompt)}
        asked = {"settings": dict(profile.fbx), "group": profile.mesh_of(asset.name) if levels else "", "told": told}
        words = [*command("blender"), str(SCRIPT), "--", str(source), str(made), json.dumps(asked)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        except subprocess.TimeoutExpired:
            raise DataError(f"{target.name}: Blender took more than {PATIENCE_S:g} s") from None
        if done.returncode or not made.is_file():
            raise DataError(f"{target.name}: Blender failed: {(done.stderr or done.stdout).strip()[-500:]}")
        with replaced(target) as scratch:
            scratch.write_bytes(made.read_bytes())
