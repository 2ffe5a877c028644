"""A query has its time and its memory until its answer is rendered, whatever it does in between."""

from __future__ import annotations

import time

import pytest

from catalog import bounded, query
from catalog.guard import Limits, SqlFailed, SqlRefused


def test_an_answer_comes_back_as_it_is_rendered(one_asset) -> None:
    sql = "select asset_id from assets order by 1"
    assert bounded.answer(one_asset, sql, "csv", live=True) == (b"asset_id\r\nchair-07\r\nvase-01\r\n", False)
    assert bounded.answer(one_asset, sql, "csv", live=True, limits=Limits(rows=1)) == (
        b"asset_id\r\nchair-07\r\n",
        True,
    )


def test_errors_come_back_as_what_they_are(one_asset) -> None:
    with pytest.raises(SqlRefused, match="only queries are allowed here, not COPY"):
        bounded.answer(one_asset, "copy (select 1) to 'x'", "csv", live=True)
    with pytest.raises(query.NoSnapshot, match="splatmill catalog snapshot"):
        bounded.answer(one_asset, "select 1", "csv")


def test_what_cannot_be_interrupted_ends_all_the_same(one_asset) -> None:
    """A function that builds one huge text looks at no clock, and its memory is in nobody's books."""
    began = time.monotonic()
    with pytest.raises(SqlFailed, match=r"stopped after 0\.2 s"):
        bounded.answer(one_asset, "select repeat('x', 2000000000)", "table", live=True, limits=Limits(timeout_s=0.2))
    assert time.monotonic() - began < 60


def test_memory_is_counted_to_the_last_step(one_asset) -> None:
    for sql in ("select repeat('x', 1900000000)", "select repeat('x', 20000000) from range(40)"):
        with pytest.raises(SqlFailed, match="needs more than 50MB"):
            bounded.answer(one_asset, sql, "json", live=True, limits=Limits(timeout_s=300, memory="50MB"))
