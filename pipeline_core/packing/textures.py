"""A material's pictures as files in ``textures/``, for formats that cannot hold them."""

from __future__ import annotations

from pathlib import Path

from pipeline_core.files import write_bytes
from pipeline_core.io.images import encode_png
from pipeline_core.io.xmp import marked
from pipeline_core.packing.finished import Finished

FOLDER = "textures"
_ENDINGS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"RIFF": ".webp"}


def write_maps(asset: Finished, folder: Path) -> dict[str, str]:
    """Write the maps as they are; returns their places relative to ``folder`` by suffix."""
    places = {}
    for suffix, data in asset.maps.items():
        ending = next(ending for start, ending in _ENDINGS.items() if data.startswith(start))
        places[suffix] = f"{FOLDER}/T_{asset.name}_{suffix}{ending}"
        write_bytes(folder / places[suffix], data)
    return places


def write_channels(asset: Finished, folder: Path) -> dict[str, str]:
    """Roughness (R) and metallic (M) as grey pictures, for formats whose maps have one channel; none without ORM."""
    orm = asset.mesh.orm
    if orm is None:
        return {}
    places = {}
    for suffix, channel in (("R", 1), ("M", 2)):
        places[suffix] = f"{FOLDER}/T_{asset.name}_{suffix}.png"
        write_bytes(folder / places[suffix], marked(encode_png(orm[..., channel]), asset.mark))
    return places
