"""Which files make up the catalogue at this moment.

    live/<batch>.<version>.parquet   one transaction, nested rows        writers only add
    sealed/<cid>.<version>.parquet   the rows of many transactions       the compactor only adds
    index/<number>.parquet           THE COMMIT of a compaction          the compactor only adds, each number once

``version`` is the schema's: files of one version are read together without looking at each one's schema, which is a
third of the cost of a small file.

    a live file counts    unless some index row lists it in ``batches``
    a sealed file counts  when some index row has its ``cid`` and none lists it in ``supersedes``

A reader lists index, live, index again: equal indexes mean that no file vanished unseen in between, because a live
file is removed only after the index that replaced it. So a slow reader can meet a missing file (and lists again), but
can never silently miss or double a row.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from catalog import ids
from catalog.schema import TIMESTAMP
from catalog.store import Store
from catalog.writer import observe_library
from pipeline_core.errors import RequestError, TransientError

INDEX_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),  # seal, merge, revoke, or checkpoint (its file repeats all earlier rows that matter)
        ("cid", pa.string()),
        ("schema_version", pa.int16()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("min_date", pa.date32()),
        ("max_date", pa.date32()),
        ("batches", pa.list_(pa.string())),
        ("supersedes", pa.list_(pa.string())),
        ("committed_at", TIMESTAMP),
    ]
)

DATA_NAME = re.compile(rf"({ids.ID_PATTERN.pattern})\.(\d+)\.parquet")
"""Names of our files in live/ and sealed/; any other file there is not read."""


class CatalogueChanged(TransientError):
    """The catalogue changed faster than it could be listed; practically a compactor in a loop."""


class CatalogueDamaged(RequestError):
    """A file of the catalogue cannot be read; the message names it and the way out."""


@dataclass(frozen=True)
class Visible:
    """The files that hold every event exactly once, and the state of the index they were found by."""

    number: int  # of the newest index file, 0 = none
    live: tuple[str, ...]  # names in live/, oldest first
    sealed: tuple[str, ...]  # names in sealed/
    index: tuple[dict, ...]  # rows of all index files

    @property
    def files(self) -> list[str]:
        """Names relative to the catalogue, sealed first."""
        return [f"sealed/{name}" for name in self.sealed] + [f"live/{name}" for name in self.live]


def visible(store: Store, *, tries: int = 20) -> Visible:
    """List the catalogue consistently (see the module's page). Raises :class:`CatalogueChanged`."""
    for _ in range(tries):
        numbers = index_numbers(store)
        names = store.names("live")
        if index_numbers(store) != numbers:
            continue
        try:
            rows = [row for number in numbers for row in read_index(store, number)]
        except FileNotFoundError:
            continue  # a checkpoint has just replaced it
        observe_library(store, names)
        return _resolve(numbers, names, rows)
    raise CatalogueChanged(f"{store.url('index')} changed {tries} times while it was being listed; try again")


def index_numbers(store: Store) -> list[int]:
    """Numbers of the index files, ascending."""
    return sorted(int(name[:12]) for name in store.names("index") if len(name) == 20 and name[:12].isdigit())


def read_index(store: Store, number: int) -> list[dict]:
    """Rows of one index file. Raises ``FileNotFoundError`` and :class:`CatalogueDamaged`."""
    data = store.read(index_name(number))
    try:
        return pq.read_table(io.BytesIO(data), schema=INDEX_SCHEMA).to_pylist()
    except pa.ArrowException as error:
        raise CatalogueDamaged(
            f"{store.url(index_name(number))} cannot be read ({str(error).splitlines()[0]}): put back a copy from a "
            "backup; or move the catalogue folder away and run `splatmill catalog rebuild`"
        ) from error


def index_name(number: int) -> str:
    """Name of an index file."""
    return f"index/{number:012d}.parquet"


def replaced_batches(index: Sequence[dict]) -> set[str]:
    """Batches whose rows are in sealed files."""
    revoked = revoked_cids(index)
    return {batch for row in index if row["cid"] not in revoked for batch in row["batches"]}


def revoked_cids(index: Iterable[dict]) -> set[str]:
    """Compactions that fsck took back because their file was lost; their batches count as not compacted."""
    return {cid for row in index if row["kind"] == "revoke" for cid in row["supersedes"]}


def data_version(name: str) -> int | None:
    """Schema version in the name of a live or sealed file; None when the name is not one of ours."""
    match = DATA_NAME.fullmatch(name)
    return int(match[2]) if match else None


def _resolve(numbers: Sequence[int], names: Sequence[str], index: list[dict]) -> Visible:
    ours = [name for name in names if DATA_NAME.fullmatch(name)]
    replaced = replaced_batches(index)
    superseded = {cid for row in index for cid in row["supersedes"]}
    return Visible(
        number=numbers[-1] if numbers else 0,
        live=tuple(sorted(name for name in ours if name[:36] not in replaced)),
        sealed=tuple(sorted({sealed_name(row) for row in index if row["cid"] and row["cid"] not in superseded})),
        index=tuple(index),
    )


def sealed_name(row: dict) -> str:
    """Name in sealed/ of the file that an index row commits."""
    return f"{row['cid']}.{row['schema_version']}.parquet"
