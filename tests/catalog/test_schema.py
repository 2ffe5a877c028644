"""The event: its columns, its JSON, its Arrow form, and files of other versions."""

from __future__ import annotations

import dataclasses
import io
import json
from datetime import UTC, datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import compact, query, schema, snapshot
from catalog.schema import COLUMNS, SCHEMA, SCHEMA_VERSION, Artifact, StageRun, to_table
from catalog.store import open_store
from catalog.writer import append, encode
from pipeline_core.findings import SEVERITIES, Finding
from tests.catalog import versions

TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)
NUMBER = st.floats(allow_nan=False, width=64)
TIME = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))

RUNS = st.builds(
    StageRun,
    run_id=TEXT,
    asset_id=TEXT,
    stage=TEXT,
    status=st.sampled_from(schema.STATUSES),
    attempt=st.integers(1, 1000),
    queued_at=st.none() | TIME,
    started_at=st.none() | TIME,
    finished_at=TIME,
    gpu_s=st.none() | NUMBER,
    worker_pid=st.none() | st.integers(0, 2**31 - 1),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    upstream_keys=st.lists(TEXT, max_size=3),
    model_ids=st.lists(TEXT, max_size=3),
    error_class=st.none() | st.sampled_from(schema.ERROR_CLASSES),
    error_message=st.none() | TEXT,
    metrics=st.dictionaries(TEXT, NUMBER, max_size=4),
    tags=st.dictionaries(TEXT, TEXT, max_size=4),
    artifacts=st.lists(st.builds(Artifact, TEXT, TEXT, TEXT, st.integers(0, 2**62), TEXT), max_size=3),
    findings=st.lists(
        st.builds(Finding, TEXT, st.sampled_from(SEVERITIES), TEXT, TEXT, st.integers(0, 2**62)), max_size=3
    ),
    spec_json=st.none() | TEXT,
)


@given(RUNS)
@settings(max_examples=60, deadline=None)
def test_json_and_parquet_give_back_the_same_event(run: StageRun) -> None:
    assert StageRun.from_json(run.to_json()) == run
    table = pq.read_table(io.BytesIO(encode(to_table([run], "batch"))))
    assert schema.drift(table.schema) == []
    row = schema.conform(table).to_pylist()[0]
    for item in dataclasses.fields(run):
        want = getattr(run, item.name)
        if item.name in ("metrics", "tags"):
            assert dict(row[item.name]) == want
        elif item.name in schema.STRUCTS:
            assert [schema.STRUCTS[item.name](**each) for each in row[item.name] or ()] == list(want)
        else:
            assert row[item.name] == (list(want) if isinstance(want, tuple) else want), item.name


def test_every_column_is_a_field_and_has_a_description() -> None:
    derived = {"batch_id", "schema_version", "stage_idx", "date"}
    fields = {item.name for item in dataclasses.fields(StageRun)}
    assert fields == set(SCHEMA.names) - derived
    for column in COLUMNS:
        assert len(column.description) > 5, column.name


def test_seconds_follow_from_times(make_run) -> None:
    start = datetime(2026, 11, 22, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    run = make_run(
        duration_s=None,
        queued_at=start - timedelta(seconds=3),
        started_at=start,
        finished_at=start + timedelta(seconds=9),
    )
    assert (run.queue_s, run.duration_s, run.started_at.tzinfo) == (3.0, 9.0, UTC)
    assert str(to_table([run], "b").column("date")[0]) == "2026-11-21", "the day is UTC's"


def test_a_clock_set_back_during_a_stage_gives_no_negative_seconds(make_run) -> None:
    now = datetime.now(UTC)
    run = make_run(
        duration_s=None, queued_at=now, started_at=now - timedelta(hours=1), finished_at=now - timedelta(hours=2)
    )
    assert (run.duration_s, run.queue_s) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"status": "fine"}, "status must be one of"),
        ({"asset": ""}, "asset_id must not be empty"),
        ({"error_class": "bad"}, "error_class must be one of"),
        ({"event_id": "1"}, "event_id must be a UUIDv7"),
        ({"finished_at": datetime(2026, 1, 1)}, "time zone"),
    ],
)
def test_wrong_events_are_refused(make_run, columns, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_run(**columns)


def test_a_long_error_is_cut_between_characters(make_run) -> None:
    message = make_run(status="failed", error_message="ü" * 5000 + "\ud800").error_message
    assert len(message.encode()) == schema.MAX_ERROR_BYTES
    assert set(message) == {"ü"}


def test_a_record_of_a_newer_version_is_read_as_far_as_known(make_run) -> None:
    run = make_run()
    document = run.to_json() | {"schema_version": 99, "carbon_g": 1.5}
    document["artifacts"] = [each | {"colour": "red"} for each in document["artifacts"]]
    assert StageRun.from_json(document) == run


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_what_every_version_really_wrote_is_still_the_same_event(tmp_path, version) -> None:
    """The files in versions/ are that version's own bytes: as record, live, compacted and in the snapshot."""
    data, record = versions.FOLDER / f"{version}.parquet", versions.FOLDER / f"{version}.json"
    assert data.exists(), "a new version leaves its files: python -m tests.catalog.versions"
    run = StageRun.from_json(json.loads(record.read_text(encoding="utf-8")))
    (row,) = schema.conform(pq.read_table(data)).to_pylist()
    assert row == schema.conform(to_table([run], row["batch_id"])).to_pylist()[0] | {"schema_version": version}
    assert all(row[column.name] is not None for column in COLUMNS if column.since <= version)
    assert open_store(tmp_path).create(f"live/{row['batch_id']}.{version}.parquet", data.read_bytes())
    append(tmp_path, [dataclasses.replace(run, event_id=schema.new_id(), asset_id="new")])
    sql = "select * exclude (event_id, batch_id, schema_version, asset_id) from stage_runs order by stage_runs.event_id"
    before = query.rows(tmp_path, sql)
    assert before[0] == before[1], "old file and new file say the same"
    snapshot.build(tmp_path)
    compact.compact(tmp_path, compact.Policy(grace_s=-1))
    assert open_store(tmp_path).names("live") == []
    assert query.rows(tmp_path, sql) == query.rows(tmp_path, sql, live=False) == before


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_files_of_every_earlier_version_are_read_everywhere(tmp_path, make_run, version) -> None:
    _write_version(tmp_path, make_run(asset="old"), schema.schema_at(version), version)
    append(tmp_path, [make_run(asset="new")])
    _check_old_and_new(tmp_path)


def test_columns_and_artifact_fields_may_come_and_a_newer_file_may_have_more(tmp_path, make_run) -> None:
    """What version 0 would have lacked is NULL; what version 99 adds is left out."""
    early = {
        "event_id",
        "batch_id",
        "schema_version",
        "run_id",
        "asset_id",
        "stage",
        "status",
        "finished_at",
        "artifacts",
    }
    file = pa.struct([item for item in schema.ARTIFACT if item.name != "media_type"])
    fields = [pa.field(item.name, pa.list_(file) if item.name == "artifacts" else item.type) for item in SCHEMA]
    _write_version(tmp_path, make_run(asset="old"), pa.schema([item for item in fields if item.name in early]), 0)
    _write_version(tmp_path, make_run(asset="newer"), pa.schema([*SCHEMA, pa.field("carbon_g", pa.float64())]), 99)
    append(tmp_path, [make_run(asset="new")])
    _check_old_and_new(tmp_path, {"newer"})
    lacking = query.rows(tmp_path, "select recipe, seed, model_ids from stage_runs where asset_id = 'old'")
    assert lacking == [{"recipe": None, "seed": None, "model_ids": None}]
    assert query.rows(tmp_path, "select media_type from artifacts where asset_id = 'old'") == [{"media_type": None}]


def _write_version(library, run: StageRun, arrow: pa.Schema, version: int) -> None:
    table = to_table([run], "01900000-0000-7000-8000-000000000000")
    columns = []
    for item in arrow:
        at = table.schema.get_field_index(item.name)
        columns.append(pa.array([1.0]) if at < 0 else table.column(at).cast(item.type))
    data = encode(pa.Table.from_arrays(columns, schema=arrow))
    assert open_store(library).create(f"live/{run.event_id}.{version}.parquet", data)


def _check_old_and_new(library, more: frozenset[str] | set[str] = frozenset()) -> None:
    def assets() -> list[str]:
        return sorted(row["asset_id"] for row in query.assets(library))

    want = sorted({"old", "new"} | more)
    assert assets() == want
    snapshot.build(library)
    compact.compact(library, compact.Policy(grace_s=-1))
    assert open_store(library).names("live") == []
    assert assets() == want
    snapshot.build(library)
    assert sorted(row["asset_id"] for row in query.assets(library, live=False)) == want
