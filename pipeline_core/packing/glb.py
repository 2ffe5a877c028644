"""GLB as an engine wants it: names of its profile, levels and collision where it looks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pipeline_core.files import write_bytes
from pipeline_core.io.scene import Scene
from pipeline_core.io.xmp import mark_file
from pipeline_core.packing.compress import compress
from pipeline_core.packing.finished import Finished
from pipeline_core.packing.profiles import Profile
from pipeline_core.types import Mesh, TexturedMesh

COVERAGE = 0.5
"""Share of the screen's height down to which the asset itself is shown; each level below reaches to half of that."""
KEPT = ("emissiveFactor", "doubleSided", "alphaMode", "alphaCutoff", "extras")
"""What else of a material goes with it."""


def pack(asset: Finished, profile: Profile, target: Path) -> None:
    """Write the asset, and its levels and hulls into files of their own where the profile has them there."""
    write_bytes(target, scene_of(asset, profile))
    written = [target]
    if profile.levels == "files":
        for number in asset.levels:
            name = profile.level_of(asset.name, number)
            scene, material = _scene(asset, name)
            _add(scene, asset, number, name, material)
            written.append(target.with_name(f"{name}.glb"))
            write_bytes(written[-1], scene.glb())
    for each in written:
        mark_file(each, asset.mark)
        compress(each, profile.compress)
        if profile.compress and "ktx2" not in profile.compress:  # what encodes pictures anew loses their marks
            mark_file(each, asset.mark)
    if profile.hulls == "file" and asset.hulls:
        name = f"{profile.mesh_of(asset.name)}_collision"
        scene = Scene(name, extras=_extras(asset))
        _add_hulls(scene, asset, profile)
        write_bytes(target.with_name(f"{name}.glb"), scene.glb())
        mark_file(target.with_name(f"{name}.glb"), asset.mark)


def scene_of(asset: Finished, profile: Profile) -> bytes:
    """The GLB of the asset with all that the profile has as nodes."""
    scene, material = _scene(asset, asset.name)
    add_asset(scene, asset, profile, material)
    return scene.glb()


class Parts(Protocol):
    """What nodes are made of: a :class:`Finished`, or a kit's member."""

    @property
    def name(self) -> str:
        """A plain name."""

    @property
    def mesh(self) -> TexturedMesh:
        """The asset itself."""

    @property
    def levels(self) -> Mapping[int, TexturedMesh]:
        """Levels of detail, from 1."""

    @property
    def hulls(self) -> Sequence[Mesh]:
        """Its collision shape."""


def add_asset(scene: Scene, asset: Parts, profile: Profile, material: int, **more: object) -> None:
    """Add all that the profile has as nodes; ``more`` is what every node has, such as its ``translation``."""
    if profile.levels == "msft" and asset.levels:
        names = {number: profile.level_of(asset.name, number) for number in asset.levels}
        lower = [_add(scene, asset, number, name, material, root=False, **more) for number, name in names.items()]
        told = {
            "extensions": {"MSFT_lod": {"ids": lower}},
            "extras": {"MSFT_screencoverage": [*(COVERAGE / 2**each for each in range(len(lower))), 0.0]},
        }
        _add(scene, asset, 0, profile.level_of(asset.name, 0), material, **told, **more)
    else:
        for number in (0, *(asset.levels if profile.levels == "nodes" else ())):
            _add(scene, asset, number, profile.level_of(asset.name, number), material, **more)
    if profile.hulls == "nodes":
        _add_hulls(scene, asset, profile, **more)


def _scene(asset: Finished, name: str) -> tuple[Scene, int]:
    """A scene with the asset's provenance and material, whose pictures stay as they are."""
    document, _ = asset.document
    scene = Scene(name, extras=_extras(asset), copyright=document["asset"].get("copyright"))
    made = {suffix: scene.texture(f"T_{asset.name}_{suffix}", data) for suffix, data in asset.maps.items()}
    pbr = asset.material.get("pbrMetallicRoughness", {})
    material = scene.material(
        f"M_{asset.name}",
        base=made.get("BC"),
        orm=made.get("ORM"),
        normal=made.get("N"),
        emissive=made.get("E"),
        metallic=pbr.get("metallicFactor", 1.0),
        roughness=pbr.get("roughnessFactor", 1.0),
        **{key: asset.material[key] for key in KEPT if key in asset.material},
    )
    return scene, material


def _extras(asset: Finished) -> dict[str, object]:
    extras: dict[str, object] = asset.document[0]["asset"].get("extras", {})
    return extras


def _add(scene: Scene, asset: Parts, number: int, name: str, material: int, **more: object) -> int:
    """A node of the asset's level ``number``, 0 = the asset itself."""
    surface = scene.surface(asset.levels[number] if number else asset.mesh, material)
    return scene.node(name, scene.mesh(name, [surface]), **more)  # type: ignore[arg-type]


def _add_hulls(scene: Scene, asset: Parts, profile: Profile, **more: object) -> None:
    for number, hull in enumerate(asset.hulls):
        name = profile.hull_of(asset.name, number)
        primitive = scene.primitive({"POSITION": hull.vertices}, hull.faces)
        scene.node(name, scene.mesh(name, [primitive]), **more)  # type: ignore[arg-type]
