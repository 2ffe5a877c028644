"""The asset's splat in the formats of viewers and engines."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline_core.io.ply import write
from pipeline_core.packing.finished import SPLAT, Finished
from pipeline_core.packing.profiles import Profile


def ply(asset: Finished, profile: Profile, target: Path) -> None:
    """The file that was delivered; that of an asset from before it was in metres is turned and scaled as now."""
    if "frame" in asset.told or asset.frame is None:
        shutil.copyfile(asset.path(SPLAT), target)
    else:
        write(target, asset.splat, provenance=asset.told | {"frame": asset.frame.to_json()})
