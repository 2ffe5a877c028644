"""Append events: one immutable Parquet file, one transaction.

>>> append(library, [StageRun(run_id="r1", asset_id="chair-07", stage="init_points", status="ok")])
'.../catalog/live/019....1.parquet'
"""

from __future__ import annotations

import io
import json
import logging
import os
import threading
import time
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from catalog import ids
from catalog.schema import SCHEMA_VERSION, StageRun, to_table
from catalog.store import Store, open_store

CLOCK_REFRESH_S = 1.0
CLOCK_TOLERANCE_MS = 60_000
SMALL_ROWS = 16

log = logging.getLogger("splatmill.catalog")
_observed: dict[str, float] = {}
_observed_lock = threading.Lock()


def append(library: str | os.PathLike[str] | Store, runs: Sequence[StageRun], *, keep: bool = False) -> str:
    """Record finished attempts; on return they are durable and every reader sees all of them.

    Parameters
    ----------
    library
        folder or address of the library.
    runs
        the events of one transaction. Appending the same events again is harmless: they get the same file name, and
        the name is taken.
    keep
        leave a copy under ``records/`` first, for :mod:`catalog.rebuild`: for events that have no output whose
        record tells of them (requests, models, failures, reviews).

    Returns
    -------
    path or address of the file.

    Raises ``pipeline_core.errors.TransientError`` when the disk is full or cannot be written.
    """
    if not runs:
        raise ValueError("append needs at least one event")
    store = open_store(library)
    batch_id = ids.batch_id_of(run.event_id for run in runs)
    if keep:
        store.write(f"records/{batch_id}.json", json.dumps([run.to_json() for run in runs], indent=1).encode())
    return publish(store, batch_id, to_table(runs, batch_id))


def publish(store: Store, batch_id: str, events: pa.Table) -> str:
    """Make a table of :data:`catalog.schema.SCHEMA` one transaction; path or address of its file."""
    name = f"live/{batch_id}.{SCHEMA_VERSION}.parquet"
    store.create(name, encode(events))
    observe_library(store)
    return store.url(name)


def encode(table: pa.Table, *, small: bool = True) -> bytes:
    """``table`` as a Parquet file. ``small`` leaves out what only pays for itself in long files.

    Setting up zstd for 39 columns costs more than all the rest of a one-row append, and makes the file larger.
    """
    buffer = io.BytesIO()
    if small:
        compression = "none" if len(table) <= SMALL_ROWS else "zstd"
        lean = {"use_dictionary": False, "write_statistics": False, "store_schema": False}
        pq.write_table(table, buffer, compression=compression, **lean)
    else:
        pq.write_table(table, buffer, compression="zstd", row_group_size=25_000)
    return buffer.getvalue()


def observe_library(store: Store, names: Sequence[str] | None = None) -> None:
    """Order this process's later ids after everything in ``store``; at most one listing a second.

    A clock more than a minute behind the newest event is reported: the rows' times will look odd, their order will not.
    """
    key, now = str(store.root), time.monotonic()
    with _observed_lock:
        if names is None and now - _observed.get(key, -1e9) < CLOCK_REFRESH_S:
            return
        _observed[key] = now
    names = store.names("live") if names is None else names
    newest = max((name[:36] for name in names if ids.ID_PATTERN.fullmatch(name[:36])), default=None)
    if newest is None:
        return
    ids.observe(newest)
    behind_ms = ids.milliseconds(newest) - time.time_ns() // 1_000_000
    if behind_ms > CLOCK_TOLERANCE_MS:
        log.warning(
            "this host's clock is %.0f s behind the newest event in %s: set it (chrony, ntpd). Order is kept, but "
            "started_at and finished_at of new rows will be too early",
            behind_ms / 1000,
            store.url("live"),
        )


