"""Batches, with a stand-in for the journey: order, bounds, failures, early ends, what is written down."""

import json
import shutil
import threading
import time

import pytest
import torch
from safetensors.torch import save_file

from catalog import query
from flows.batch import BatchRequest, plan_batch, run_batch
from flows.summary import Summary, markdown
from pipeline_core.errors import DivergedError, ManifestError, ModelNotFound, RequestError
from pipeline_core.priors.resolve import resolve_model
from pipeline_core.storage import Library
from tasks.deliver import describe
from tasks.progress import board
from tasks.requests import request_rows
from tasks.stage import stage_run, with_times


def write(tmp_path, count, tiny):
    path = tmp_path / "props.csv"
    path.write_text("id,prompt\n" + "".join(f"mug-{i:04d},a blue mug number {i}\n" for i in range(count)))
    return BatchRequest(manifest=str(path), library=str(tmp_path / "library"), overrides=tiny, recipe="draft")


def finish(journey, **told):
    """Leave the files of a finished asset; ``told``: more of its ``asset.json``."""
    from datetime import UTC, datetime

    library = Library(journey.library)
    with library.workspace() as folder:
        (folder / "asset.glb").write_text(journey.asset_id)
        (folder / "asset.json").write_text(json.dumps({"stages": journey.keys} | told))
        outputs = library.outputs(folder, library.asset_dir(journey.asset_id))
        library.publish_asset(folder, journey.asset_id)
    with library.workspace() as folder:
        run = stage_run(journey, "record", "ok", datetime.now(UTC), outputs=outputs)
        library.publish(folder, "record", journey.keys["record"], with_times(run, outputs))


def test_everything_is_made_once_then_found(tmp_path, tiny):
    request = write(tmp_path, 20, tiny)
    first = run_batch(request, finish)
    assert sorted(first.made) == [f"mug-{i:04d}" for i in range(20)] and first.ok and not first.cached
    again = run_batch(request, lambda journey: pytest.fail(journey.asset_id))
    assert len(again.cached) == 20 and not again.made and again.ok
    told = json.loads((Library(request.library).run_dir(request.run_id) / "summary.json").read_text())
    assert len(told["cached"]) == 20
    requests = query.rows(request.library, "select count(*) as n from stage_runs where stage = 'request'")
    assert requests[0]["n"] == 20  # what is finished is not asked for again


def test_no_more_than_in_flight_are_on_their_way(tmp_path, tiny):
    request = write(tmp_path, 12, tiny).model_copy(update={"in_flight": 3})
    lock, now, peak = threading.Lock(), [0], [0]

    def make(journey):
        with lock:
            now[0] += 1
            peak[0] = max(peak[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1

    assert len(run_batch(request, make).made) == 12
    assert peak[0] == 3


def test_a_bad_asset_is_told_and_the_rest_go_on(tmp_path, tiny):
    request = write(tmp_path, 6, tiny)

    def make(journey):
        board.update(journey.asset_id, stage="extract_mesh")
        if journey.asset_id == "mug-0002":
            raise DivergedError("nothing to mesh")
        finish(journey)

    summary = run_batch(request, make)
    assert len(summary.made) == 5 and not summary.ok
    assert summary.failures == [{
        "asset_id": "mug-0002", "stage": "extract_mesh", "error_class": "permanent", "error_type": "DivergedError",
        "message": "nothing to mesh",
    }]  # fmt: skip


def test_a_stop_admits_nothing_more_and_counts_the_rest(tmp_path, tiny):
    request = write(tmp_path, 10, tiny).model_copy(update={"in_flight": 2})
    stop, both = threading.Event(), threading.Barrier(2, action=lambda: stop.set())

    def make(journey):
        if journey.asset_id != "mug-0000":  # which goes ahead alone
            both.wait(60)
        if journey.asset_id == "mug-0002":
            raise RuntimeError("the engine was closed")
        finish(journey)

    summary = run_batch(request, make, stop)
    assert sorted(summary.made) == ["mug-0000", "mug-0001"] and len(summary.stopped) == 8 and not summary.failures


def test_what_cannot_be_made_at_all_is_refused_before_anything_is_begun(tmp_path, tiny):
    request = write(tmp_path, 2, tiny)
    with pytest.raises(ModelNotFound, match="no-such-folder"):
        plan_batch(request.model_copy(update={"overrides": tiny | {"image_prior": "no-such-folder"}}))
    mixed = tmp_path / "mixed.csv"
    mixed.write_text("id,prompt,image_prior\na,a blue mug,gone-away\nb,a blue mug,\nc,a red mug,gone-away\n")
    request_of_mixed = request.model_copy(update={"manifest": str(mixed), "overrides": {}})
    with pytest.raises(ModelNotFound, match=r"mixed.csv, row 2, image_prior, 'gone-away': .*\n.*row 4, image_prior"):
        plan_batch(request_of_mixed)
    judged = request.model_copy(update={"overrides": tiny | {"evaluate.judge": "gone-away"}})
    with pytest.raises(ModelNotFound, match=r"row 2, evaluate.judge, 'gone-away': .*no such folder"):
        plan_batch(judged)
    manifest, journeys = plan_batch(request_of_mixed.model_copy(update={"skip_invalid": True}))
    assert [each.asset_id for each in journeys] == ["b"] and [each.row for each in manifest.problems] == [2, 4]
    (tmp_path / "bad.csv").write_text("prompt,seed\na,-1\n")
    with pytest.raises(ManifestError):
        run_batch(request.model_copy(update={"manifest": str(tmp_path / "bad.csv")}), finish)
    assert not (tmp_path / "library").exists()


def test_a_model_that_cannot_guide_is_refused_with_its_rows(tmp_path, tiny):
    folder = tmp_path / "edm"
    shutil.copytree(resolve_model("starter", "image"), folder)
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "EDMEulerScheduler"}')
    rows = tmp_path / "rows.csv"
    rows.write_text(f"id,prompt,image_prior\na,a blue mug,\nb,a red mug,{folder}\n")
    request = write(tmp_path, 1, tiny).model_copy(update={"manifest": str(rows), "overrides": {}})
    with pytest.raises(RequestError, match=r"rows.csv, row 3, image_prior, '\S+edm': \S+json: EDMEulerScheduler is no"):
        plan_batch(request)
    manifest, journeys = plan_batch(request.model_copy(update={"skip_invalid": True}))
    assert [each.asset_id for each in journeys] == ["a"] and [each.row for each in manifest.problems] == [3]


def test_what_is_added_to_the_image_prior_is_in_keys_catalogue_and_provenance(tmp_path, tiny):
    request, style = write(tmp_path, 1, tiny), tmp_path / "style.safetensors"
    pair = {"lora_A": torch.zeros(1, 4, 3, 3), "lora_B": torch.zeros(16, 1, 1, 1)}
    save_file({f"unet.conv_in.{side}.weight": each for side, each in pair.items()}, style)
    lora = {"image_lora": [{"path": str(style), "scale": 0.8}]}
    [[plain], [styled]] = (
        plan_batch(each)[1] for each in (request, request.model_copy(update={"overrides": tiny | lora}))
    )
    model = styled.models["image"]
    assert model.startswith(plain.models["image"] + "+lora:style.safetensors:") and model.endswith("*0.8")
    changed = [name for name in plain.keys if plain.keys[name] != styled.keys[name]]
    assert changed == [name for name in plain.keys if name != "init_points"]
    assert model in {row.asset_id for row in request_rows([styled]) if row.stage == "model"}
    told = describe(styled)
    assert told["models"]["image"]["id"] == model and told["spec"]["recipe"]["image_lora"] == lora["image_lora"]
    save_file({"unet.other.lora_A.weight": pair["lora_A"], "unet.other.lora_B.weight": pair["lora_B"]}, style)
    with pytest.raises(RequestError, match=r"style.safetensors was made for another model: .*first: unet.other"):
        plan_batch(request.model_copy(update={"overrides": tiny | lora}))
    assert not (tmp_path / "library").exists()


def test_hostile_text_stays_text(tmp_path, tiny):
    """Prompts reach no path, no shell, no markup."""
    prompt = "$(touch pwned) `id` ../../x <script>alert(1)</script> | a"
    path = tmp_path / "props.jsonl"
    path.write_text(json.dumps({"prompt": prompt}))
    request = BatchRequest(manifest=str(path), library=str(tmp_path / "library"), overrides=tiny)
    summary = run_batch(request, finish)
    (folder,) = (tmp_path / "library" / "assets").iterdir()
    assert folder.name == summary.made[0] and set(folder.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    failure = {"asset_id": "x", "stage": "s", "error_class": "data", "error_type": "E", "message": f"{prompt}\n| b |"}
    report = markdown(Summary("r", "l", "m", failures=[failure]))
    assert report.splitlines()[-1].count("|") == 5
