"""The attribution of any selection of assets: every model with its terms, and users' text as text."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from catalog import attribution, query, schema, snapshot
from catalog.cli import app
from catalog.gallery import write_gallery
from catalog.writer import append
from pipeline_core.errors import RequestError
from pipeline_core.priors.licences import LICENCES

HOSTILE = "# a [mug](javascript:alert(1)) <script>x</script>\n* `of` | tea\u202e & _jam_"


@pytest.fixture
def library(tmp_path, make_run):
    """A mug of open models, a chair of one with conditions, a vase of one that nobody declared, and one that failed."""
    used = {"mug": ("starter@aa11",), "chair": ("starter@aa11", "someone/sd@bb22"), "vase": ("a/b@cc33",)}
    rows = [
        schema.model("starter@aa11", kind="image", licence="Apache-2.0"),
        schema.model("someone/sd@bb22", kind="image", licence="openrail++", conditions="Obey.", link="https://a_b.org/x_y",
                     parts=[{"kind": "lora", "name": "clay_1", "licence": "MIT", "licence_class": "open"}]),
    ]  # fmt: skip
    for asset, ids in used.items():
        prompt = HOSTILE if asset == "mug" else f"a {asset}"
        spec = {"prompt": prompt, "tags": {"set": "kitchen" if asset == "mug" else "hall"}}
        rows.append(schema.request("night-1", asset, spec))
        rows.append(make_run(asset, "record", model_ids=ids, tags={}, code_version="0.1.0+src.12"))
    append(tmp_path, [*rows, make_run("bowl", status="failed", model_ids=("bad@1",))])
    return tmp_path


def test_a_mixed_selection_names_every_model_its_terms_and_its_assets(library, tmp_path):
    page = attribution.write_attribution(library, tmp_path / "out", ["mug", "chair", "mug"])
    told = json.loads((tmp_path / "out" / "attribution.json").read_text())
    assert told["licence_class"] == "conditions" and told["splatmill"]["versions"] == ["0.1.0+src.12"]
    by_name = {each["name"]: each for each in told["models"]}
    assert set(by_name) == {"starter", "someone/sd"}
    starter, other = by_name["starter"], by_name["someone/sd"]
    assert starter["assets"] == ["chair", "mug"] and starter["licence"] == "Apache-2.0"
    assert starter["conditions"] == LICENCES["apache-2.0"].conditions and starter["link"].startswith("https://spdx.org")
    assert (other["sha256_begins"], other["conditions"], other["assets"]) == ("bb22", "Obey.", ["chair"])
    classes = {each["asset_id"]: each["licence_class"] for each in told["assets"]}
    assert classes == {"chair": "conditions", "mug": "open"}
    text = page.read_text()
    assert "## someone/sd (image)" in text and "<https://a_b.org/x_y>" in text and "- to be done: Obey." in text
    assert r"- part of it: lora clay\_1: MIT (open)" in text and other["parts"][0]["name"] == "clay_1"
    assert "2 assets, made with 2 models" in text and "procedural props" in text


def test_users_text_stays_text(library, tmp_path):
    text = attribution.write_attribution(library, tmp_path, ["mug"]).read_text()
    shown = r"\# a \[mug\](javascript:alert(1)) &lt;script&gt;x&lt;/script&gt; \* \`of\` \| tea\\u202e &amp; \_jam\_"
    assert f"- mug: {shown}\n" in text
    assert attribution.text("1. x") == r"1\. x" and attribution.text("- x") == r"\- x"


def test_an_unknown_licence_makes_the_whole_unknown(library):
    told = attribution.attribution(library, ["mug", "vase"])
    assert told["licence_class"] == "unknown" and told["models"][0]["licence"] == "unknown"


def test_a_selection_is_sql_tags_or_all(library, tmp_path):
    assert attribution.select(library) == ["chair", "mug", "vase"]
    assert attribution.select(library, tags={"set": "hall"}) == ["chair", "vase"]
    snapshot.build(library)
    sold = "select asset_id from assets where licence_class in ('open', 'conditions')"
    assert attribution.select(library, sold) == ["chair", "mug"]
    assert attribution.select(library, sold, {"set": "hall"}) == ["chair"]
    with pytest.raises(RequestError, match="must answer with a column asset_id; it has n"):
        attribution.select(library, "select 1 as n")
    with pytest.raises(RequestError, match="bowl, none: no delivered asset"):
        attribution.attribution(library, ["mug", "none", "bowl"])


def test_the_command(library, tmp_path):
    def run(*words, code=0):
        done = CliRunner().invoke(app, ["attribution", "--library", str(library), "-o", str(tmp_path / "out"), *words])
        assert done.exit_code == code, done.output
        return done.output

    assert "3 assets, 3 models, licence class unknown" in run()
    assert "1 assets, 1 models, licence class open" in run("mug")
    assert "1 assets, 2 models, licence class conditions" in run("--sql", "select 'chair' as asset_id")
    assert json.loads(run("--tag", "set=kitchen", "--json"))["assets"][0]["asset_id"] == "mug"
    assert "not both" in run("mug", "--tag", "set=hall", code=2) and "name=value" in run("--tag", "hall", code=2)
    assert "no delivered asset" in run("--tag", "set=none", code=2) and "COPY" in run("--sql", "copy a to 'b'", code=2)


def test_files_that_assets_were_made_from_are_named(tmp_path, make_run):
    spec = {"prompt": "a mug", "init_file": {"name": "starts/mug_1.glb", "sha256": "ab" * 32}}
    append(tmp_path, [schema.request("night-1", "mug", spec), make_run("mug", "record")])
    text = attribution.write_attribution(tmp_path, tmp_path, ["mug"]).read_text()
    assert r"- mug: a mug (made from init\_file starts/mug\_1.glb, whose licence splatmill does not know)" in text
    told = json.loads((tmp_path / "attribution.json").read_text())
    assert told["assets"][0]["files"] == {"init_file": "starts/mug_1.glb"}


def test_the_gallery_shows_the_class(library):
    page = write_gallery(library).read_text()
    data = json.loads(page.split('<script id="data" type="application/json">')[1].split("</script>")[0])
    assert {card["asset_id"]: card["licence_class"] for card in data["assets"]}["chair"] == "conditions"
    assert '["licence", asset.licence_class]' in page


def test_many_assets_are_all_in_the_data_and_counted_on_the_page(tmp_path, make_run):
    append(tmp_path, [make_run(f"mug-{i:03d}", "record") for i in range(attribution.LISTED + 3)])
    page = attribution.write_attribution(tmp_path, tmp_path, attribution.select(tmp_path)).read_text()
    assert page.count("and 3 more, all of them in attribution.json") == 2
    assert len(json.loads((tmp_path / "attribution.json").read_text())["models"][0]["assets"]) == attribution.LISTED + 3


def test_the_class_of_an_asset_follows_its_models_live_and_in_the_snapshot(library, make_run):
    def classes():
        asked = "select asset_id, licence_class from assets order by asset_id"
        found = [{row["asset_id"]: row["licence_class"] for row in query.rows(library, asked, live=live)}
                 for live in (True, False)]  # fmt: skip
        assert found[0] == found[1]
        return found[0]

    snapshot.build(library)
    assert classes() == {"bowl": None, "chair": "conditions", "mug": "open", "vase": "unknown"}
    append(library, [schema.model("a/b@cc33", kind="image", licence="CC-BY-NC-4.0")])
    assert snapshot.build(library).how != "full" and classes()["vase"] == "non-commercial"
    append(library, [make_run("lamp", "record", model_ids=("starter@aa11", "a/b@cc33"))])
    append(library, [make_run("mug", "record", model_ids=("a/b@cc33",))])
    assert snapshot.build(library).how != "full" and classes()["lamp"] == classes()["mug"] == "non-commercial"


def test_older_declarations_get_the_class_of_their_licence_s_name(tmp_path):
    names = ("Apache-2.0", "creativeml-openrail-m", "CC-BY-NC-4.0", "own", None)
    told = [json.dumps({"licence": name}) for name in names]
    columns = {"run_id": "models", "stage": "model", "status": "ok"}
    append(tmp_path, [schema.StageRun(asset_id=f"m{i}", spec_json=each, **columns) for i, each in enumerate(told)])
    found = query.rows(tmp_path, "select licence_class from models order by model_id")
    assert [row["licence_class"] for row in found] == ["open", "conditions", "non-commercial", "unknown", "unknown"]
