"""OpenUSD reads what is written, and finds nothing wrong with it."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline_core.packing.formats import formats
from pipeline_core.packing.pack import pack
from pipeline_core.packing.profiles import profile
from tests.finished_asset import HEIGHT_M, HOSTILE

pytest.importorskip("pxr")
from pxr import Usd, UsdGeom, UsdPhysics, UsdShade, UsdValidation, UsdVol


@pytest.fixture(scope="module")
def folder(whole, tmp_path_factory):
    target = tmp_path_factory.mktemp("usd")
    pack(whole, target, profile("unreal"), formats(["usd", "usdz"]))
    return target / "box"


@pytest.mark.parametrize("name", ["SM_box.usd", "SM_box.usdz"])
def test_its_own_validators_find_nothing(folder, name):
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    stage = Usd.Stage.Open(str(folder / name))
    assert [each.GetMessage() for each in UsdValidation.ValidationContext(validators).Validate(stage)] == []
    root = stage.GetDefaultPrim()
    assert root.GetCustomData()["splatmill"]["prompt"] == HOSTILE
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1
    box = UsdGeom.BBoxCache(Usd.TimeCode.Default(), ["default"]).ComputeWorldBound(root).ComputeAlignedBox()
    assert np.allclose(box.GetMin(), (-0.8, 0, -0.6), atol=1e-6)
    assert np.allclose(box.GetMax(), (0.8, HEIGHT_M, 0.6), atol=1e-6)


def test_a_usd_has_levels_splat_and_hulls(folder, whole):
    stage = Usd.Stage.Open(str(folder / "SM_box.usd"))
    stage.SetEditTarget(stage.GetSessionLayer())  # the file itself keeps what it selects
    root = stage.GetDefaultPrim()
    mesh = root.GetChild("SM_box")
    sets = root.GetVariantSets()
    counts = []
    for level in sets.GetVariantSet("LOD").GetVariantNames():
        sets.SetSelection("LOD", level)
        counts.append(len(UsdGeom.Mesh(mesh).GetFaceVertexCountsAttr().Get()))
    assert counts == [192, 48, 12]
    hulls = root.GetChild("collision").GetChildren()
    assert [hull.GetName() for hull in hulls] == ["UCX_SM_box_LOD0_00", "UCX_SM_box_LOD0_01"]
    assert all(hull.HasAPI(UsdPhysics.CollisionAPI) for hull in hulls)
    sets.SetSelection("representation", "splat")
    assert not stage.GetPrimAtPath("/box/SM_box")
    field = root.GetChild("splat")
    assert field.IsA(UsdVol.ParticleField3DGaussianSplat)
    told = {name: np.array(field.GetAttribute(name).Get()) for name in ("positions", "scales", "opacities")}
    assert np.allclose(told["positions"], whole.splat.means, atol=1e-6)
    assert np.allclose(told["scales"], whole.splat.scales.exp(), rtol=1e-5)
    assert np.allclose(told["opacities"], whole.splat.opacities.sigmoid(), atol=1e-6)
    harmonics = np.array(field.GetAttribute("radiance:sphericalHarmonicsCoefficients").Get()).reshape(50, 4, 3)
    assert field.GetAttribute("radiance:sphericalHarmonicsDegree").Get() == 1
    assert np.allclose(harmonics[:, 1:], whole.splat.shN, atol=1e-6)


def test_its_material_has_every_map(folder, whole):
    stage = Usd.Stage.Open(str(folder / "SM_box.usd"))
    material, _ = UsdShade.MaterialBindingAPI(stage.GetDefaultPrim().GetChild("SM_box")).ComputeBoundMaterial()
    surface = material.ComputeSurfaceSource()[0]
    found = {}
    for name in ("diffuseColor", "normal", "roughness", "metallic", "occlusion"):
        source = surface.GetInput(name).GetConnectedSources()[0][0].source
        found[name] = source.GetPrim().GetAttribute("inputs:file").Get().path
    assert found["diffuseColor"] == "./textures/T_box_BC.png" and found["normal"] == "./textures/T_box_N.png"
    assert found["roughness"] == found["metallic"] == found["occlusion"] == "./textures/T_box_ORM.png"
    uvs = np.array(UsdGeom.PrimvarsAPI(stage.GetDefaultPrim().GetChild("SM_box")).GetPrimvar("st").Get())
    assert np.allclose(uvs[:, 1], 1 - whole.mesh.uvs[:, 1])
