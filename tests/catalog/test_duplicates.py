"""The view ``duplicates``: what looks alike is found, on live files and in the snapshot, and at a bounded cost."""

from __future__ import annotations

import random

import pytest

from catalog import gallery, query, snapshot, views
from catalog.schema import StageRun
from catalog.store import open_store
from catalog.writer import append

PAIRS = "select asset_id, other_id, distance from duplicates order by all"


def delivered(asset_id: str, look: int) -> StageRun:
    """An asset's last row, with 192 bits of look."""
    words = {name: float(look >> 48 * at & (1 << 48) - 1) for at, name in enumerate(views.LOOKS)}
    return StageRun(run_id="night", asset_id=asset_id, stage="record", status="ok", metrics=words | {"faces": 12.0})


def flipped(look: int, bits: int, rng: random.Random) -> int:
    for at in rng.sample(range(192), bits):
        look ^= 1 << at
    return look


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Ten looks apart, one of them planted again with 0, 11, 12 and 176 bits flipped, and an asset without a look."""
    folder, rng = tmp_path_factory.mktemp("library"), random.Random(7)
    looks = [rng.getrandbits(192) for _ in range(10)]
    rows = [delivered(f"prop-{at}", look) for at, look in enumerate(looks)]
    rows += [delivered(f"with-{bits}", flipped(looks[4], bits, rng)) for bits in (11, 12)]
    rows += [delivered("with-176", looks[4] ^ (1 << 192) - (1 << 16)), delivered("again", looks[4])]
    rows += [StageRun(run_id="old", asset_id="old", stage="record", status="ok")]
    append(folder, rows)
    return folder


def test_planted_duplicates_are_found_and_ten_distinct_ones_are_not(library) -> None:
    found = [tuple(row.values()) for row in query.rows(library, PAIRS)]
    near = [pair for pair in found if "with-12" not in pair]
    assert near == [("again", "prop-4", 0), ("again", "with-11", 11), ("prop-4", "with-11", 11)]
    assert ("prop-4", "with-12", 12) not in found
    snapshot.build(library)
    assert [tuple(row.values()) for row in query.rows(library, PAIRS, live=False)] == found


def test_the_gallery_names_what_looks_alike_and_hides_the_words_of_looks(library) -> None:
    cards = {each["asset_id"]: each for each in gallery.gallery_assets(open_store(library))}
    assert cards["again"]["duplicates"] == ["prop-4", "with-11"]
    assert cards["prop-0"]["duplicates"] == []
    assert cards["again"]["metrics"] == {"faces": 12.0}


def test_many_alike_cost_no_more_than_their_neighbours(tmp_path) -> None:
    append(tmp_path, [delivered(f"same-{at:03d}", 5) for at in range(200)])
    pairs = query.rows(tmp_path, PAIRS)
    named = {name for row in pairs for name in (row["asset_id"], row["other_id"])}
    assert len(named) == 200 and len(pairs) <= 200 * views.NEIGHBOURS
