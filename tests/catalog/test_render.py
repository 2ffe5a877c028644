"""Answers as text, CSV, JSON, Markdown and Parquet: right, and harmless."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq

from catalog.render import FORMATS, aligned, render

HOSTILE = 'a "chair", with | pipes\nand\x1b[31m red <b>html</b>'
TABLE = pa.table(
    {
        "prompt": [HOSTILE, None],
        "faces": pa.array([9800, None], pa.int64()),
        "loss": [0.12345678, float("nan")],
        "at": [datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC), None],
        "day": [date(2026, 11, 22), None],
        "sum": pa.array([Decimal(12), None], pa.decimal128(38, 0)),
        "tags": pa.array([[("category", "seats")], None], pa.map_(pa.string(), pa.string())),
        "models": [["a@1", "b@2"], None],
    }
)


def test_json_is_read_back() -> None:
    first, second = json.loads(render(TABLE, "json"))
    assert first == {
        "prompt": HOSTILE,
        "faces": 9800,
        "loss": 0.12345678,
        "at": "2026-11-22T01:02:03+00:00",
        "day": "2026-11-22",
        "sum": 12,
        "tags": {"category": "seats"},
        "models": ["a@1", "b@2"],
    }
    assert set(second.values()) == {None}, "NaN is not JSON"


def test_csv_is_read_back() -> None:
    head, first, second = csv.reader(io.StringIO(render(TABLE, "csv").decode(), newline=""))
    assert head == TABLE.column_names
    assert first[:4] == [HOSTILE, "9800", "0.12345678", "2026-11-22T01:02:03+00:00"]
    assert json.loads(first[7]) == ["a@1", "b@2"]
    assert second[0] == second[1] == ""


def test_parquet_is_read_back() -> None:
    assert pq.read_table(io.BytesIO(render(TABLE, "parquet"))).schema.equals(TABLE.schema)


def test_text_cannot_drive_the_terminal_and_lines_up() -> None:
    lines = render(TABLE, "table").decode().splitlines()
    assert "\x1b" not in "".join(lines)
    assert "\\x1b[31m" in lines[2]
    assert len(lines) == 5
    assert lines[-1] == "(2 rows)"
    assert lines[0].index("faces") == lines[1].index(" ", 0) + 2


def test_markdown_stays_a_table_and_holds_no_html() -> None:
    lines = render(TABLE, "md").decode().splitlines()
    assert len(lines) == 4
    assert "<b>" not in lines[2]
    unescaped = lines[2].replace("\\|", "")
    assert unescaped.count("|") == TABLE.num_columns + 1


def test_every_form_takes_an_empty_answer() -> None:
    for form in FORMATS:
        assert isinstance(render(TABLE.slice(0, 0), form), bytes)


def test_one_table_for_all_commands_lines_up_whatever_it_holds() -> None:
    rows = [["椅子", 3, None], ["\x1b[31mred", 12, "a"]]
    assert aligned(["asset", "n", "why"], rows, [False, True, False]).splitlines() == [
        "asset        n   why",
        "-----------  --  ---",
        "椅子          3",
        "\\x1b[31mred  12  a",
    ]
    assert aligned(["asset", "n"], []) == "asset  n\n-----  -"
