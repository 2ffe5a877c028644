"""A library in a bucket: what counts, what is removed, what is kept on this machine."""

import json
import os
import time

import pytest

from pipeline_core import bucket_library
from pipeline_core.bucket import BucketPath
from pipeline_core.errors import RequestError
from pipeline_core.spec import FileRef
from pipeline_core.storage import Library, sha256_file

KEY = "0123456789abcdef" * 2


@pytest.fixture
def library(bucket, request):
    return Library(f"{bucket}/libraries/{request.node.name}").create()


def publish(library, content=b"points", *, stop=False):
    with library.workspace() as folder:
        (folder / "points.ply").write_bytes(content)
        outputs = library.outputs(folder, library.stage_dir("init_points", KEY))
        if stop:
            library._put(folder, outputs[0])
            return None
        return library.publish(folder, "init_points", KEY, {"stage_key": KEY, "artifacts": outputs, "by": str(content)})


def files(library):
    root = library.root
    return sorted(path.removeprefix(root.path + "/") for path in root.filesystem.find(root.path))


def test_what_was_published_is_found_whole_and_read_from_a_copy(library):
    assert library.find("init_points", KEY) is None and not library.has("init_points", KEY)
    record = publish(library)
    assert library.has("init_points", KEY)
    assert library.find("init_points", KEY) == library.find("init_points", KEY, quick=True) == record
    copy = library.whole_file("init_points", KEY, "points.ply")
    assert copy.read_bytes() == b"points" and copy.is_relative_to(library.local)
    copy.write_bytes(b"rotten")
    assert library.whole_file("init_points", KEY, "points.ply").read_bytes() == b"points"
    assert library.whole_file("init_points", KEY, "splat.ply") is None
    assert list((library.local / "tmp").iterdir()) == []


def test_half_an_upload_counts_for_nothing(library):
    publish(library, stop=True)
    assert len(files(library)) == 2 and library.find("init_points", KEY) is None
    publish(library)
    assert library.find("init_points", KEY)["by"] == "b'points'"


def test_of_two_that_publish_one_key_the_first_counts(library):
    first = publish(library, b"one")
    assert publish(library, b"two") == first
    assert library.whole_file("init_points", KEY, "points.ply").read_bytes() == b"one"
    assert len(files(library)) == 3  # the second's file is gone


@pytest.mark.parametrize("quick", [True, False])
def test_what_is_damaged_is_removed_and_made_again(library, quick):
    record = publish(library)
    path = library.root / record["artifacts"][0]["path"]
    path.write_bytes(b"stolen")
    assert library.find("init_points", KEY, quick=quick) is None
    assert files(library) == ["create-only"]
    (library.stage_dir("init_points", KEY) / "record.json").write_bytes(b"torn")
    assert library.find("init_points", KEY, quick=quick) is None and files(library) == ["create-only"]


def deliver(library, content, **more):
    with library.workspace() as folder:
        for name, data in ({"asset.glb": content} | more).items():
            (folder / name).write_bytes(data)
        outputs = library.outputs(folder, library.asset_dir("mug"))
        library.publish_asset(folder, "mug")
    with library.workspace() as empty:
        return library.publish(empty, "record", KEY, {"stage_key": KEY, "artifacts": outputs})


def test_deliverables_keep_their_address_and_their_record_tells_when_they_change(library):
    deliver(library, b"one", **{"old.png": b"p"})
    assert library.file("assets/mug/asset.glb").read_bytes() == b"one"
    assert library.find("record", KEY, quick=True)
    deliver(library, b"two")  # another process, which did not see the first: its files lie there now
    assert files(library) == ["assets/mug/asset.glb", "create-only", f"stages/record/{KEY}/record.json"]
    assert library.find("record", KEY, quick=True) and library.file("assets/mug/asset.glb").read_bytes() == b"two"
    (library.asset_dir("mug") / "asset.glb").write_bytes(b"six")
    assert library.find("record", KEY, quick=True) is None


def test_files_that_rows_named(library, tmp_path):
    (tmp_path / "start.ply").write_bytes(b"ply")
    ref = FileRef(name="start.ply", sha256=sha256_file(tmp_path / "start.ply"))
    assert library.whole_input(ref) is None
    assert library.keep_input(ref, tmp_path / "start.ply") and library.whole_input(ref).read_bytes() == b"ply"
    (tmp_path / "start.ply").write_bytes(b"other")
    assert not library.keep_input(ref, tmp_path / "start.ply")


def test_copies_are_bounded_the_longest_unused_first(library, monkeypatch):
    for content in (b"a", b"bb", b"ccc"):
        library.discard("init_points", KEY)
        publish(library, content)
    copies = {sum(each.stat().st_size for each in f.iterdir()): f for f in (library.local / "files").iterdir()}
    assert library.forget_copies(0) == 0  # all are in use
    for age, folder in enumerate((copies[2], copies[1], copies[3])):
        os.utime(folder, (time.time() - 9000 + age,) * 2)
    assert library.forget_copies(3) == 2 and list((library.local / "files").iterdir()) == [copies[3]]
    monkeypatch.setenv(bucket_library.SIZE, "many")
    with pytest.raises(RequestError, match="SPLATMILL_COPIES_GB='many'"):
        library.create()


def test_a_bucket_that_is_not_there_and_an_address_of_no_store_are_refused(bucket, monkeypatch):
    with pytest.raises(RequestError, match="--library s3://nowhere/props: "):
        Library("s3://nowhere/props").create()
    with pytest.raises(RequestError, match=r"Protocol not known"):
        Library("s4://farm/props")
    monkeypatch.setattr("fsspec.core.url_to_fs", lambda *a, **more: (_ for _ in ()).throw(ImportError("Install s3fs")))
    with pytest.raises(RequestError, match=r"Install s3fs. S3 needs `pip install 'splatmill\[s3\]'`"):
        Library("s3://farm/props")


def test_a_record_names_what_lies_there(library):
    record = publish(library)
    (artifact,) = record["artifacts"]
    assert artifact["path"].startswith(f"stages/init_points/{KEY}/") and "mtime_ns" not in artifact
    told = json.loads((library.stage_dir("init_points", KEY) / "record.json").read_bytes())
    assert told == record and BucketPath(f"{library.root}/{artifact['path']}").stat().tag == artifact["tag"]
