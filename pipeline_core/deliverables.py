"""The table of deliverables: what an artist takes, one row a file, and how each is written.

``record`` writes what the stages made something for; the catalogue has a column ``<role>_path`` for each row, the
gallery a link or a picture. To add a format: ``io/<exporter>.py`` with a function ``export`` (:class:`Exporter`), and
its row here. Loads neither torch nor Prefect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from pipeline_core.spec import AssetSpec


class Exporter(Protocol):
    """What a format's file in ``io/`` has as ``export``."""

    def __call__(self, source: Path, target: Path, *, spec: AssetSpec, provenance: Mapping[str, Any]) -> None:
        """Write ``target`` from ``source``, a stage's output; ``provenance`` says where the asset comes from (JSON)."""


@dataclass(frozen=True)
class Deliverable:
    """One row.

    Args:
        role: what the catalogue calls it.
        text: what it is, in the catalogue's words.
        file: its name in ``assets/<asset_id>/``.
        media_type: IANA's.
        source: the stage output that it is made from; where no stage wrote one, there is no such deliverable.
        exporter: the module in ``io/`` that writes it; empty = a copy of the source.
        label: the words of its link in the gallery; empty = it is no link.
        main: whether it is the asset itself: the catalogue also has its sha256 and size, the gallery a page of it.
        picture: whether it is shown on the gallery's card, and so copied into a gallery away from the library.
    """

    role: str
    text: str
    file: str
    media_type: str
    source: str
    exporter: str = ""
    label: str = ""
    picture: bool = False
    main: bool = False

    def export(self) -> Exporter:
        """The function that writes it."""
        return cast(Exporter, import_module(f"pipeline_core.io.{self.exporter}").export)


# fmt: off
DELIVERABLES: tuple[Deliverable, ...] = (
    Deliverable("glb", "the textured mesh", "asset.glb", "model/gltf-binary", "asset.glb", exporter="gltf", label="GLB",
                main=True),
    Deliverable("lods", "levels of detail with one material", "lods.glb", "model/gltf-binary", "lods.glb",
                exporter="levels", label="levels"),
    Deliverable("collision", "convex bodies to collide with", "collision.glb", "model/gltf-binary", "collision.glb",
                exporter="levels", label="collision"),
    Deliverable("splat", "the Gaussian splat", "splat.ply", "application/x-ply", "splat.ply", exporter="ply",
                label="splat"),
    Deliverable("preview", "the picture", "preview.png", "image/png", "preview.png", picture=True),
    Deliverable("turntable", "the turning picture", "turntable.webp", "image/webp", "turntable.webp", picture=True),
    Deliverable("stages", "the work in five pictures: start, after geometry, splat, mesh without colour, textured",
                "stages.webp", "image/webp", "stages.webp", picture=True),
)
# fmt: on

PROVENANCE = "asset.json"
"""Beside the deliverables: prompt, seed, resolved recipe, models, metrics, and the sha256 of every file."""

OTHER_MEDIA_TYPES = {".ply": "application/x-ply", ".json": "application/json", ".npz": "application/octet-stream"}
"""By suffix, for outputs of stages that are no deliverable."""


def role(file: str) -> str:
    """What a file is for: its row's role, else its name before the dot."""
    return next((row.role for row in DELIVERABLES if row.file == file), file.partition(".")[0])


def media_type(file: str) -> str:
    """The media type of a file by its row, else by its suffix."""
    by_suffix = OTHER_MEDIA_TYPES | {Path(row.file).suffix: row.media_type for row in DELIVERABLES}
    return by_suffix.get(Path(file).suffix, "application/octet-stream")
