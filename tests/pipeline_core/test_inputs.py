"""Files that manifest rows name: where they may lie, what they are known by, and the library's copies of them."""

import json
import os

import pytest

from pipeline_core.errors import ManifestError
from pipeline_core.files import Hashes
from pipeline_core.inputs import Inputs
from pipeline_core.manifest import load_manifest
from pipeline_core.spec import FILES, AssetSpec, FileColumn, FileRef
from pipeline_core.storage import Library, sha256_file

MESH = b"ply\nformat ascii 1.0\nelement vertex 0\nend_header\n"


@pytest.fixture
def folder(tmp_path):
    """A manifest's folder with a file, and a file beside that folder."""
    home = tmp_path / "home"
    (home / "starts").mkdir(parents=True)
    (home / "starts" / "mug.ply").write_bytes(MESH)
    (tmp_path / "secret.ply").write_bytes(b"secret")
    return home


def manifest(folder, *names):
    path = folder / "props.jsonl"
    rows = ({"id": f"a{i}", "prompt": "a mug", "init_file": name} for i, name in enumerate(names))
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_row_s_file_is_in_its_spec_by_name_and_content_and_says_how_the_asset_starts(folder):
    read = load_manifest(manifest(folder, " starts/mug.ply ", "starts/../starts/mug.ply"))
    first, second = read.specs
    assert first.init_file == FileRef(name="starts/mug.ply", sha256=sha256_file(folder / "starts" / "mug.ply"))
    assert first.recipe.init.start == "file" and first.recipe.name == "factory"
    assert first.init_file.file == second.init_file.file == f"{first.init_file.sha256}.ply"
    assert read.sources[first.init_file] == (folder / "starts" / "mug.ply").resolve()
    assert AssetSpec.from_json(first.to_json()) == first


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../secret.ply", "no link or .. leads out of; copy it there, or give --allow-outside"),
        ("{folder}/../secret.ply", "in the manifest's folder"),
        ("link.ply", "in the manifest's folder"),
        ("linked/secret.ply", "in the manifest's folder"),
        ("/dev/zero.ply", "there is none"),
        ("starts/bowl.ply", "there is none of this name in"),
        ("starts/mug.ply/x.ply", "can be read"),
        ("loop.ply", "can be read"),
        ("starts", ".ply or .glb or .obj"),
        ("starts/mug.pkl", ".ply or .glb or .obj"),
        ("folder.ply", "this is a folder, a device or a pipe"),
        ("pipe.ply", "this is a folder, a device or a pipe"),
        ("empty.ply", "1 to 536870912 bytes; this has 0"),
        ("big.ply", "1 to 536870912 bytes; this has 536870913"),
        ("starts/mug\x00.ply", "relative to the manifest"),
        ("x" * 2000 + ".ply", "relative to the manifest"),
        (["starts/mug.ply"], "relative to the manifest"),
        (7, "relative to the manifest"),
    ],
)
def test_what_cannot_be_a_file_is_refused_with_its_row_and_the_others_are_made(folder, name, words):
    (folder / "link.ply").symlink_to(folder.parent / "secret.ply")
    (folder / "linked").symlink_to(folder.parent)
    (folder / "loop.ply").symlink_to("loop.ply")
    (folder / "folder.ply").mkdir()
    (folder / "empty.ply").touch()
    os.mkfifo(folder / "pipe.ply")
    with (folder / "big.ply").open("wb") as file:
        file.truncate(FILES["init_file"].most_bytes + 1)
    name = name.format(folder=folder) if isinstance(name, str) else name
    path = manifest(folder, "starts/mug.ply", name)
    with pytest.raises(ManifestError) as caught:
        load_manifest(path)
    [head, line] = str(caught.value).splitlines()
    assert head == "1 problem" and line.startswith(f"{path}, row 2, init_file, ") and words in line
    assert [spec.asset_id for spec in load_manifest(path, skip_invalid=True).specs] == ["a0"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused(folder):
    (folder / "starts" / "mug.ply").chmod(0)
    with pytest.raises(ManifestError, match=r"can be read .Permission denied"):
        load_manifest(manifest(folder, "starts/mug.ply"))


@pytest.mark.parametrize("name", ["../secret.ply", "{folder}/../secret.ply", "link.ply"])
def test_files_outside_may_be_allowed(folder, name):
    (folder / "link.ply").symlink_to(folder.parent / "secret.ply")
    read = load_manifest(manifest(folder, name.format(folder=folder)), allow_outside=True)
    assert list(read.sources.values()) == [(folder.parent / "secret.ply").resolve()]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"init.start": "file"}, "row 1: init.start is file, so init_file must name one"),
        (
            {"init.start": "ball", "init_file": "starts/mug.ply"},
            "row 1: init_file is given, so init.start must be file, not ball",
        ),
    ],
)
def test_a_start_and_a_file_that_do_not_fit_are_refused_with_their_row(folder, cells, words):
    path = folder / "props.jsonl"
    path.write_text(json.dumps({"prompt": "a mug"} | cells))
    with pytest.raises(ManifestError, match=words):
        load_manifest(path)


def test_what_is_known_is_not_read_again_and_what_was_touched_is(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SPLATMILL_CACHE", str(tmp_path / "cache"))
    file = folder / "starts" / "mug.ply"
    file.write_bytes(b"x" * (1 << 20) + b"y")
    with Hashes() as hashes:
        digest = hashes.sha256(file)
    assert digest == sha256_file(file)
    kept = json.loads((tmp_path / "cache" / "sha256.json").read_text())
    kept[str(file)][-1] = "f" * 64
    (tmp_path / "cache" / "sha256.json").write_text(json.dumps(kept))
    assert Inputs(folder / "m.csv").look_up("init_file", "starts/mug.ply").sha256 == "f" * 64
    stat = file.stat()
    file.write_bytes(b"x" * (1 << 20) + b"z")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # another content of the same size and time of change
    assert Inputs(folder / "m.csv").look_up("init_file", "starts/mug.ply").sha256 == sha256_file(file)
    (tmp_path / "cache" / "sha256.json").write_text("[half")
    assert Inputs(folder / "m.csv").look_up("init_file", "starts/mug.ply").sha256 == sha256_file(file)


def test_a_file_that_is_gone_is_the_library_s_where_it_was_kept(folder):
    inputs = Inputs(folder / "m.csv", kept={"bowl.ply": "a" * 64, "starts/mug.ply": "b" * 64})
    assert inputs.look_up("init_file", "bowl.ply") == FileRef(name="bowl.ply", sha256="a" * 64)
    assert inputs.look_up("init_file", "starts/mug.ply").sha256 == sha256_file(folder / "starts" / "mug.ply")
    assert len(inputs.sources) == 1


def test_the_library_s_copy_is_named_by_content_and_made_once(folder, tmp_path):
    library, source = Library(tmp_path / "library"), folder / "starts" / "mug.ply"
    ref = FileRef(name="starts/mug.ply", sha256=sha256_file(source))
    assert library.whole_input(ref) is None
    assert library.keep_input(ref, source)
    copy = library.root / "inputs" / f"{ref.sha256}.ply"
    assert library.whole_input(ref) == copy and copy.read_bytes() == MESH
    inode = copy.stat().st_ino
    assert library.keep_input(ref, source) and copy.stat().st_ino == inode
    copy.write_bytes(b"damaged")
    assert library.whole_input(ref) is None
    assert library.keep_input(ref, source) and copy.read_bytes() == MESH
    assert list((library.root / "tmp").iterdir()) == []


def test_a_file_that_changed_since_it_was_planned_is_not_kept(folder, tmp_path):
    library, source = Library(tmp_path / "library"), folder / "starts" / "mug.ply"
    ref = FileRef(name="starts/mug.ply", sha256=sha256_file(source))
    source.write_bytes(b"another")
    assert not library.keep_input(ref, source)
    source.unlink()
    assert not library.keep_input(ref, source)
    assert library.whole_input(ref) is None


def test_a_name_is_never_a_path_in_the_library():
    ref = FileRef(name="../../etc/x.PLY", sha256="0" * 64)
    assert ref.file == "0" * 64 + ".ply"
    assert isinstance(FILES["init_file"], FileColumn)
    for name, sha256 in (("x.sh", "0" * 64), ("x.ply", "../" + "0" * 61), ("", "0" * 64)):
        with pytest.raises(ValueError):
            FileRef(name=name, sha256=sha256)
