"""The whole thing, as a user starts it: `splatmill run` in processes of its own, at tiny settings, on real code.

The priors are random networks in the starter's own formats, so the assets are blobs; every stage is the real one.
"""

import json
import os
import shutil
import signal
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest

from catalog import query, views
from catalog.rebuild import rebuild
from flows.batch import BatchRequest, plan_batch
from pipeline_core.deliverables import DELIVERABLES
from pipeline_core.io.gltf import load_glb
from pipeline_core.io.ply import load_splat
from pipeline_core.io.xmp import read_file
from pipeline_core.manifest import parse_override
from pipeline_core.metrics.look import NEAR, distance, look
from pipeline_core.stages import names
from pipeline_core.storage import sha256_file
from tasks.rules import RESEEDS, reseeded
from tasks.stage import stage_run, with_times
from tests.bench import deliverables
from tests.flows.conftest import environment, splatmill
from tests.flows.tiny import settings
from tests.gltf_check import check_glb

pytestmark = pytest.mark.slow


def executed(library):
    """How often each stage of each asset was really done."""
    rows = query.rows(library, "select asset_id, stage, count(*) as n from stage_runs where status = 'ok' group by all")
    return {(row["asset_id"], row["stage"]): row["n"] for row in rows if row["stage"] in names()}


def children_of(folder):
    """Processes that mention ``folder`` on their command line or in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            text = " ".join([*process.cmdline(), process.environ().get("PREFECT_HOME", "")])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if str(folder) in text and process.pid != os.getpid():
            found.append((process.pid, text))
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny):
    """A library made by one run with a server of its own; the run's result."""
    folder = tmp_path_factory.mktemp("made")
    manifest = folder / "props.csv"
    manifest.write_text("id,prompt,seed,tags\nmug,a blue mug,1,set=kitchen\nmushroom,a red mushroom,2,\nbad row,x,1,\n")
    options = [manifest, "--library", folder / "library", "--skip-invalid", *settings(tiny)]
    return folder / "library", options, splatmill("run", *options, env=environment())


def test_a_run_makes_every_asset_quietly_and_leaves_no_process(made):
    library, _, result = made
    assert result.returncode == 1, result.stderr  # the refused row
    assert "2 made" in result.stdout and "refused: " in result.stdout and "row 4, id" in result.stdout
    for word in ("Traceback", "prefect", "Prefect", "httpx", "uvicorn", "INFO", "WARNING"):
        assert word not in result.stdout + result.stderr, result.stderr
    assert children_of(library) == []
    assert not any((library / "tmp").iterdir()) and not any((library / "checkpoints").iterdir())


def test_a_lost_catalogue_comes_back_from_the_records(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "catalog")
    assert rebuild(tmp_path / "copy").unreadable == []
    for name in set(views.VIEWS) - {"stage_runs", "stage_latest"}:
        sql = f"select * from {name} order by all"
        assert query.rows(tmp_path / "copy", sql) == query.rows(made[0], sql), name
    sql = "select * exclude (batch_id) from stage_runs order by event_id"
    assert query.rows(tmp_path / "copy", sql) == query.rows(made[0], sql)


def test_deliverables_are_marked_and_what_validation_found_is_rows(made):
    library, _, _ = made
    for name in ("asset.glb", "preview.png", "turntable.webp"):
        said = read_file(library / "assets" / "mug" / name)
        assert said.generated and said.prompt == "a blue mug"
    told = json.loads(next((library / "stages" / "validate").glob("*/validation.json")).read_text())
    asset = next(row for row in query.assets(library) if row["asset_id"] == "mug")
    rows = query.rows(library, "select code, severity, file, message, count from findings where asset_id = 'mug'")
    assert asset["finding_errors"] == 0 == sum(row["severity"] == "error" for row in rows)
    assert told["validators"]["khronos"] or any(row["code"] == "KHRONOS_VALIDATOR_NOT_RUN" for row in rows)


def test_the_benchmark_of_deliverables_measures_them(made):
    told = deliverables.main(made[0])
    assert told["assets"] == 2 and told["validator_errors"] == 0 and told["frame_error_m"] < 1e-4
    assert {"glb", "obj", "stl", "ply"} <= set(told["formats"])


def test_the_deliverables_are_what_asset_json_says(made):
    library, _, _ = made
    folder = library / "assets" / "mug"
    told = json.loads((folder / "asset.json").read_text())
    assert set(told["files"]) == {row.file for row in DELIVERABLES}
    for name, file in told["files"].items():
        assert sha256_file(folder / name) == file["sha256"] and (folder / name).stat().st_size == file["bytes"]
    assert told["prompt"] == "a blue mug" and told["seed"] == 1 and told["models"]["image"]["id"].startswith("tiny@")
    assert told["code_version"] and told["metrics"]["faces"] > 0 and told["models"]["points"]["licence"] == "unknown"
    assert {each["licence_class"] for each in told["models"].values()} == {"unknown"}
    mesh = load_glb(folder / "asset.glb")
    assert len(mesh.faces) == told["metrics"]["faces"] <= 300 and mesh.texture.shape == (64, 64, 3)
    assert check_glb(folder / "asset.glb", grounded=True) == []
    assert len(load_splat(folder / "splat.ply")) == told["metrics"]["gaussians"]
    assert distance(told["metrics"], look(mesh)) <= NEAR


def test_the_catalogue_knows_every_attempt_and_the_refused_row(made):
    library, _, _ = made
    rows = {row["asset_id"]: row for row in query.assets(library)}
    assert rows["mug"]["status"] == rows["mushroom"]["status"] == "ok"
    assert rows["mug"]["glb_path"] == "assets/mug/asset.glb"
    (refused,) = [row for row in rows.values() if row["status"] == "failed"]
    assert refused["error_type"] == "ManifestError" and "row 4, id" in refused["error_message"]
    assert executed(library) == {(asset, stage): 1 for asset in ("mug", "mushroom") for stage in names()}
    (tags,) = query.rows(library, "select tags from stage_runs where asset_id = 'mug' and stage = 'record'")
    assert dict(tags["tags"]) == {"set": "kitchen"}


def test_running_it_again_does_nothing_and_needs_no_server(made):
    library, options, _ = made
    before = executed(library)
    env = environment("http://127.0.0.1:9/api")  # nobody answers there
    result = splatmill("run", *options, "--json", env=env)
    told = json.loads(result.stdout)
    assert told["made"] == [] and sorted(told["cached"]) == ["mug", "mushroom"] and executed(library) == before


def test_a_damaged_deliverable_or_stage_is_made_again_and_nothing_else(made, prefect_url):
    library, options, _ = made
    before = executed(library)
    (library / "assets" / "mug" / "asset.glb").write_bytes(b"broken")
    _, journeys = plan_batch(_request(options))
    (mug,) = [each for each in journeys if each.asset_id == "mug"]
    (library / "stages" / "refine_texture" / mug.keys["refine_texture"] / "asset.glb").write_bytes(b"broken")
    result = splatmill("run", *options, env=environment(prefect_url))
    assert "1 made, 1 there already" in result.stdout, result.stderr
    again = {pair for pair, count in executed(library).items() if count > before[pair]}
    assert again == {("mug", "refine_texture"), ("mug", "record")}
    assert load_glb(library / "assets" / "mug" / "asset.glb").faces.size


def _request(options):
    manifest, _, library, *rest = options
    sets = [text for flag, text in pairwise(rest) if flag == "--set"]
    return BatchRequest(
        manifest=str(manifest), library=str(library), skip_invalid=True, overrides=dict(map(parse_override, sets))
    )


def test_same_manifest_same_bytes(made, tmp_path, prefect_url):
    """One thread, another library, other company in the batch: geometry and texture are identical, byte for byte."""
    library, options, _ = made
    alone = tmp_path / "alone.csv"
    alone.write_text("id,prompt,seed\nmushroom,a red mushroom,2\n")
    rest = [part for part in options[3:] if part != "--skip-invalid"]
    result = splatmill("run", alone, "--library", tmp_path / "library", *rest, env=environment(prefect_url))
    assert result.returncode == 0, result.stderr
    told = []
    for root in (library, tmp_path / "library"):
        document = json.loads((root / "assets" / "mushroom" / "asset.json").read_text())
        told.append({name: document[name] for name in ("spec", "metrics", "models", "stages", "seed")})
        document["files"].pop("asset.glb")  # it names the code's version, which an edit between the runs changes
        told[-1]["files"] = document["files"]
    assert told[0] == told[1]
    key = told[0]["stages"]["refine_texture"]
    one, other = (root / "stages" / "refine_texture" / key / "asset.glb" for root in (library, tmp_path / "library"))
    assert one.read_bytes() == other.read_bytes()
    for first, second in zip(
        *(_arrays(root / "assets" / "mushroom" / "asset.glb") for root in (library, tmp_path / "library"))
    ):
        assert np.array_equal(first, second)


def _arrays(path):
    mesh = load_glb(path)
    return mesh.vertices, mesh.faces, mesh.normals, mesh.uvs, mesh.texture


def test_a_killed_run_goes_on_where_it_was(manifest, tmp_path, tiny):
    """SIGKILL in the middle of an optimisation: the next run repeats no finished stage, and nothing is left behind."""
    library = tmp_path / "library"
    slow = settings(tiny | {"geometry.steps": 1500, "choice.start_margin": "null"})  # its start would be made as well
    run = splatmill("run", manifest, "-l", library, *slow, env=environment(), start=True, stderr=None, stdout=None)
    deadline = time.monotonic() + 300
    while not (_optimising(library) and executed(library)) and time.monotonic() < deadline:
        assert run.poll() is None
        time.sleep(0.1)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    done = executed(library)
    assert 0 < len(done) < 2 * len(names())
    while children_of(library) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert children_of(library) == []  # the server went with its parent
    result = splatmill("run", manifest, "-l", library, *slow, env=environment())
    assert result.returncode == 0 and "2 made" in result.stdout, result.stderr
    assert executed(library) == {(asset, stage): 1 for asset in ("mug", "mushroom") for stage in names()}
    assert not any((library / "tmp").iterdir()) and not any((library / "checkpoints").iterdir())


def _optimising(library: Path) -> bool:
    """Whether the first asset's cloud is there, and so its optimisation under way."""
    return bool(list(library.glob("stages/init_points/*/record.json")))


def test_interrupted_runs_say_how_to_go_on(manifest, tmp_path, tiny, prefect_url):
    library = tmp_path / "library"
    slow = settings(tiny | {"geometry.steps": 200_000})
    run = splatmill("run", manifest, "-l", library, *slow, env=environment(prefect_url), start=True)
    deadline = time.monotonic() + 300
    while not list(library.glob("checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=120)
    assert run.returncode == 130, err
    assert "2 not finished" in out and "run the same command again" in out
    assert "Traceback" not in err and "stopping" in err
    statuses = query.rows(library, "select distinct status from stage_runs where stage = 'optimize_gaussians'")
    assert [row["status"] for row in statuses] == ["cancelled"]
    assert any((library / "checkpoints").iterdir())


def test_one_bad_asset_does_not_sink_the_batch(tmp_path, tiny, prefect_url):
    """Nothing to mesh from any seed: that asset fails, is recorded, retried alone, and passed over the third time."""
    manifest = tmp_path / "props.csv"
    manifest.write_text("id,prompt,seed\nmug,a blue mug,1\nghost,a red mushroom,2\n")
    library = tmp_path / "library"
    options = ["--library", library, *settings(tiny)]
    env = environment(prefect_url)
    _break_cloud(manifest, library, tiny, seeds=RESEEDS + 1)
    result = splatmill("run", manifest, *options, env=env)
    assert result.returncode == 1 and "1 made" in result.stdout and "1 failed" in result.stdout, result.stderr
    assert "Traceback" not in result.stdout + result.stderr and "splatmill retry" in result.stdout
    status = json.loads(splatmill("status", "-l", library, "--json", env=env).stdout)
    (failed,) = status["failed"]
    assert failed["asset_id"] == "ghost" and failed["error_stage"] == "extract_mesh"
    seeds = query.rows(library, "select distinct seed from stage_runs where error_type is not null")
    assert len(seeds) == RESEEDS + 1
    none = splatmill("retry", manifest, *options, "--stage", "evaluate", env=env)
    assert none.returncode == 0 and "nothing to retry" in none.stderr
    again = splatmill("retry", manifest, *options, "--stage", "extract_mesh", "--error-type", failed["error_type"],
                      "--json", env=env)  # fmt: skip
    assert [each["asset_id"] for each in json.loads(again.stdout)["failures"]] == ["ghost"]
    bare = json.loads(splatmill("retry", "--library", library, "--json", env=env).stdout)  # as the last run had it
    assert [each["asset_id"] for each in bare["failures"]] == ["ghost"] and bare["manifest"] == str(manifest)
    assert bare["asked"] == 1 and bare["cached"] == [] and bare["made"] == []
    third = json.loads(splatmill("run", manifest, *options, "--json", env=env).stdout)
    assert third["quarantined"] == ["ghost"] and third["cached"] == ["mug"] and third["failures"] == []


def test_a_diverged_asset_is_made_from_another_seed(tmp_path, tiny, prefect_url):
    manifest = tmp_path / "props.csv"
    manifest.write_text("id,prompt,seed\nmug,a blue mug,1\nghost,a red mushroom,2\n")
    library = tmp_path / "library"
    options = [manifest, "--library", library, *settings(tiny)]
    _break_cloud(manifest, library, tiny, seeds=1)
    result = splatmill("run", *options, env=environment(prefect_url))
    assert result.returncode == 0 and "2 made" in result.stdout, result.stderr
    told = json.loads((library / "assets" / "ghost" / "asset.json").read_text())
    assert told["seed"] == told["spec"]["seed"] != 2
    again = splatmill("run", *options, "--json", env=environment(prefect_url))
    assert sorted(json.loads(again.stdout)["cached"]) == ["ghost", "mug"]


def _break_cloud(manifest, library, tiny, seeds):
    """Put splats without a single opaque Gaussian where the second asset's will be looked for, from so many seeds."""
    import torch

    from pipeline_core.io.ply import save_splat
    from pipeline_core.storage import Library
    from pipeline_core.types import Gaussians

    _, journeys = plan_batch(BatchRequest(manifest=str(manifest), library=str(library), overrides=tiny))
    root = Library(library).create()
    splat = Gaussians(
        torch.zeros(9, 3), torch.ones(9, 4), torch.full((9, 3), -4.0), torch.full((9,), -20.0),
        torch.zeros(9, 1, 3), torch.zeros(9, 0, 3),
    )  # fmt: skip
    for attempt in range(seeds):
        ghost = reseeded(journeys[1], attempt)
        key = ghost.keys["densify_prune"]
        with root.workspace() as folder:
            save_splat(folder / "splat.ply", splat)
            outputs = root.outputs(folder, root.stage_dir("densify_prune", key))
            run = stage_run(ghost, "densify_prune", "ok", datetime.now(UTC), outputs=outputs)
            root.publish(folder, "densify_prune", key, with_times(run, outputs))
