"""``splatmill kit``: chosen assets as one, on one atlas and one material."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from catalog.render import aligned
from catalog.store import open_store
from flows.export import check_target, choose, folder_of
from pipeline_core.errors import RequestError
from pipeline_core.files import disk_errors
from pipeline_core.io.gltf import slug
from pipeline_core.packing.finished import Finished
from pipeline_core.packing.kit import make_kit, write
from pipeline_core.packing.profiles import profile

SHRUNK = 0.75
"""A page that keeps less than this share of its texels a side is told of."""


def show_kit(
    library: str,
    select: Sequence[str],
    target: Path,
    name: str,
    *,
    profile_name: str,
    size: int,
    overwrite: bool,
    rejected: bool,
    as_json: bool,
) -> None:
    """Make a kit of what is selected and print what became of it."""
    store, row, name = open_store(library), profile(profile_name), slug(name)
    check_target(store, target)
    if (target / f"{name}.glb").exists() and not overwrite:
        raise RequestError(f"{target / f'{name}.glb'} is there already: --overwrite replaces it, --name gives another")
    chosen = choose(library, select, rejected=rejected)
    with ExitStack() as folders, disk_errors(target):
        kit = make_kit(name, [Finished(folders.enter_context(folder_of(store, each))) for each in chosen], most=size)
        files = write(kit, target, row)
    if as_json:
        told = {"kit": name, "size": kit.size, "spread": kit.spread, "scales": dict(kit.scales)}
        print(json.dumps(told | {"files": [str(each) for each in files]}))
        return
    rows = [[each, f"{kit.scales[each]:.2f}", f"{kit.densities[each]:.0f}"] for each in kit.scales]
    print(aligned(["asset", "scale of its page", "texels a metre"], rows))
    shrunk = [each for each, scale in kit.scales.items() if scale < SHRUNK]
    if shrunk:
        print(f"\nfiner than the kit, shrunk: {', '.join(shrunk)}; a larger --size, or kits of like sizes, keep them")
    print(f"\n{len(chosen)} assets on one atlas of {kit.size} texels: {files[0]}")
