"""The same catalogue in a bucket: a moto server on loopback, reached through fsspec as a real one would be."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from catalog import compact, gc, guard, listing, push, query, rebuild, snapshot
from catalog.compact import Policy
from catalog.fsck import fsck
from catalog.gallery import write_gallery
from catalog.schema import Artifact
from catalog.store import LeaseHeld, open_store
from catalog.writer import append
from pipeline_core.errors import RequestError

AT_ONCE = Policy(grace_s=-1.0, fan_in=3, checkpoint_every=4)

WRITER = """
import sys
from catalog.schema import StageRun
from catalog.writer import append
for number in range(int(sys.argv[3])):
    run = StageRun(run_id="r", asset_id=f"{sys.argv[2]}-{number}", stage="evaluate", status="ok")
    append(sys.argv[1], [run])
    print(run.event_id)
"""


def test_append_compact_query_and_snapshot(bucket, make_run, seen_ids) -> None:
    library = f"{bucket}/journey"
    runs = [make_run(f"chair-{number}", stage="record") for number in range(4)]
    for run in runs:
        append(library, [run])
    append(library, [runs[0]])  # a retried PUT meets its own object
    want = sorted(run.event_id for run in runs)
    assert seen_ids(library) == want
    before = query.assets(library)
    compact.compact(library, AT_ONCE)
    seen = listing.visible(open_store(library))
    assert (len(seen.live), len(seen.sealed)) == (0, 1)
    assert open_store(library).names("live") == []
    assert query.assets(library) == before
    assert snapshot.build(library).events == 4
    answer = guard.ask(library, "select count(*) as n from assets")
    assert answer.table.to_pylist() == [{"n": 4}]
    assert guard.ask(library, "select count(*) as n from assets", live=True).table.to_pylist() == [{"n": 4}]
    for hostile in (f"copy (select 1) to '{bucket}/evil.parquet'", f"from read_text('{bucket}/other')"):
        with pytest.raises(guard.SqlRefused):
            guard.ask(library, hostile, live=True)


def test_processes_write_at_once_while_a_compactor_works(bucket, seen_ids) -> None:
    library, count = f"{bucket}/crowd", 6
    command = [sys.executable, "-c", WRITER, library]
    root = Path(__file__).parents[2]
    writers = [
        subprocess.Popen([*command, f"w{i}", str(count)], stdout=subprocess.PIPE, text=True, cwd=root, env=os.environ)
        for i in range(3)
    ]
    while any(writer.poll() is None for writer in writers):
        compact.compact(library, AT_ONCE)
    acknowledged = sorted(line for writer in writers for line in writer.communicate()[0].split())
    assert len(acknowledged) == 3 * count
    assert seen_ids(library) == acknowledged
    compact.compact(library, AT_ONCE)
    assert seen_ids(library) == acknowledged


PUSHER = """
import sys
from catalog.push import push
from catalog.store import LeaseHeld
while True:
    try:
        print(push(sys.argv[1], sys.argv[2]).events)
        break
    except LeaseHeld:
        pass
"""


def test_machines_push_their_libraries_into_one(bucket, make_run, seen_ids, tmp_path) -> None:
    """Two at once, one of them twice; the older delivery of an asset does not replace the newer one."""
    target, want = f"{bucket}/gathered", []
    for machine in ("a", "b"):
        home = tmp_path / machine
        for asset in (machine, "both"):
            for stage, place in (("evaluate", f"stages/evaluate/{machine}{asset}"), ("record", f"assets/{asset}")):
                content = f"{machine} {asset} {stage}".encode()
                file = Artifact("glb", f"{place}/asset.glb", hashlib.sha256(content).hexdigest(), len(content))
                run = make_run(asset, stage, stage_key=f"{machine}{asset}", artifacts=(file,))
                (home / place).mkdir(parents=True)
                (home / place / "asset.glb").write_bytes(content)
                if stage == "evaluate":
                    (home / place / "record.json").write_text(json.dumps(run.to_json()))
                append(home, [run], keep=stage == "record")
                want.append(run.event_id)
    command = [sys.executable, "-c", PUSHER]
    options = {"stdout": subprocess.PIPE, "cwd": Path(__file__).parents[2], "env": os.environ}
    pushers = [subprocess.Popen([*command, tmp_path / machine, target], **options) for machine in ("a", "b", "b")]
    assert sorted(int(pusher.communicate()[0]) for pusher in pushers) == [0, 4, 4]
    push.push(tmp_path / "a", target)
    assert seen_ids(target) == want
    assert fsck(target) == []
    assert open_store(target).filesystem.cat_file("farm/gathered/assets/both/asset.glb") == b"b both record"
    again = push.push(tmp_path / "a", target)
    assert (again.files, again.events) == (0, 0)
    open_store(target).filesystem.rm("farm/gathered/catalog", recursive=True)
    assert rebuild.rebuild(target).added == 8


def test_files_that_rows_named_are_pushed_looked_at_and_collected(bucket, make_run, tmp_path) -> None:
    target, home = f"{bucket}/started", tmp_path / "home"
    names = [f"{hashlib.sha256(content).hexdigest()}.ply" for content in (b"named", b"forgotten")]
    spec = {"init_file": {"name": "mug.ply", "sha256": names[0].removesuffix(".ply")}}
    append(home, [make_run("mug", "request", spec_json=json.dumps(spec), artifacts=(), stage_key=None)])
    (home / "inputs").mkdir()
    for name, content in zip(names, (b"named", b"forgotten"), strict=True):
        (home / "inputs" / name).write_bytes(content)
    assert push.push(home, target).files == 2
    assert push.push(home, target).files == 0
    assert fsck(target) == []
    assert gc.gc(target, delete=True, min_age_s=-60.0).inputs == [(names[1], 9)]
    assert [entry.name for entry in open_store(target).inputs()] == [names[0]]


def test_what_cannot_be_reached_is_told_in_one_line(bucket, monkeypatch, tmp_path) -> None:
    from typer.testing import CliRunner

    from catalog.cli import app

    def ask(library: str) -> str:
        done = CliRunner().invoke(app, ["sql", "from assets", "--library", library])
        assert done.exit_code == 2 and done.output.startswith("error: ") and "Traceback" not in done.output, done.output
        return done.output

    assert "no library at s3://farm/nothing" in ask(f"{bucket}/nothing")
    assert "Protocol not known" in ask("s4://farm/nothing")
    monkeypatch.setattr(open_store(bucket).filesystem, "exists", _refuse)
    assert "cannot be reached" in ask(f"{bucket}/elsewhere")


def _refuse(*arguments: object) -> None:
    from botocore.exceptions import EndpointConnectionError

    raise EndpointConnectionError(endpoint_url="http://127.0.0.1:9")


def test_the_lease_is_held_by_one_and_taken_over_when_it_runs_out(bucket) -> None:
    store = open_store(f"{bucket}/lease")
    with store.lease(ttl=60), pytest.raises(LeaseHeld, match="holds"), open_store(f"{bucket}/lease").lease():
        pass
    with store.lease(ttl=-1), open_store(f"{bucket}/lease").lease(ttl=60):
        pass  # the first one's time was over
    with store.lease():
        pass


def test_a_lease_that_others_took_since_it_was_read_is_not_taken(bucket, monkeypatch) -> None:
    """Between this one's look at the chain and its PUT, others take and leave the lease and clear the old numbers."""
    store, rival = open_store(f"{bucket}/raced"), open_store(f"{bucket}/raced")
    with store.lease():
        pass
    create = store.create

    def late(name: str, data: bytes) -> bool:
        monkeypatch.setattr(store, "create", create)
        for _ in range(2):
            with rival.lease():
                pass
        rival.remove("lease-compactor/000000000002.json")
        return create(name, data)

    monkeypatch.setattr(store, "create", late)
    with pytest.raises(LeaseHeld, match="just taken"), store.lease():
        pass
    with store.lease():
        pass


def test_fsck_rebuild_gc_and_gallery(bucket, make_run, seen_ids, tmp_path) -> None:
    library = f"{bucket}/care"
    store = open_store(library)
    run = make_run(stage="extract_mesh", stage_key="k1", artifacts=())
    old = make_run("vase", "extract_mesh", stage_key="k0", artifacts=())
    newer = make_run("vase", "extract_mesh", stage_key="k2", artifacts=())
    for each in (run, old, newer):
        place = f"farm/care/stages/extract_mesh/{each.stage_key}"
        store.filesystem.pipe_file(f"{place}/record.json", json.dumps(each.to_json()).encode())
        store.filesystem.pipe_file(f"{place}/mesh.glb", b"x" * 10)
    assert rebuild.rebuild(library).added == 3
    store.create(f"live/{run.event_id[:-4]}ffff.1.parquet", b"torn")
    assert [finding.kind for finding in fsck(library)] == ["torn"]
    assert [finding.kind for finding in fsck(library, repair=True)] == ["torn", "restored"]
    assert seen_ids(library) == sorted([run.event_id, old.event_id, newer.event_id])
    assert gc.gc(library, min_age_s=-60).outputs[0][:2] == ("extract_mesh", "k0")
    gc.gc(library, delete=True, min_age_s=-60)
    assert sorted(store.filesystem.ls("farm/care/stages/extract_mesh", refresh=True)) == [
        "farm/care/stages/extract_mesh/k1",
        "farm/care/stages/extract_mesh/k2",
    ]
    with pytest.raises(RequestError, match="local folder"):
        write_gallery(library)
    assert "chair-07" in write_gallery(library, tmp_path / "gallery").read_text()
