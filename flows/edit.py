"""``splatmill edit``: a finished asset's splat is edited, and becomes another asset, made anew from the mesh on.

    request = prepare_edit("library", "mug", ["remove floaters=0.02", "recolour hue=120"], prompt="a green mug")
    run_here(request, as_json=False)

The edited splat and a manifest of one row are put into ``<library>/edits/<asset_id>/``. The row starts from the splat
(``init_file``) with the parent's recipe, where both distillations take no step: its Gaussians reach ``extract_mesh`` as
they are, and everything from there on is made by the usual stages. ``edited`` in the row, and so in ``asset.json`` and
the catalogue's view ``edits``, tells the parents, the sha256 of their splats, and every edit. The same edits of the
same splat are the same file, so they have the same keys.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from flows.batch import BatchRequest
from pipeline_core.config import RECIPES, leaf_names
from pipeline_core.errors import DataError, RequestError
from pipeline_core.files import write_text
from pipeline_core.spec import DEVICE_NAMES, ID_PATTERN, ID_RULE, AssetSpec, Edited, Parent
from pipeline_core.storage import Library

if TYPE_CHECKING:  # it loads torch
    from pipeline_core.edits import Body
    from pipeline_core.packing.finished import Finished

ON_SURFACE = 20_000
"""Points of a mesh's surface that say, beside its vertices, how large the rest of it is."""
SPLAT, MANIFEST = "splat.ply", "manifest.jsonl"
PASSED_OVER = {"init.start": "file", "init.file_frame": "auto", "init.file_turn": 0.0}
PASSED_OVER |= {"geometry.steps": 0, "appearance.steps": 0, "dress.splat": "optimised"}


def show_parts(library: str, asset_id: str, *, as_json: bool) -> None:
    """Print the parts of an asset's splat, which edits name by their numbers."""
    from catalog.render import aligned
    from pipeline_core.edits import parts

    found = parts(_Shelf(library).body(asset_id).gaussians)
    if as_json:
        print(json.dumps([asdict(part) for part in found]))
        return
    rows = [[p.number, p.gaussians, _corner(p.low), _corner(p.high), p.colour] for p in found]
    print(aligned(["part", "gaussians", "from", "to", "colour"], rows))


def _corner(at: Sequence[float]) -> str:
    return ",".join(f"{each:.3g}" for each in at)


def prepare_edit(
    library: str, asset_id: str, lines: Sequence[str], *, new_id: str = "", prompt: str = "", **request: Any
) -> BatchRequest:
    """Edit the splat of ``asset_id``, write it with its manifest, and return the request that makes an asset of it.

    Args:
        lines: the edits, as ``pipeline_core.edits`` tells them.
        new_id: the new asset's id; derived from the parent's and the edits where none is given.
        prompt: the new asset's; its parent's where none is given. Then its texture is not refined after a change of
            colour, for the prompt may still name the old one.
        request: further fields of the request.

    Raises:
        RequestError: an edit is not understood or finds nothing, or the asset would replace its parent.
        DataError: an asset is not there, or not what was delivered.
    """
    from pipeline_core.edits import edited, parse
    from pipeline_core.frame import flipped
    from pipeline_core.io.ply import save_splat

    edits = [parse(line) for line in lines]
    if not edits:
        raise RequestError(f"splatmill edit {asset_id}: what is to be done? --do 'remove floaters=0.02', say")
    shelf = _Shelf(library)
    body = edited(shelf.body(asset_id), edits, shelf.body)
    lineage = Edited(parents=tuple(shelf.parents), edits=tuple(edit.text for edit in edits))
    digest = hashlib.sha256(lineage.model_dump_json().encode()).hexdigest()
    new_id = new_id or f"{asset_id[:80].rstrip('-_')}-edit-{digest[:8]}"
    if not re.fullmatch(ID_PATTERN, new_id) or new_id in DEVICE_NAMES:
        raise RequestError(f"--as {new_id}: {ID_RULE}")
    if new_id in {parent.asset_id for parent in lineage.parents}:
        raise RequestError(f"{new_id} would replace the asset that it is edited from; give another name with --as")
    parent, folder = shelf.spec(asset_id), Library(library).create().root / "edits" / new_id
    folder.mkdir(parents=True, exist_ok=True)
    told = ["frame y-down", "metres, an edited splat", f"edited {lineage.model_dump_json()}"]
    save_splat(folder / SPLAT, flipped(body.gaussians), comment="\n".join(told))
    row: dict[str, Any] = {"id": new_id, "prompt": prompt or parent.prompt, "negative_prompt": parent.negative_prompt}
    row |= {"seed": parent.seed, "height_m": float(f"{body.height_m:.6g}"), "recipe": parent.recipe.name}
    row |= {"tags": [f"{name}={value}" if value else name for name, value in parent.tags.items()]}
    row |= _settings(parent) | PASSED_OVER | {"init.max_gaussians": max(64, len(body.gaussians))}
    if not prompt and any(edit.verb == "recolour" for edit in edits):
        row["texture.steps"] = 0
    if parent.image is not None:
        row |= {"image": _image(library, parent, folder), "image_elevation": parent.image_elevation}
    row |= {"init_file": SPLAT, "edited": lineage.model_dump(mode="json")}
    write_text(folder / MANIFEST, json.dumps(row) + "\n")
    return BatchRequest(manifest=str(folder / MANIFEST), library=library, **request)


def _settings(parent: AssetSpec) -> dict[str, Any]:
    """What the parent's recipe has other than the recipe of its name."""
    name = parent.recipe.name
    if name not in RECIPES:
        raise DataError(f"{parent.asset_id} was made with the recipe {name!r}, which is none of {', '.join(RECIPES)}")
    settings: dict[str, Any] = {}
    for leaf in leaf_names():
        theirs, ours = (reduce(getattr, leaf.split("."), recipe) for recipe in (parent.recipe, RECIPES[name]))
        if theirs != ours:
            settings[leaf] = to_jsonable_python(theirs)
    return settings


def _image(library: str, parent: AssetSpec, folder: Path) -> str:
    """The parent's picture, copied beside the manifest."""
    assert parent.image is not None
    source = Library(library).whole_input(parent.image)
    if source is None:
        raise DataError(f"{parent.asset_id}: the library's copy of its image {parent.image.name} is gone or damaged")
    (folder / parent.image.file).write_bytes(source.read_bytes())
    return parent.image.file


class _Shelf:
    """The finished assets that one command edits; it remembers which."""

    def __init__(self, library: str) -> None:
        self.library, self.parents = Library(library), list[Parent]()

    def body(self, asset_id: str) -> Body:
        """An asset's splat and points of its mesh, in metres. Raises :class:`DataError`."""
        import numpy as np
        import torch

        from pipeline_core.edits import Body
        from pipeline_core.io.gltf import load_surfaces
        from pipeline_core.io.surface import sample
        from pipeline_core.packing.finished import MESH

        asset = self._asset(asset_id)
        gaussians, mesh = asset.splat, asset.path(MESH)
        self.parents.append(Parent(asset_id=asset_id, sha256=asset.told["files"][SPLAT]["sha256"]))
        surface = sample(mesh, load_surfaces(mesh), ON_SURFACE, torch.Generator().manual_seed(0))
        return Body(gaussians, np.concatenate([asset.mesh.vertices, surface.xyz.numpy()]))

    def spec(self, asset_id: str) -> AssetSpec:
        """What an asset was asked for as."""
        return AssetSpec.from_json(self._asset(asset_id).told["spec"])

    def _asset(self, asset_id: str) -> Finished:
        from pipeline_core.packing.finished import Finished

        if not re.fullmatch(ID_PATTERN, asset_id):
            raise RequestError(f"{asset_id!r} is no asset id: {ID_RULE}")
        return Finished(self.library.asset_dir(asset_id))
