"""A new stage and a new format: one row each, and the journey, catalogue, progress and gallery carry them."""

import json
import subprocess
import sys

import pytest

from catalog import query, snapshot
from pipeline_core.deliverables import DELIVERABLES
from pipeline_core.stages import names
from tests.flows.conftest import environment
from tests.flows.tiny import settings

pytestmark = pytest.mark.slow

PLACE = names().index("extract_mesh") + 1
WITH_TOY = (*names()[:PLACE], "weigh", *names()[PLACE:])


def toy(*arguments):
    """Run the command that has the toy."""
    command = [sys.executable, "-m", "tests.flows.toy", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd="/", timeout=600)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny):
    """A library made with the toy, and what the run said on standard error."""
    folder = tmp_path_factory.mktemp("toy")
    manifest = folder / "props.csv"
    manifest.write_text("id,prompt,seed\nmug,a blue mug,1\n")
    done = toy("run", manifest, "--library", folder / "library", *settings(tiny))
    return folder / "library", done.stderr


def test_the_journey_goes_through_it_in_its_place(made):
    library, said = made
    (output,) = (library / "stages" / "weigh").iterdir()
    record = json.loads((output / "record.json").read_text())
    assert record["status"] == "ok" and record["metrics"]["toy_weight"] == int((output / "weight.txt").read_text())
    assert "mug: weigh" in said
    told = json.loads((library / "assets" / "mug" / "asset.json").read_text())
    assert tuple(told["stages"]) == tuple(sorted(WITH_TOY)) and "note.txt" in told["files"]
    assert (library / "assets" / "mug" / "note.txt").read_text().startswith("a blue mug weighs ")


def test_catalogue_and_gallery_list_it(made):
    library, _ = made
    sql = "select stage from stage_runs where stage_idx is not null order by stage_idx"
    lines = toy("sql", "--library", library, "--format", "csv", sql).stdout.split()
    assert lines == ["stage", "request", *WITH_TOY]
    path = toy("sql", "--library", library, "--format", "csv", "select note_path from assets").stdout.split()
    assert path == ["note_path", "assets/mug/note.txt"]
    toy("gallery", "--library", library)
    page = (library / "gallery" / "index.html").read_text()
    data = page.split('<script id="data" type="application/json">')[1].split("</script>")[0]
    (card,) = json.loads(data)["assets"]
    assert card["metrics"]["toy_weight"] > 0
    labels = [row.label for row in DELIVERABLES if row.label]
    assert [file["label"] for file in card["files"]] == [*labels, "note", "provenance"]
    note = card["files"][len(labels)]
    assert note["download"] == "mug.txt" and note["url"].endswith("assets/mug/note.txt")


def test_who_does_not_know_the_stage_reads_the_library_all_the_same(made):
    library, _ = made
    rows = query.rows(library, "select stage, stage_idx from stage_runs where status = 'ok' order by event_id")
    assert [row["stage_idx"] for row in rows if row["stage"] in names()] == list(range(1, len(names()) + 1))
    assert [row["stage_idx"] for row in rows if row["stage"] == "weigh"] == [None]
    toy("catalog", "snapshot", "--library", library)
    assert snapshot.build(library).how == "full"  # the order that the toy's snapshot was built with is another
    assert query.rows(library, "select status from assets", live=False) == [{"status": "ok"}]
