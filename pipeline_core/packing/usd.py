"""OpenUSD: the asset as a component, +Y up in metres, with UsdPreviewSurface; and USDZ, one file for AR.

The USD has what an engine wants as well: variants ``LOD`` (LOD0, LOD1, ...; Unreal makes levels of them), hulls for
UsdPhysics, and the variants ``representation`` = mesh or splat (ParticleField3DGaussianSplat, OpenUSD 26.03 and later).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pxr import Gf, Kind, Sdf, Tf, Usd, UsdGeom, UsdPhysics, UsdShade, UsdUtils, UsdVol, Vt

from pipeline_core.errors import DataError
from pipeline_core.files import replaced
from pipeline_core.packing.finished import SPLAT, Finished
from pipeline_core.packing.profiles import Profile
from pipeline_core.packing.textures import write_maps
from pipeline_core.types import Gaussians, Mesh, TexturedMesh


def pack(asset: Finished, profile: Profile, target: Path) -> None:
    """Write the USD (binary), its textures beside it."""
    stage, root = _stage(asset, profile)
    material = _material(stage, root, asset, write_maps(asset, target.parent))
    place = root.AppendChild(Tf.MakeValidIdentifier(profile.mesh_of(asset.name)))

    def mesh() -> None:
        levels = {f"LOD{number}": level for number, level in ({0: asset.mesh} | asset.levels).items()}
        _variants(stage, root, "LOD", {name: _draw(stage, place, level, material) for name, level in levels.items()})

    def splat() -> None:
        _add_splat(stage, root.AppendChild("splat"), asset.splat)

    _variants(stage, root, "representation", {"mesh": mesh} | ({"splat": splat} if asset.has(SPLAT) else {}))
    _add_hulls(stage, root, asset, profile)
    _save(stage, target)


def pack_usdz(asset: Finished, profile: Profile, target: Path) -> None:
    """Write the USDZ: the mesh and its maps."""
    stage, root = _stage(asset, profile)
    with TemporaryDirectory(prefix="splatmill-usdz-") as name:
        folder = Path(name)
        material = _material(stage, root, asset, write_maps(asset, folder))
        _draw(stage, root.AppendChild(Tf.MakeValidIdentifier(profile.mesh_of(asset.name))), asset.mesh, material)()
        layer, package = folder / f"{target.stem}.usdc", folder / f"{target.stem}.usdz"
        _save(stage, layer)
        if not UsdUtils.CreateNewARKitUsdzPackage(Sdf.AssetPath(str(layer)), str(package)):
            raise DataError(f"{target.name}: OpenUSD could not pack it")
        with replaced(target) as scratch:
            shutil.copyfile(package, scratch)


def _save(stage: Usd.Stage, target: Path) -> None:
    with replaced(target) as scratch:
        whole = scratch.with_suffix(target.suffix)  # OpenUSD knows formats by their endings
        stage.GetRootLayer().Export(str(whole), args={"format": "usdc"} if target.suffix == ".usd" else {})
        whole.rename(scratch)


def _stage(asset: Finished, profile: Profile) -> tuple[Usd.Stage, Sdf.Path]:
    """A stage with its one component, which says what the asset is."""
    stage = Usd.Stage.CreateInMemory()
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdGeom.Xform.Define(stage, f"/{Tf.MakeValidIdentifier(asset.name)}").GetPrim()
    stage.SetDefaultPrim(root)
    model = Usd.ModelAPI(root)
    model.SetKind(Kind.Tokens.component)
    model.SetAssetName(str(asset.asset_id))
    told = {name: str(asset.told.get(name, "")) for name in ("asset_id", "prompt", "seed", "code_version")}
    root.SetCustomDataByKey("splatmill", told)
    return stage, root.GetPath()


def _variants(stage: Usd.Stage, root: Sdf.Path, name: str, variants: dict[str, Callable[[], None]]) -> None:
    """A set of variants, the first selected; each function draws one of them."""
    chosen = stage.GetPrimAtPath(root).GetVariantSets().AddVariantSet(name)
    for variant, draw in variants.items():
        chosen.AddVariant(variant)
        chosen.SetVariantSelection(variant)
        with chosen.GetVariantEditContext():
            draw()
    chosen.SetVariantSelection(next(iter(variants)))


def _draw(stage: Usd.Stage, place: Sdf.Path, mesh: TexturedMesh, material: UsdShade.Material) -> Callable[[], None]:
    """What defines ``mesh`` at ``place`` when it is called."""

    def draw() -> None:
        drawn = _add_mesh(stage, place, mesh.mesh)
        drawn.CreateNormalsAttr(_vectors(mesh.normals))
        drawn.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
        uvs = np.stack([mesh.uvs[:, 0], 1 - mesh.uvs[:, 1]], axis=1)
        kind, each = Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex
        UsdGeom.PrimvarsAPI(drawn).CreatePrimvar("st", kind, each).Set(Vt.Vec2fArray.FromNumpy(_float(uvs)))
        UsdShade.MaterialBindingAPI.Apply(drawn.GetPrim()).Bind(material)

    return draw


def _add_mesh(stage: Usd.Stage, place: Sdf.Path, mesh: Mesh) -> UsdGeom.Mesh:
    drawn = UsdGeom.Mesh.Define(stage, place)
    drawn.CreatePointsAttr(_vectors(mesh.vertices))
    drawn.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, np.int32)))
    drawn.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(np.ascontiguousarray(mesh.faces, np.int32).reshape(-1)))
    drawn.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    drawn.CreateExtentAttr(_vectors(np.stack([mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)])))
    return drawn


def _add_hulls(stage: Usd.Stage, root: Sdf.Path, asset: Finished, profile: Profile) -> None:
    """Hulls as guides, which nobody draws and physics collides with."""
    if not asset.hulls:
        return
    collision = UsdGeom.Xform.Define(stage, root.AppendChild("collision"))
    collision.CreatePurposeAttr(UsdGeom.Tokens.guide)
    for number, hull in enumerate(asset.hulls):
        name = Tf.MakeValidIdentifier(profile.hull_of(asset.name, number))
        prim = _add_mesh(stage, collision.GetPath().AppendChild(name), hull).GetPrim()
        UsdPhysics.CollisionAPI.Apply(prim)
        UsdPhysics.MeshCollisionAPI.Apply(prim).CreateApproximationAttr(UsdPhysics.Tokens.convexHull)


def _add_splat(stage: Usd.Stage, place: Sdf.Path, gaussians: Gaussians) -> None:
    """The splat: linear scales and opacities, unit quaternions, harmonics of all Gaussians one after the other."""
    host = {name: value.detach().cpu().double().numpy() for name, value in gaussians.tensors().items()}
    field = UsdVol.ParticleField3DGaussianSplat.Define(stage, place)
    prim, scales = field.GetPrim(), np.exp(host["scales"])
    quats = host["quats"] / np.linalg.norm(host["quats"], axis=1, keepdims=True)
    harmonics = np.concatenate([host["sh0"], host["shN"]], axis=1)
    reach = 3 * scales.max(axis=1, keepdims=True)
    extent = np.stack([(host["means"] - reach).min(axis=0), (host["means"] + reach).max(axis=0)])
    values = {
        "positions": _vectors(host["means"]),
        "scales": _vectors(scales),
        "orientations": Vt.QuatfArray([Gf.Quatf(*row) for row in _float(quats).tolist()]),
        "opacities": Vt.FloatArray.FromNumpy(_float(1 / (1 + np.exp(-host["opacities"])))),
        "radiance:sphericalHarmonicsDegree": round(harmonics.shape[1] ** 0.5) - 1,
        "radiance:sphericalHarmonicsCoefficients": _vectors(harmonics.reshape(-1, 3)),
        "extent": _vectors(extent),
    }
    for name, value in values.items():
        prim.GetAttribute(name).Set(value)


def _material(stage: Usd.Stage, root: Sdf.Path, asset: Finished, maps: dict[str, str]) -> UsdShade.Material:
    """UsdPreviewSurface of the asset's maps; ``maps`` are their places beside the stage."""
    name = f"M_{asset.name}"
    path = root.AppendChild("materials").AppendChild(Tf.MakeValidIdentifier(name))
    UsdGeom.Scope.Define(stage, root.AppendChild("materials"))
    material = UsdShade.Material.Define(stage, path)
    surface = UsdShade.Shader.Define(stage, path.AppendChild("surface"))
    surface.CreateIdAttr("UsdPreviewSurface")
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    reader = UsdShade.Shader.Define(stage, path.AppendChild("st"))
    reader.CreateIdAttr("UsdPrimvarReader_float2")
    reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set("st")
    uv = reader.CreateOutput("result", Sdf.ValueTypeNames.Float2)

    def texture(suffix: str, space: str, **more: Any) -> UsdShade.Shader:
        shader = UsdShade.Shader.Define(stage, path.AppendChild(suffix))
        shader.CreateIdAttr("UsdUVTexture")
        shader.CreateInput("file", Sdf.ValueTypeNames.Asset).Set(Sdf.AssetPath(f"./{maps[suffix]}"))
        shader.CreateInput("sourceColorSpace", Sdf.ValueTypeNames.Token).Set(space)
        for wrap in ("wrapS", "wrapT"):
            shader.CreateInput(wrap, Sdf.ValueTypeNames.Token).Set("clamp")
        for key, value in more.items():
            shader.CreateInput(key, Sdf.ValueTypeNames.Float4).Set(Gf.Vec4f(*value))
        shader.CreateInput("st", Sdf.ValueTypeNames.Float2).ConnectToSource(uv)
        return shader

    def connect(key: str, kind: Sdf.ValueTypeName, shader: UsdShade.Shader, channel: str) -> None:
        output = shader.CreateOutput(channel, kind)
        surface.CreateInput(key, kind).ConnectToSource(output)

    single, colour = Sdf.ValueTypeNames.Float, Sdf.ValueTypeNames.Color3f
    pbr = asset.material.get("pbrMetallicRoughness", {})
    if "BC" in maps:
        shader = texture("BC", "sRGB")
        surface.CreateInput("diffuseColor", colour).ConnectToSource(
            shader.CreateOutput("rgb", Sdf.ValueTypeNames.Float3)
        )
    if "ORM" in maps:
        shader = texture("ORM", "raw")
        for key, channel in (("occlusion", "r"), ("roughness", "g"), ("metallic", "b")):
            connect(key, single, shader, channel)
    else:
        surface.CreateInput("roughness", single).Set(float(pbr.get("roughnessFactor", 1.0)))
        surface.CreateInput("metallic", single).Set(float(pbr.get("metallicFactor", 1.0)))
    if "N" in maps:
        shader = texture("N", "raw", scale=(2, 2, 2, 1), bias=(-1, -1, -1, 0))
        surface.CreateInput("normal", Sdf.ValueTypeNames.Normal3f).ConnectToSource(
            shader.CreateOutput("rgb", Sdf.ValueTypeNames.Float3)
        )
    if "E" in maps:
        shader = texture("E", "sRGB")
        surface.CreateInput("emissiveColor", colour).ConnectToSource(
            shader.CreateOutput("rgb", Sdf.ValueTypeNames.Float3)
        )
    return material


def _float(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=np.float32)


def _vectors(values: np.ndarray) -> Vt.Vec3fArray:
    return Vt.Vec3fArray.FromNumpy(_float(values))
