"""A file is read for its sha256 when it is made and when it is delivered, not at every hop between."""

import os

import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.asset import make_asset
from pipeline_core import storage
from pipeline_core.config import RECIPES
from pipeline_core.deliverables import DELIVERABLES
from pipeline_core.io.xmp import SUFFIXES
from pipeline_core.spec import AssetSpec
from pipeline_core.stages import DELIVERY, STAGES
from tasks.journey import plan_journey

pytestmark = pytest.mark.slow


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were read for their sha256."""
    read = []
    original = storage.sha256_file

    def count(path):
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(storage, "sha256_file", count)
    return read


@pytest.fixture
def journey(tmp_path, tiny):
    spec = AssetSpec(prompt="a blue mug", asset_id="mug", recipe=RECIPES["draft"].override(tiny))
    return plan_journey(str(storage.Library(tmp_path / "library").create().root), "run-1", spec)


def once(journey):
    """Every file that a stage writes, and every deliverable that is no copy, once: written anew, or marked."""
    turntable = journey.spec.recipe.evaluate.turntable_frames > 0
    drawn = journey.spec.recipe.dress.splat == "mesh"
    anew = sum(row.exporter != "" or row.file.endswith(tuple(SUFFIXES)) for row in DELIVERABLES)
    return sum(len(row.outputs) for row in STAGES) + turntable + drawn + anew


def test_one_asset_costs_a_dozen_passes_and_a_cached_one_its_deliverables(journey, hashed, prefect_url):
    make = flow(make_asset, name="one", persist_result=False, validate_parameters=False)
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        made = make(journey)
        assert len(hashed) <= once(journey), hashed
        hashed.clear()
        storage._hashed.clear()  # as in another process
        assert make(journey) == made and made["stage"] == DELIVERY
    assert sorted(hashed) == sorted(made["outputs"]) and len(hashed) <= len(DELIVERABLES) + 1


def test_damage_everywhere_that_no_time_tells_of_is_mended_in_one_go(journey, prefect_url):
    """Rot leaves sizes and times as they are; the deliverables are gone, so every stage is read again."""
    make = flow(make_asset, name="one", persist_result=False, validate_parameters=False)
    library = storage.Library(journey.library)
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        made = make(journey)
        for path in (library.root / "stages").glob("*/*/*"):
            if path.name != "record.json":
                stat, data = path.stat(), path.read_bytes()
                path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
                os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        library.discard(DELIVERY, journey.keys[DELIVERY])
        storage._hashed.clear()
        assert make(journey)["outputs"].keys() == made["outputs"].keys()
    assert all(library.find(name, key) for name, key in journey.keys.items())
