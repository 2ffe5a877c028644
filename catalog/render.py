"""An Arrow table as text table, CSV, JSON, Markdown, or Parquet.

>>> render(pa.table({"stage": ["record"], "n": [3]}), "csv")
b'stage,n\\r\\nrecord,3\\r\\n'
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MAX_CELL = 60


def render(table: pa.Table, form: str) -> bytes:
    """``table`` in one of :data:`FORMATS`, as bytes (UTF-8 for the text ones)."""
    return FORMATS[form](table)


def to_text(table: pa.Table) -> bytes:
    """Aligned columns for a terminal, numbers to the right; long cells are cut."""
    columns = [[_cut(_plain(value)) for value in column.to_pylist()] for column in table.columns]
    right = [pa.types.is_integer(f.type) or pa.types.is_floating(f.type) for f in table.schema]
    noun = "row" if table.num_rows == 1 else "rows"
    return f"{aligned(table.column_names, zip(*columns), right)}\n({table.num_rows} {noun})\n".encode()


def aligned(header: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[bool] = ()) -> str:
    """Columns as wide as their widest cell, a line under the header; control characters are shown as escapes.

    ``right``: for each column whether it is set to the right; empty = none.
    """
    cells = [list(map(_plain, row)) for row in rows]
    widths = [max(_width(row[i]) for row in (header, *cells)) for i in range(len(header))]
    lines = ["  ".join(_pad(name, width, False) for name, width in zip(header, widths)).rstrip()]
    lines.append("  ".join("-" * width for width in widths))
    for row in cells:
        lines.append("  ".join(_pad(*each) for each in zip(row, widths, right or [False] * len(row))).rstrip())
    return "\n".join(lines)


def to_markdown(table: pa.Table) -> bytes:
    """A Markdown table; pipes, line ends and angle brackets are escaped."""

    def cell(value: Any) -> str:
        text = _plain(value).replace("\\", "\\\\").replace("|", "\\|")
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

    lines = ["| " + " | ".join(cell(name) for name in table.column_names) + " |", "|" + "---|" * table.num_columns]
    for row in zip(*(column.to_pylist() for column in table.columns)):
        lines.append("| " + " | ".join(map(cell, row)) + " |")
    return ("\n".join(lines) + "\n").encode()


def to_csv(table: pa.Table) -> bytes:
    """RFC 4180; NULL is an empty cell, nested values are JSON, times ISO 8601."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(table.column_names)
    for row in zip(*(column.to_pylist() for column in table.columns)):
        writer.writerow(["" if value is None else _csv_cell(value) for value in row])
    return out.getvalue().encode("utf-8", errors="replace")


def to_json(table: pa.Table) -> bytes:
    """An array with one object per row; times ISO 8601; numbers that JSON cannot hold (NaN, infinite) become null."""
    rows = [jsonable(row) for row in table.to_pylist(maps_as_pydicts="lossy")]
    return (json.dumps(rows, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode("utf-8", errors="replace")


def to_parquet(table: pa.Table) -> bytes:
    """One Parquet file, zstd."""
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


FORMATS: dict[str, Callable[[pa.Table], bytes]] = {
    "table": to_text,
    "csv": to_csv,
    "json": to_json,
    "parquet": to_parquet,
    "md": to_markdown,
}


def jsonable(value: Any) -> Any:
    """``value`` as JSON can hold it: times ISO 8601, NaN and infinite null, bytes hex, the rest as text."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, str | int) else str(value)


def _csv_cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(jsonable(value), ensure_ascii=False)
    return value.isoformat() if isinstance(value, datetime | date) else value


def _plain(value: Any) -> str:
    """One line of text without control characters, so that a prompt cannot drive the terminal."""
    if value is None:
        return ""
    if isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, datetime):
        text = value.strftime("%Y-%m-%d %H:%M:%S")
    elif isinstance(value, dict | list):
        text = json.dumps(jsonable(value), ensure_ascii=False)
    else:
        text = str(value)
    return "".join(c if unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode() for c in text)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + "…"


def _width(text: str) -> int:
    """Columns on a terminal."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)


def _pad(text: str, width: int, right: bool) -> str:
    gap = " " * (width - _width(text))
    return gap + text if right else text + gap
