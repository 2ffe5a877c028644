"""The table of deliverables, and that each row's exporter is there."""

from inspect import signature

from pipeline_core.deliverables import DELIVERABLES, media_type, role


def test_rows_have_names_of_their_own_and_one_is_the_asset():
    assert len({row.role for row in DELIVERABLES}) == len({row.file for row in DELIVERABLES}) == len(DELIVERABLES)
    assert [row.file for row in DELIVERABLES if row.main] == ["asset.glb"]


def test_every_exporter_takes_what_record_gives():
    for row in DELIVERABLES:
        if row.exporter:
            assert list(signature(row.export()).parameters) == ["source", "target", "spec", "provenance"], row.role


def test_roles_and_media_types_of_deliverables_and_of_other_outputs():
    assert (role("asset.glb"), role("splat.ply"), role("curves.json")) == ("glb", "splat", "curves")
    assert media_type("asset.glb") == media_type("mesh.glb") == "model/gltf-binary"
    assert (media_type("metrics.json"), media_type("x.bin")) == ("application/json", "application/octet-stream")
