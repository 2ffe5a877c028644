"""The gate of --commercial: what forbids it is refused before any work, by name; what ``splatmill models`` tells."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from catalog import query
from flows import batch, licences
from flows.asked import ask_again, keep
from flows.batch import BatchRequest, prepare, run_batch
from flows.cli import app
from flows.farm.runs import open_run, run_shard
from pipeline_core import models
from pipeline_core.config import RECIPES
from pipeline_core.errors import RequestError
from pipeline_core.priors.headers import read_header
from pipeline_core.priors.licences import NOTHING, published
from pipeline_core.storage import Library
from tests.flows.tiny import settings
from tests.pipeline_core.priors.checkpoints import write_clip


@pytest.fixture
def stated(tiny_prior, tmp_path):
    """Makes a copy of the tiny priors whose folder states a licence; returns the overrides that name it."""

    def make(name, **fields):
        path = tmp_path / name
        shutil.copytree(tiny_prior, path)
        if fields:
            lines = "".join(f"{key}: {value}\n" for key, value in fields.items())
            (path / "README.md").write_text(f"---\n{lines}---\n")
        return {"image_prior": str(path), "init.point_prior": str(path)}

    return make


@pytest.fixture
def asked(manifest, tmp_path):
    """A request for commercial use."""

    def make(overrides, **fields):
        library = str(tmp_path / "library")
        return BatchRequest(manifest=str(manifest), library=library, overrides=overrides, commercial=True, **fields)

    return make


def test_what_is_open_or_has_conditions_passes(asked, stated):
    for number, licence in enumerate(("apache-2.0", "openrail++")):
        assert prepare(asked(stated(f"model{number}", license=licence))).todo.asked == 2
    own = stated("bought", license="other", license_name="Agreement 7", licence_class="conditions")
    assert prepare(asked(own)).todo.asked == 2


def test_a_judge_counts_as_any_model_does(asked, stated, tmp_path):
    judge = tmp_path / "clip"
    judge.mkdir()
    write_clip(judge)
    named = stated("model", license="mit") | {"evaluate.judge": str(judge)}
    with pytest.raises(RequestError, match=r"judge model \S+clip: its licence is unknown"):
        prepare(asked(named))
    (judge / "README.md").write_text("---\nlicense: mit\n---\n")
    models.part_licence.cache_clear()
    assert prepare(asked(named)).todo.asked == 2


@pytest.mark.parametrize(("fields", "said"), [
    ({}, "its licence is unknown, which counts as no (neither splatmill.json nor README.md in"),
    ({"license": "cc-by-nc-4.0"}, "its licence is CC-BY-NC-4.0 (non-commercial), says its README.md"),
    ({"license": "a-friend-s"}, "which counts as no (splatmill does not know a-friend-s)"),
])  # fmt: skip
def test_what_is_not_is_refused_before_any_work(asked, stated, fields, said, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "plan_journey", lambda *a: pytest.fail("planned"))
    request = asked(stated("model", **fields))
    with pytest.raises(RequestError) as error:
        prepare(request)
    text = str(error.value)
    assert said in text and f"image model {tmp_path / 'model'}" in text and "points model" in text
    assert "Used by recipe factory in 2 assets: mug, mushroom. Choose another model, or" in text
    with pytest.raises(RequestError, match="nothing was begun"):
        open_run(request)
    assert not (tmp_path / "library").exists()


def test_a_published_model_that_forbids_it_is_refused_before_it_is_fetched(asked, monkeypatch):
    monkeypatch.setattr(models, "resolve_model", lambda *a: pytest.fail("fetched"))
    with pytest.raises(RequestError, match=r"FLUX\.2-dev: its licence is flux-non-commercial .* sells other licences"):
        prepare(asked({"image_prior": "black-forest-labs/FLUX.2-dev", "init.point_prior": "stabilityai/sdxl-turbo"}))


def test_a_worker_s_own_folders_are_looked_at_too(asked, stated, tmp_path):
    """The same path, another licence on the machine that takes the shard."""
    request = open_run(asked(stated("model", license="mit")))
    (tmp_path / "model" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    models.part_licence.cache_clear()
    shard = request.model_copy(update={"shard": "a1", "only": ("mug",)})
    with pytest.raises(RequestError, match=r"CC-BY-NC-4\.0"):
        run_shard(shard, lambda journey: pytest.fail("made"))


def test_retry_and_the_farm_s_run_remember_it(asked, stated):
    request = asked(stated("model", license="mit"))
    keep(request)
    assert ask_again(request.library, print).commercial
    keep(request.model_copy(update={"run_id": "later", "commercial": False}))
    assert not ask_again(request.library, print).commercial
    assert ask_again(request.library, print, commercial=True).commercial
    opened = open_run(request)
    assert BatchRequest.model_validate(json.loads((opened.folder / "request.json").read_text())["request"]).commercial


def test_a_whole_site_may_be_commercial(asked, stated, monkeypatch):
    request = asked(stated("model")).model_dump() | {"commercial": False}
    assert not BatchRequest(**request).commercial
    for text, wanted in (("1", True), ("true", True), ("0", False), ("", False)):
        monkeypatch.setenv(licences.SITE, text)
        assert BatchRequest(**request).commercial is wanted
    monkeypatch.setenv(licences.SITE, "maybe")
    with pytest.raises(RequestError, match="SPLATMILL_COMMERCIAL='maybe' is neither 1 nor 0"):
        BatchRequest(**request)


@pytest.mark.parametrize("words", [["run"], ["plan"], ["retry"]])
def test_the_commands_take_it(words, manifest, stated, tmp_path):
    library = tmp_path / "library"
    Library(str(library)).create()
    (library / "catalog").mkdir(exist_ok=True)
    chosen = settings(stated("model", license="cc-by-nc-4.0"))
    done = CliRunner().invoke(app, [*words, str(manifest), "--library", str(library), *chosen, "--commercial"])
    if words == ["retry"]:
        assert done.exit_code == 0 and "nothing to retry" in done.stderr
    else:
        assert done.exit_code == 2 and "CC-BY-NC-4.0" in done.stderr
    help_ = CliRunner().invoke(app, [*words, "--help"])
    assert "--commercial" in help_.stdout


def test_every_model_that_a_recipe_of_ours_names_is_known():
    for recipe in RECIPES.values():
        for kind, named in recipe.model_refs().items():
            for _, ref in named.parts(kind):
                assert ref == "starter" or published(ref), ref


def test_a_hub_model_without_a_card_is_told_how_to_get_it():
    assert "(hf download owner/name README.md)" in licences._way_out(NOTHING, "owner/name@v1")


def test_models_shows_class_and_conditions(manifest, stated, tmp_path):
    run = CliRunner().invoke
    chosen = settings(stated("model", license="openrail++"))
    rows = json.loads(run(app, ["models", str(manifest), *chosen, "--json"]).stdout)
    assert [(row["kind"], row["licence"], row["licence_class"], row["recipes"]) for row in rows] == [
        ("image", "openrail++", "conditions", ["factory"]), ("points", "openrail++", "conditions", ["factory"])
    ]  # fmt: skip
    text = run(app, ["models", str(manifest), *chosen]).stdout
    assert "licence_class" in text and "openrail++: The licence's list of restricted uses" in text
    text = run(app, ["plan", str(manifest), *chosen, "--commercial"]).stdout
    assert f"licence of image model {tmp_path / 'model'}: openrail++ (conditions). The licence's list" in text
    rows = json.loads(run(app, ["plan", str(manifest), *chosen, "--json"]).stdout)["licences"]
    assert [row["licence_class"] for row in rows] == ["conditions", "conditions"]
    text = run(app, ["models"]).stdout
    assert "creativeml-openrail-m" in text and "conditions" in text and "not here" in text
    done = run(app, ["models", str(manifest), "--library", str(tmp_path)])
    assert done.exit_code == 2 and "not both" in done.stderr


def test_the_catalogue_keeps_the_class_of_every_model_and_asset(asked, stated, tmp_path, tiny):
    request = asked(tiny | stated("model", license="openrail++"))
    run_batch(request, lambda journey: None)
    rows = query.rows(request.library, "select kind, licence, licence_class, commercial_use, conditions from models")
    assert [row["licence_class"] for row in rows] == ["conditions"] * 2 and all(row["commercial_use"] for row in rows)
    assert all("restricted uses" in row["conditions"] for row in rows)
    told = json.loads(CliRunner().invoke(app, ["models", "--library", request.library, "--json"]).stdout)
    assert {row["licence_class"] for row in told} == {"conditions"}


def write_lora(path, prior, licence):
    """A LoRA of one layer of a prior's U-Net, whose header states a licence."""
    shapes = read_header(Path(prior) / "image" / "unet" / "diffusion_pytorch_model.safetensors").shapes
    layer, (out, into) = next((name, shape) for name, shape in shapes.items() if name.endswith("to_q.weight"))
    name = f"unet.{layer.removesuffix('.weight')}"
    pair = {f"{name}.lora_A.weight": torch.ones(1, into), f"{name}.lora_B.weight": torch.ones(out, 1)}
    save_file(pair, path, metadata={"modelspec.license": licence})
    return path


def test_a_lora_is_a_part_with_a_licence_of_its_own(asked, stated, tmp_path, manifest):
    folder = stated("model", license="apache-2.0")
    lora = write_lora(tmp_path / "clay.safetensors", folder["image_prior"], "CC-BY-NC-4.0")
    with pytest.raises(RequestError, match=r"lora model .*clay\.safetensors: its licence is CC-BY-NC-4\.0") as error:
        prepare(asked(folder | {"image_lora": str(lora)}))
    assert "image model" not in str(error.value)
    write_lora(lora, folder["image_prior"], "openrail++")
    models.part_licence.cache_clear()
    models.part_licence.cache_clear()
    request = asked(folder | {"image_lora": str(lora)})
    run_batch(request, lambda journey: None)
    (row,) = query.rows(request.library, "select * from models where kind = 'image'")
    assert row["licence"] == "Apache-2.0 + openrail++" and row["licence_class"] == "conditions"
    (told,) = query.rows(request.library, f"select spec_json from stage_runs where asset_id = '{row['model_id']}'")
    assert [(part["kind"], part["name"], part["licence"]) for part in json.loads(told["spec_json"])["parts"]] == [
        ("image", "model", "Apache-2.0"), ("lora", "clay.safetensors", "openrail++")
    ]  # fmt: skip
    chosen = settings(folder | {"image_lora": str(lora)})
    told = json.loads(CliRunner().invoke(app, ["models", str(manifest), *chosen, "--json"]).stdout)
    assert {(each["kind"], each["licence_class"]) for each in told} == {
        ("image", "open"), ("points", "open"), ("lora", "conditions")
    }  # fmt: skip
