"""``splatmill export --dataset``: what is in it, in which split, as which bytes, and what others read of it."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from catalog.schema import Artifact, StageRun, model, request, review
from catalog.writer import append
from flows import dataset
from flows.cli import app
from flows.export import Asked
from pipeline_core.io.xmp import read
from tests.finished_asset import HOSTILE, finished

PROMPTS = {
    "mug": "a blue mug", "mug-2": "A  blue mug!", "chair": HOSTILE, "twin": "a seat", "bad": "a lump", "nc": "a boat",
    "well": "a grey well",
}  # fmt: skip
LOOKS = {"twin": "chair"}
"""Who looks as whom; everyone else looks like nobody."""


def row(name: str, at: int) -> StageRun:
    look = int.from_bytes(hashlib.sha256(LOOKS.get(name, name).encode()).digest()[:24])
    words = {f"look_{part}": float(look >> 48 * part & (1 << 48) - 1) for part in range(4)}
    artifact = Artifact("glb", f"assets/{name}/asset.glb", "0" * 64, 1, "model/gltf-binary")
    return StageRun(
        run_id="night", asset_id=name, stage="record", status="ok", artifacts=(artifact,), seed=at,
        model_ids=("closed@1" if name == "nc" else "free@1",), metrics=words | {"faces": 12.0, "fidelity": 0.1 * at},
    )  # fmt: skip


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Two seeds of a prompt, two that look alike, a rejected one, one of a model that may not be sold, a plain one."""
    folder = tmp_path_factory.mktemp("library")
    append(folder, [model("free@1", kind="image", licence="Apache-2.0", licence_class="open")])
    append(folder, [model("closed@1", kind="image", licence="cc-by-nc-4.0", licence_class="non-commercial")])
    for at, (name, prompt) in enumerate(PROMPTS.items()):
        append(folder, [request("night", name, {"prompt": prompt, "seed": at, "tags": {}}), row(name, at)])
        finished(folder / "assets", name, prompt=prompt)
    append(folder, [review("bad", False, by="anna")])
    return folder


def splatmill(*words):
    return CliRunner().invoke(app, ["export", "--dataset", *map(str, words)])


def rows_in(folder) -> dict[str, dict]:
    tables = [pq.read_table(path) for path in sorted((folder / "parquet").iterdir())]
    return {row["asset_id"]: row for table in tables for row in table.to_pylist()}


def contents(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_accepted_assets_once_each_as_tar_and_parquet(library, tmp_path) -> None:
    done = splatmill("--all", "--to", tmp_path / "set", "--library", library)
    assert done.exit_code == 0, done.output
    assert "1 left out: near-duplicate" in done.output and "1 left out: rejected" in done.output
    assert rows_in(tmp_path / "set").keys() == {"mug", "mug-2", "chair", "nc", "well"}
    told = json.loads((tmp_path / "set/dataset.json").read_text())
    assert told["left_out"] == {"bad": "rejected", "twin": "near-duplicate: it looks like chair"}
    rows = rows_in(tmp_path / "set")
    for asset_id, each in rows.items():
        with tarfile.open(tmp_path / "set" / each["shard"]) as tar:
            members = {m.name: tar.extractfile(m).read() for m in tar if m.name.split(".")[0] == asset_id}
            assert all((m.mtime, m.uid, m.mode) == (0, 0, 0o644) for m in tar)
        assert list(members) == each["members"] and {f"{asset_id}.glb", f"{asset_id}.ply"} <= members.keys()
        assert members[f"{asset_id}.txt"].decode() == PROMPTS[asset_id] == each["prompt"]
        facts = json.loads(members[f"{asset_id}.json"])
        assert facts["split"] == each["split"] and "trainedAlgorithmicMedia" in facts["digital_source_type"]
        assert read(members[f"{asset_id}.glb"]).generated
    assert rows["mug"]["split"] == rows["mug-2"]["split"] and rows["mug"]["group"] == rows["mug-2"]["group"]


def test_rejects_come_marked_and_near_duplicates_only_within_a_split(library, tmp_path) -> None:
    asked = Asked(rejected=True, with_duplicates=True, formats="parquet")
    told = dataset.make_dataset(str(library), list(PROMPTS), tmp_path / "set", asked)
    rows = rows_in(tmp_path / "set")
    assert rows["bad"]["accepted"] is False and rows["bad"]["verdict"] == "rejected"
    assert rows["mug"]["accepted"] and rows["mug"]["glb"].startswith(b"glTF") and rows["mug"]["shard"] is None
    same = dataset.split_of(PROMPTS["chair"])[1] == dataset.split_of(PROMPTS["twin"])[1]
    assert ("twin" in rows) == same and ("twin" in told["left_out"]) != same


def test_what_comes_later_moves_nothing(library, tmp_path) -> None:
    asked = Asked(rejected=True)
    few = dataset.make_dataset(str(library), ["mug", "chair", "well"], tmp_path / "few", asked)
    more = dataset.make_dataset(str(library), list(PROMPTS), tmp_path / "more", asked)
    before, after = ({name: row["split"] for name, row in rows_in(tmp_path / set_).items()} for set_ in ("few", "more"))
    assert sum(few["splits"].values()) == 3 and sum(more["splits"].values()) == 6
    assert before.items() <= after.items()
    shares = [dataset.split_of(f"prompt {at}")[1] for at in range(2000)]
    assert 0.77 < shares.count("train") / 2000 < 0.83 and 0.08 < shares.count("test") / 2000 < 0.12


def test_the_same_selection_gives_the_same_bytes_and_a_stopped_run_goes_on(library, tmp_path, monkeypatch) -> None:
    asked = Asked(shard_mb=0.01)
    dataset.make_dataset(str(library), list(PROMPTS), tmp_path / "one", asked)
    write, done = dataset.write_shard, []

    def stopped(store, part, shard, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(shard)
        write(store, part, shard, *rest)

    monkeypatch.setattr(dataset, "write_shard", stopped)
    with pytest.raises(KeyboardInterrupt):
        dataset.make_dataset(str(library), list(PROMPTS), tmp_path / "two", asked)
    assert not (tmp_path / "two").exists()
    first, done[:] = list(done), []
    with pytest.raises(KeyboardInterrupt):
        dataset.make_dataset(str(library), list(PROMPTS), tmp_path / "two", asked)
    assert not set(first) & set(done)
    monkeypatch.setattr(dataset, "write_shard", write)
    dataset.make_dataset(str(library), list(PROMPTS), tmp_path / "two", asked)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two and len([name for name in one if name.endswith(".tar")]) == 5
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_nothing_that_is_there_is_overwritten(library, tmp_path) -> None:
    place = tmp_path / "set"
    assert splatmill("mug", "--to", place, "--library", library).exit_code == 0
    before = contents(place)
    assert splatmill("mug", "--to", place, "--library", library).exit_code == 0
    refused = splatmill("mug", "well", "--to", place, "--library", library)
    assert refused.exit_code == 2 and "something else is there" in refused.output
    assert contents(place) == before


def test_the_gate_of_licences_and_other_refusals_write_nothing(library, tmp_path) -> None:
    def refused(*words) -> str:
        done = splatmill(*words, "--to", tmp_path / "set", "--library", library)
        assert done.exit_code == 2 and not (tmp_path / "set").exists()
        return " ".join(done.output.split())

    assert "nc (non-commercial)" in refused("mug", "nc", "--commercial")
    assert "a dataset is of webdataset and parquet" in refused("mug", "--format", "glb")
    assert "bad: rejected" in refused("bad")
    assert "never-made: not delivered" in refused("never-made")
    assert splatmill("mug", "--commercial", "--to", tmp_path / "set", "--library", library).exit_code == 0


def test_a_broken_asset_costs_only_itself(library, tmp_path) -> None:
    glb = library / "assets/well/asset.glb"
    whole = glb.read_bytes()
    try:
        glb.write_bytes(whole[:-1])
        done = splatmill("well", "mug", "--to", tmp_path / "set", "--library", library)
    finally:
        glb.write_bytes(whole)
    assert done.exit_code == 1 and "well: not exported" in done.output
    assert rows_in(tmp_path / "set").keys() == {"mug"}


def test_the_card_is_what_the_hub_reads(library, tmp_path) -> None:
    splatmill("mug", "chair", "--to", tmp_path / "set", "--library", library)
    page = (tmp_path / "set/README.md").read_text()
    head = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", page, re.S).group(1))
    assert head["license"] == "apache-2.0" and head["size_categories"] == ["n<1K"]
    (config,) = head["configs"]
    assert config["data_files"] and all(list((tmp_path / "set").glob(each["path"])) for each in config["data_files"])
    assert "generated" in page and "`clauses`" in page and (tmp_path / "set/ATTRIBUTION.md").is_file()
    splatmill("mug", "nc", "--to", tmp_path / "closed", "--library", library)
    closed = (tmp_path / "closed/README.md").read_text()
    assert "license: other\nlicense_name: models-non-commercial\nlicense_link: ATTRIBUTION.md\n" in closed
