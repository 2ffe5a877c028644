"""The asset's splat in the formats of viewers and engines (:data:`pipeline_core.io.splats.SPLAT_FORMATS`)."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline_core.io.splats import SPLAT_FORMATS
from pipeline_core.io.xmp import mark_file
from pipeline_core.packing.finished import SPLAT, Finished
from pipeline_core.packing.profiles import Profile


def pack(asset: Finished, profile: Profile, target: Path) -> None:
    """Write the splat in the format of the target's ending; where the mesh is, in the frame that readers expect.

    A PLY is the file that was delivered, unless that is from before splats were in metres.
    """
    if target.name == f"{asset.name}.ply" and ("frame" in asset.told or asset.frame is None):
        shutil.copyfile(asset.path(SPLAT), target)
        return
    row = max((row for row in SPLAT_FORMATS.values() if target.name.endswith(row.suffix)), key=lambda r: len(r.suffix))
    frame = {"frame": asset.frame.to_json()} if asset.frame else {}
    row.write(target, asset.splat, provenance=frame | asset.told)
    if target.suffix == ".glb":
        mark_file(target, asset.mark)
