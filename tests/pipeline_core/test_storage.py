"""The library: keys, publication that a kill cannot tear, resumption that trusts sha256 only."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_core.errors import RequestError
from pipeline_core.storage import Library, sha256_file, stage_key

KEY = "0" * 32


def publish(library, stage="init_points", key=KEY, data=b"points"):
    """A small output with its record, as a stage makes it."""
    with library.workspace() as folder:
        (folder / "points.ply").write_bytes(data)
        outputs = library.outputs(folder, library.stage_dir(stage, key))
        return library.publish(folder, stage, key, {"stage_key": key, "artifacts": outputs})


@pytest.fixture
def library(tmp_path):
    return Library(tmp_path / "library").create()


@given(
    st.dictionaries(
        st.text(max_size=5), st.integers() | st.text(max_size=9) | st.lists(st.text(max_size=3)), max_size=4
    )
)
def test_keys_follow_content_and_not_order(parts):
    parts = {f"p{name}": value for name, value in parts.items()}
    key = stage_key("init_points", 1, **parts)
    assert key == stage_key("init_points", 1, **dict(reversed(parts.items())))
    assert len({key, stage_key("init_points", 2, **parts), stage_key("evaluate", 1, **parts)}) == 3
    assert key != stage_key("init_points", 1, **parts, more=1)


def test_what_is_published_is_found(library):
    record = publish(library)
    assert library.find("init_points", KEY) == record
    assert (library.stage_dir("init_points", KEY) / "points.ply").read_bytes() == b"points"
    assert record["artifacts"][0]["path"] == f"stages/init_points/{KEY}/points.ply"
    assert not any((library.root / "tmp").iterdir())
    assert library.find("init_points", "1" * 32) is None


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "no record", "half a record", "foreign record"])
def test_damaged_outputs_are_not_found_and_leave_room_for_new_ones(library, harm, quick):
    publish(library)
    folder = library.stage_dir("init_points", KEY)
    if harm == "flip":
        (folder / "points.ply").write_bytes(b"pointz")
        os.utime(folder / "points.ply", ns=(1, 1))
    elif harm == "truncate":
        (folder / "points.ply").write_bytes(b"poin")
    elif harm == "delete":
        (folder / "points.ply").unlink()
    elif harm == "no record":
        (folder / "record.json").unlink()
    elif harm == "half a record":
        (folder / "record.json").write_text('{"stage_key": "')
    else:
        (folder / "record.json").write_text(json.dumps({"stage_key": "1" * 32, "artifacts": []}))
    assert library.find("init_points", KEY, quick=quick) is None
    publish(library, data=b"again")
    assert library.find("init_points", KEY) is not None


def test_a_quick_look_spares_the_hash_of_untouched_files_only(library, monkeypatch):
    publish(library)
    monkeypatch.setattr("pipeline_core.storage.sha256_file", lambda path: pytest.fail("hashed"))
    assert library.find("init_points", KEY, quick=True)
    monkeypatch.undo()
    os.utime(library.stage_dir("init_points", KEY) / "points.ply", ns=(5, 5))  # copied, say: same bytes, other time
    assert library.find("init_points", KEY, quick=True)


def test_the_first_of_many_publishers_wins_and_all_get_its_record(library):
    records, start = [], threading.Barrier(8)

    def work(number):
        start.wait()
        records.append(publish(library, data=b"%d" % number))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(records) == 8 and all(record == records[0] for record in records)
    assert library.find("init_points", KEY) == records[0]


def test_assets_are_replaced_as_a_whole(library):
    for content in (b"one", b"two"):
        with library.workspace() as folder:
            (folder / "asset.glb").write_bytes(content)
            if content == b"one":
                (folder / "old.txt").write_bytes(b"")
            library.publish_asset(folder, "mug")
    assert [path.name for path in library.asset_dir("mug").iterdir()] == ["asset.glb"]
    assert (library.asset_dir("mug") / "asset.glb").read_bytes() == b"two"
    assert not any((library.root / "tmp").iterdir())


KILLED = """
import os, signal, sys
from pipeline_core import storage
library = storage.Library(sys.argv[1])
step = int(sys.argv[2])
calls = 0
def maybe_die(original):
    def wrapped(*args, **kwargs):
        global calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return wrapped
for name in ("fsync", "rename", "open", "scandir", "mkdir"):
    setattr(os, name, maybe_die(getattr(os, name)))
with library.workspace() as folder:
    (folder / "points.ply").write_bytes(b"points")
    outputs = library.outputs(folder, library.stage_dir("init_points", "0" * 32))
    library.publish(folder, "init_points", "0" * 32, {"stage_key": "0" * 32, "artifacts": outputs})
"""


def test_a_kill_at_any_system_call_leaves_all_or_nothing(library):
    outcomes = set()
    for step in range(1, 16):
        child = subprocess.run([sys.executable, "-c", KILLED, str(library.root), str(step)], timeout=60)
        found = library.find("init_points", KEY)
        assert found is not None or not library.stage_dir("init_points", KEY).exists()
        outcomes.add((child.returncode, found is not None))
        if child.returncode == 0:
            break
    assert (-signal.SIGKILL, False) in outcomes and (0, True) in outcomes
    assert library.sweep() > 0 and not any((library.root / "tmp").iterdir())


def test_sweeping_spares_what_living_processes_work_on(library):
    with library.workspace() as folder:
        assert library.sweep() == 0 and folder.is_dir()


def test_sweeping_takes_half_checkpoints_of_long_ago_only(library):
    folder = library.create().root / "checkpoints"
    old, new, whole = (folder / name for name in (".a.1.part", ".b.2.part", "a.safetensors"))
    for path in (old, new, whole):
        path.write_bytes(b"x")
        os.utime(path, (0, 0) if path != new else None)
    assert library.sweep() == 1 and not old.exists() and new.exists() and whole.exists()


def test_places_that_cannot_be_a_library_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="another folder"):
        Library(tmp_path / "file" / "library").create()


@pytest.mark.parametrize("asset_id", ["..", "a/b", "", ".x"])
def test_paths_are_made_of_plain_ids_only(library, asset_id):
    with pytest.raises(AssertionError):
        library.asset_dir(asset_id)


def test_a_file_that_goes_away_while_it_is_looked_at_is_damaged(library, monkeypatch):
    publish(library)

    def gone(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr("pipeline_core.storage.known_sha256", gone)
    assert library.whole_file("init_points", KEY, "points.ply") is None


def test_what_is_deleted_is_forgotten(library, monkeypatch):
    """On a disk that knows times by the second, a new file may have the marks of one that was deleted."""
    monkeypatch.setattr("pipeline_core.storage._mark", lambda path: (path.stat().st_size,))
    for data in (b"one", b"two"):
        with library.workspace() as folder:
            (folder / "points.ply").write_bytes(data)
            (told,) = library.outputs(folder, library.stage_dir("init_points", KEY))
            assert told["sha256"] == sha256_file(folder / "points.ply")
