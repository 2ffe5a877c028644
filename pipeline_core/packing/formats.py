"""The table of formats: what ``splatmill export`` writes of a finished asset for ``--format``, one row each.

To add one: ``packing/<module>.py`` with a function (:class:`Writer`), and its row here. It loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from pipeline_core.errors import RequestError
from pipeline_core.packing.profiles import Profile

if TYPE_CHECKING:  # it loads torch
    from pipeline_core.packing.finished import Finished


class Writer(Protocol):
    """What a row's writer is."""

    def __call__(self, asset: Finished, profile: Profile, target: Path) -> None:
        """Write ``target``, in a private folder where other files of this asset and format may lie beside it.

        Raises :class:`DataError` for an asset that cannot be written so.
        """


@dataclass(frozen=True)
class Format:
    """One row.

    Args:
        name: what ``--format`` says.
        suffix: of its file; the name before it is the profile's.
        of: what of the asset it holds, ``mesh`` or ``splat``.
        text: what it is, in words.
        writer: ``module.function`` in this package.
        tool: the row of ``tools`` without which it cannot be written; empty = none.
    """

    name: str
    suffix: str
    of: str
    text: str
    writer: str
    tool: str = ""

    def write(self) -> Writer:
        """The function that writes it."""
        module, _, function = self.writer.rpartition(".")
        return cast(Writer, getattr(import_module(f"{__package__}.{module}"), function))


# fmt: off
FORMATS: tuple[Format, ...] = (
    Format("glb", ".glb", "mesh", "glTF: mesh, maps, levels and collision as the profile says", "glb.pack"),
    Format("usdz", ".usdz", "mesh", "for AR on Apple's devices: the mesh and its maps in one file", "usd.pack_usdz",
           tool="usd"),
    Format("usd", ".usd", "mesh", "OpenUSD: levels and splat as variants, collision; textures beside it", "usd.pack",
           tool="usd"),
    Format("obj", ".obj", "mesh", "Wavefront OBJ with its MTL; textures beside it", "obj.pack"),
    Format("stl", ".stl", "mesh", "binary STL for printing: shape alone, millimetres, +Z up", "stl.pack"),
    Format("fbx", ".fbx", "mesh", "FBX, through Blender: levels, collision, base colour and normals inside", "fbx.pack",
           tool="blender"),
    Format("ply", ".ply", "splat", "the splat in the 3DGS layout, as it was delivered", "splat.pack"),
    Format("compressed-ply", ".compressed.ply", "splat", "the splat, packed as SuperSplat packs it", "splat.pack"),
    Format("spz", ".spz", "splat", "the splat as SPZ 2", "splat.pack"),
    Format("sog", ".sog", "splat", "the splat as SOG 2", "splat.pack"),
    Format("splat-glb", ".splat.glb", "splat", "the splat as glTF with KHR_gaussian_splatting", "splat.pack"),
)
# fmt: on


def formats(names: Sequence[str]) -> list[Format]:
    """The rows of these names, each once. Raises :class:`RequestError` for a name that no row has."""
    rows = {row.name: row for row in FORMATS}
    unknown = [name for name in names if name not in rows]
    if unknown or not names:
        raise RequestError(f"--format {','.join(unknown)}: some of {', '.join(rows)}, with commas between them")
    return [rows[name] for name in dict.fromkeys(names)]
