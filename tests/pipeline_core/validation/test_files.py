"""Delivered files are looked at by their suffix; whatever is in them, it is findings that come back."""

import json

import numpy as np
import pytest
import torch

from pipeline_core.findings import Finding, merged, tally
from pipeline_core.frame import frame_of
from pipeline_core.io import xmp
from pipeline_core.io.gltf import save_glb
from pipeline_core.io.images import encode_png
from pipeline_core.io.ply import write
from pipeline_core.spec import AssetSpec
from pipeline_core.storage import sha256_file
from pipeline_core.types import Gaussians
from pipeline_core.validation import khronos
from pipeline_core.validation.asset import check_asset, frame_error, silhouettes
from pipeline_core.validation.files import check_file, check_files
from tests.pipeline_core.io.test_gltf import tetrahedron

SPEC = AssetSpec(
    prompt='a "tin" <b>toy</b> 🎁', asset_id="toy", height_m=0.5, recipe={"name": "draft", "mesh": {"texture_size": 64}}
)
FRAME = frame_of(tetrahedron().vertices, 0.5)
PROVENANCE = {"asset_id": "toy", "prompt": SPEC.prompt, "seed": 0, "code_version": "1", "frame": FRAME.to_json()}


def splat(shift=0.0):
    """Gaussians on the tetrahedron's corners, in object units."""
    means = torch.from_numpy(tetrahedron().vertices) + shift
    n = len(means)
    quats = torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1)
    return Gaussians(
        means=means, quats=quats, scales=torch.full((n, 3), -3.0), opacities=torch.full((n,), 3.0),
        sh0=torch.zeros(n, 1, 3), shN=torch.zeros(n, 0, 3),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An asset as it is delivered; no Khronos validator."""
    monkeypatch.setenv(khronos.VARIABLE, str(tmp_path / "nowhere"))
    save_glb(tmp_path / "asset.glb", tetrahedron(64), name="toy", height_m=0.5)
    write(tmp_path / "splat.ply", FRAME.gaussians(splat()), provenance=PROVENANCE)
    (tmp_path / "preview.png").write_bytes(encode_png(np.random.default_rng(0).random((8, 8, 3))))
    for name in ("asset.glb", "preview.png"):
        xmp.mark_file(tmp_path / name, xmp.Mark.of(PROVENANCE))
    files = {name: {"sha256": sha256_file(tmp_path / name)} for name in ("asset.glb", "preview.png", "splat.ply")}
    (tmp_path / "asset.json").write_text(json.dumps({"files": files}))
    return tmp_path


def codes(findings):
    return {(each.file, each.code): each.severity for each in findings if each.code != "KHRONOS_VALIDATOR_NOT_RUN"}


def test_a_whole_asset_has_no_findings_but_that_khronos_did_not_look(folder):
    (only,) = check_asset(folder, SPEC)
    assert only.severity == "info" and only.code == "KHRONOS_VALIDATOR_NOT_RUN" and khronos.VARIABLE in only.message


@pytest.mark.parametrize("changes, want", [
    ({"height_m": 0.6}, ("asset.glb", "HEIGHT_NOT_AS_ASKED")),
    ({"size_m": (0.5, 0.5, 0.6)}, ("asset.glb", "SIZE_NOT_AS_ASKED")),
    ({"recipe": {"name": "draft", "mesh": {"texture_size": 128}}}, ("asset.glb", "TEXTURE_SIZE_NOT_AS_ASKED")),
])  # fmt: skip
def test_what_is_not_as_asked_is_told(folder, changes, want):
    assert list(codes(check_asset(folder, AssetSpec(**SPEC.to_json() | changes)))) == [want]


def test_pivot_and_frames_are_exact(folder):
    moved = tetrahedron(64)
    save_glb(folder / "asset.glb", moved, name="toy")  # in object units: neither as high nor where it should be
    xmp.mark_file(folder / "asset.glb", xmp.Mark.of(PROVENANCE))
    found = codes(check_asset(folder, SPEC, whole=False))
    names = {"HEIGHT_NOT_AS_ASKED", "PIVOT_NOT_CENTRE_BOTTOM", "FRAMES_DISAGREE"}
    assert {code for _, code in found} == names and set(found.values()) == {"error"}


def test_neither_a_thin_tip_nor_a_floater_is_a_frame_of_its_own():
    """A candle's flame is one Gaussian in a hundred."""
    body = torch.rand(1000, 3, generator=torch.Generator().manual_seed(0))
    means, box = torch.cat([body, torch.tensor([[0.5, 1.2, 0.5]] * 3)]), np.array([[0.0, 0.0, 0.0], [1.0, 1.2, 1.0]])

    def of(places):
        n = len(places)
        return Gaussians(
            places, torch.tensor([1.0, 0, 0, 0]).repeat(n, 1), torch.zeros(n, 3), torch.full((n,), 3.0),
            torch.zeros(n, 1, 3), torch.zeros(n, 0, 3),
        )  # fmt: skip

    assert frame_error(box, of(means)) < 0.02
    assert frame_error(box, of(torch.cat([means, torch.tensor([[9.0, 0.5, 0.5]])]))) < 0.02  # side by side
    assert frame_error(box, of(1.3 * means)) > 0.25


def test_a_mesh_that_is_not_its_splat_is_told():
    (found,) = silhouettes({"mesh_iou": 0.41}, 0.7)
    assert found.code == "MESH_UNLIKE_SPLAT" and "0.41" in found.message and found.severity == "warning"
    assert [*silhouettes({"mesh_iou": 0.85}, 0.7)] == [*silhouettes({}, 0.7)] == []
    (found,) = silhouettes({"mesh_iou": 0.97, "optimised_iou": 0.41}, 0.7)  # drawn on a mesh that is something else
    assert found.code == "MESH_UNLIKE_SPLAT" and "those of the optimised Gaussians by 0.41" in found.message
    assert [*silhouettes({"mesh_iou": 0.97, "optimised_iou": 0.41}, 0.4)] == []


def test_one_changed_byte_of_any_file_is_found(folder):
    for name in ("asset.glb", "preview.png", "splat.ply"):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
        assert codes(check_files([folder / name]))[name, "FILE_CHANGED"] == "error"


@pytest.mark.parametrize("name", ["asset.glb", "preview.png", "splat.ply"])
@pytest.mark.parametrize("data", [b"", b"glTF", b"ply\n", bytes(range(256))])
def test_nonsense_is_a_finding_and_no_crash(folder, name, data):
    (folder / name).write_bytes(data)
    assert codes(check_asset(folder, SPEC))[name, "UNREADABLE"] == "error"


def test_nan_is_a_finding(folder):
    nan = splat(float("nan"))
    write(folder / "splat.ply", nan, provenance=PROVENANCE)
    assert codes(check_file(folder / "splat.ply")) == {("splat.ply", "UNREADABLE"): "error"}
    none = Gaussians(**{name: values[:0] for name, values in vars(splat()).items()})
    write(folder / "splat.ply", none, provenance=PROVENANCE)
    assert list(codes(check_file(folder / "splat.ply")).values()) == ["error"]


def test_a_file_without_the_mark_is_told_and_a_blank_picture_too(folder):
    (folder / "preview.png").write_bytes(encode_png(np.zeros((8, 8, 3))))
    found = codes(check_file(folder / "preview.png"))
    assert found == {("preview.png", "PICTURE_BLANK"): "warning", ("preview.png", "MARK_MISSING"): "error"}


def test_findings_are_merged_by_code_and_file_worst_first():
    given = [Finding("A", "info", "first", "x", 2), Finding("A", "info", "second", "x", 5), Finding("B", "error", "b")]
    assert merged(given) == [Finding("B", "error", "b"), Finding("A", "info", "first", "x", 5)]
    assert tally(given) == {"error": 1, "warning": 0, "info": 2}
