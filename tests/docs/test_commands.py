"""Whatever a page, a comment or a message says to type can be typed: the real command parses it, and where it is cheap
and harms nothing, runs it."""

import re
import shlex
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from catalog.schema import StageRun, request
from catalog.writer import append
from flows.cli import app
from flows.summary import Summary, write_summary
from tests.docs import pages
from tests.docs.pages import ROOT, check, in_comments, in_markdown, in_source


def gathered(paths, find):
    """Command lines by the file that has them, each once."""
    found = {(path.relative_to(ROOT).as_posix(), line) for path in paths for line in find(path.read_text())}
    return sorted(found)


IN_BLOCKS_AND_SENTENCES = gathered(pages.PAGES, in_markdown)
IN_COMMENTS = gathered(pages.CONFIGURATION, in_comments)
IN_SOURCES = gathered(pages.SOURCES + pages.SCRIPTS, in_source)


@pytest.mark.parametrize(("page", "line"), IN_BLOCKS_AND_SENTENCES + IN_COMMENTS + IN_SOURCES)
def test_what_is_said_to_be_typed_can_be_typed(page, line):
    text = (ROOT / page).read_text()
    check(line, only_named=f"`{line}`" in " ".join(text.split()) or page.endswith(".py"))


def test_every_page_was_read():
    read = {page for page, _ in IN_BLOCKS_AND_SENTENCES}
    assert read >= {"README.md", "deployments/README.md", "docs/CATALOGUE.md", "docs/STARTER.md", "docs/LOG.md"}
    assert {page for page, _ in IN_COMMENTS} >= {"deployments/prefect.yaml", "deployments/compose.yaml"}
    found = {line for _, line in IN_BLOCKS_AND_SENTENCES}
    for page in pages.PAGES:
        for line in re.findall(r"^(?: {4})?((?:splatmill|make) [^\\\n]*)", page.read_text(), re.MULTILINE):
            assert any(each.startswith(line.strip()) for each in found), line


@pytest.mark.parametrize("line", [
    "splatmill runn props.csv", "splatmill worker --gpus 0", "splatmill worker --gpu one", "splatmill submit",
    "splatmill server begin", "splatmill catalog review mug", "splatmill review set mug",
    "splatmill train-starter --epochs 3",
    "splatmill bench gpu --modell sd15", "make cake", "python -m flows.clii", "python -P -m flows.clii",
    "python -m catalog.ids", "python tests/bench/none.py", "prefect deploy --everything", "prefect deploi",
    "pip install '.[gpu]'", "rm -rf /", "splatmill train-starter",
    "splatmill train-starter --out runs/starter --part image --set shards=9",
    "sudo -u me sh -c 'cd /tmp; .venv/bin/splatmill deploy'", "export A=$(ssh host /opt/splatmill servers)",
    "cat props.csv | splatmill sql --formt csv -",
])  # fmt: skip
def test_what_could_not_be_typed_would_be_found(line):
    with pytest.raises((Exception, SystemExit)):
        check(line)


def test_a_sentence_may_name_a_command_without_its_arguments():
    check("splatmill submit", only_named=True)
    with pytest.raises(Exception, match=r"[Nn]o such"):
        check("splatmill submits", only_named=True)


# --- really run ------------------------------------------------------------------------------------------------------

SAFE = ("plan", "sql", "status", "gallery", "doctor", "models", "compare", "gc", "catalog snapshot", "catalog compact",
        "catalog rebuild", "review set")  # fmt: skip
NOT_SAFE = ("--warmup", "--delete", "--watch", "--serve", "RUN", "tag:NAME=VALUE")


def to_run():
    """The safe commands of all pages and examples, each once."""
    for _, line in IN_BLOCKS_AND_SENTENCES + IN_SOURCES:
        for name, *words in pages.simple(line):
            said = " ".join(words)
            safe = said.startswith(SAFE) and not any(word in words for word in NOT_SAFE)
            if name == "splatmill" and safe and words != ["sql"] and pages.parse(words, only_named=True):
                yield shlex.join(words)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the README's manifest, the shipped ones, and a library of two nights, with a setting of each."""
    [manifest] = [b for _, b in pages.blocks((ROOT / "README.md").read_text()) if b.startswith("id,prompt")]
    (tmp_path / "props.csv").write_text(manifest)
    (tmp_path / "deployments").symlink_to(ROOT / "deployments")
    library = tmp_path / "library"
    now = datetime.now(UTC)
    for night in range(2):
        ended = now - timedelta(days=1 - night)
        spec = {"prompt": "an oak chair", "seed": 7, "recipe": {"name": "draft", "mesh": {"face_budget": 5000}}}
        runs = [request(f"night-{night}", "chair-07", spec)]
        for stage in ("init_points", "extract_mesh", "record"):
            runs.append(
                StageRun(run_id=f"night-{night}", asset_id="chair-07", stage=stage, status="ok", recipe="draft",
                         started_at=ended, finished_at=ended, duration_s=2.0 + night, metrics={"faces": 9800.0},
                         tags={"geometry.guidance_scale": ("5", "20")[night],
                               "recipe": ("dreamgaussian-starter", "gsgen-starter")[night]}),
            )  # fmt: skip
        append(library, runs)
        run = f"night-{night}"
        write_summary(library / "runs" / run, Summary(run, str(library), "props.csv", asked=1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


@pytest.mark.parametrize("line", sorted(set(to_run())))
def test_the_cheap_ones_do_what_they_say(line, here):
    words = [str(here / "library") if word == "/mnt/library" else word for word in shlex.split(line)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 or (words[0] == "doctor" and done.exit_code == 1), done.output
    assert done.stdout.strip()


def test_the_cheap_ones_are_run():
    assert {" ".join(line.split()[:1]) for line in to_run()} == {name.split()[0] for name in SAFE}
