"""Every promise of "Security" in deployments/README.md, tried. What needs a whole farm is in test_farm.py."""

import ast
import json
import re
import stat
import subprocess
import urllib.error
import urllib.request

import psutil
import pytest
from pydantic import ValidationError

from flows.batch import BatchRequest, plan_batch
from flows.summary import Summary, markdown
from pipeline_core.errors import RequestError, TransientError
from pipeline_core.storage import Library
from tests.flows.conftest import ROOT, environment, splatmill
from tests.flows.test_server import call

ROOMS = ("flows", "tasks", "pipeline_core", "catalog")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


# --- the server: loopback, password, origins -----------------------------------------------------------------------


def listening(pid):
    """Addresses that a process listens on."""
    return {c.laddr.ip for c in psutil.Process(pid).net_connections("tcp") if c.status == "LISTEN"}


@pytest.mark.slow
def test_unless_told_otherwise_the_server_is_on_loopback_with_its_files_to_itself(tmp_path):
    env = environment(SPLATMILL_STATE=str(tmp_path))
    assert splatmill("server", "start", "--port", 0, env=env).returncode == 0
    try:
        state = json.loads((tmp_path / "server.json").read_text())
        assert listening(state["pid"]) == {"127.0.0.1"} and state["auth"] is None
        _answer_to_other_origins(state["url"])
        command = " ".join(psutil.Process(state["pid"]).cmdline())
        assert "password" not in command and "splatmill:" not in command
    finally:
        splatmill("server", "stop", env=env)


def _answer_to_other_origins(url):
    """A page of another origin is not allowed to read answers, nor to send JSON, nor to sneak it in as plain text."""
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for headers, method in ((preflight, "OPTIONS"), ({"Origin": "http://evil.example"}, "GET")):
        request = urllib.request.Request(f"{url}/version", headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                allowed = answer.headers.get("access-control-allow-origin")
        except urllib.error.HTTPError as error:
            allowed = error.headers.get("access-control-allow-origin")
        assert allowed not in ("*", "http://evil.example")
    body = json.dumps({"name": "planted"}).encode()
    planted = urllib.request.Request(
        f"{url}/flows/", body, {"Content-Type": "text/plain", "Origin": "http://evil.example"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(planted, timeout=30)
    assert refused.value.code == 422
    assert call(url, "/flows/filter", {"flows": {"name": {"any_": ["planted"]}}})[1] == []


def test_a_drawn_password_is_long_and_private(tmp_path, monkeypatch):
    from flows import server

    monkeypatch.setenv("SPLATMILL_STATE", str(tmp_path))
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    assert "PREFECT_SERVER_API_AUTH_STRING" not in server._settings("127.0.0.1", None)
    for host in ("0.0.0.0", "::", "192.168.1.5", "farm-server"):
        auth = server._settings(host, None)["PREFECT_SERVER_API_AUTH_STRING"]
        assert auth == server.auth_string() and len(auth.partition(":")[2]) >= 20
    assert stat.S_IMODE((tmp_path / "password").stat().st_mode) == 0o600


@pytest.mark.parametrize("arguments", [["server"], ["server", "start"]])
def test_a_password_on_the_command_line_is_refused_and_not_repeated(arguments, tmp_path):
    url = "postgresql+asyncpg://ana:s3cretword@db/prefect"
    done = splatmill(*arguments, "--database", url, env=environment(SPLATMILL_STATE=str(tmp_path)))
    assert done.returncode == 2 and "SPLATMILL_DATABASE" in done.stderr and "s3cretword" not in done.stderr


# --- no pickle, no code from data -----------------------------------------------------------------------


def calls(tree):
    """Dotted names that are called in a module, with their keyword arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: word.value for word in node.keywords}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_pickles_evaluates_or_opens_a_shell(path):
    tree = ast.parse(path.read_text())
    imported = {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
    }
    if path.relative_to(ROOT).as_posix() not in PICKLES:
        assert not imported & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    for name, words in calls(tree):
        assert name not in ("eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "yaml.unsafe_load")
        given = {word: ast.unparse(value) for word, value in words.items()}
        for word in ("shell", "allow_pickle", "trust_remote_code"):
            allowed = REMOTE_CODE if word == "trust_remote_code" else ()
            assert given.get(word, "False") == "False" or path.relative_to(ROOT).as_posix() in allowed, (
                f"{name}({word})"
            )
        if name == "np.load":
            assert "allow_pickle" in given
        if name == "torch.load":  # Point-E's published files; tensors only, by torch's restricted reader
            assert given["weights_only"] == "True"
        if name == "yaml.load":
            assert given["Loader"] in ("Loader", "yaml.BaseLoader")  # our own safe one; the one that knows only texts


PICKLES = ("pipeline_core/children.py",)
"""Calls between a process and its own children, over pipes that nobody else can write; no file, nothing of a user's."""
REMOTE_CODE = ("pipeline_core/priors/image.py",)
"""May run a model folder's own code, where the caller says allow_remote_code: no command and no recipe does."""


def test_remote_code_is_never_asked_for_by_a_command_or_a_recipe():
    from pipeline_core.config import RECIPES

    assert not any("remote_code" in path.read_text() for path in SOURCES if path.parts[-2] in ("flows", "tasks"))
    assert not any("remote_code" in recipe.model_dump_json() for recipe in RECIPES.values())


def test_a_yaml_manifest_builds_no_object(tmp_path):
    path = tmp_path / "props.yaml"
    path.write_text("- prompt: !!python/object/apply:os.mkdir [" + str(tmp_path / "pwned") + "]\n")
    with pytest.raises(RequestError):
        plan_batch(BatchRequest(manifest=str(path), library=str(tmp_path / "library")))
    assert not (tmp_path / "pwned").exists()


class Planted:
    """A class that a hostile result would like to have imported and built."""

    built = 0

    def __init__(self, **_):
        Planted.built += 1


def test_reading_a_result_builds_no_object():
    from prefect.serializers import JSONSerializer

    from tasks.policy import REFERENCES, policy

    assert policy("record", hours=1)["result_serializer"] is REFERENCES
    hostile = json.dumps({"__class__": f"{__name__}.Planted", "data": {"x": 1}}).encode()
    assert REFERENCES.loads(hostile) == {"__class__": f"{__name__}.Planted", "data": {"x": 1}} and not Planted.built
    assert REFERENCES.object_decoder is None and JSONSerializer().object_decoder is not None  # the default would


def test_every_flow_keeps_its_result_to_itself():
    from flows.farm import flows as farm
    from flows.farm import nightly
    from flows.run import run_flow

    for flow in (farm.shard, farm.batch, farm.reconcile_runs, nightly.nightly, nightly.compact, run_flow(None, None)):
        assert flow.persist_result is False
    from flows.server import CLIENT

    assert CLIENT["PREFECT_RESULTS_DEFAULT_SERIALIZER"] == "json"


# --- what users write -----------------------------------------------------------------------

HOSTILE = [
    "../../../etc/passwd",
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned #",
    "a\x00b",
    "<script>fetch('//evil')</script>",
    "{{ config }} {{ $HOME }}",
    "| x | y |\n| - | - |",
    "' or 1=1; drop table assets --",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_prompts_and_ids_reach_no_path(text, tmp_path, tiny):
    """A prompt becomes an id of letters, digits and hyphens; an id that is none is refused, and so is a run's."""
    manifest = tmp_path / "props.jsonl"
    manifest.write_text(json.dumps({"prompt": f"a mug {text}"}))
    request = BatchRequest(manifest=str(manifest), library=str(tmp_path / "library"), overrides=tiny)
    try:
        [journey] = plan_batch(request)[1]
    except RequestError:
        pass  # control characters are no prompt
    else:
        assert re.fullmatch("[a-z0-9][a-z0-9_-]*", journey.asset_id)
        assert Library(request.library).asset_dir(journey.asset_id).parent == tmp_path / "library" / "assets"
    manifest.write_text(json.dumps({"prompt": "a mug", "id": text}))
    with pytest.raises(RequestError):
        plan_batch(request)
    for field in ("run_id", "shard"):
        with pytest.raises(ValidationError):
            BatchRequest(manifest="m", library="l", **{field: text})


@pytest.mark.slow
@pytest.mark.parametrize("command", [["plan"], ["run", "--json"]])
def test_hostile_names_run_nothing(command, tmp_path, tiny):
    """A manifest, a library and a recipe field whose names would be commands in a shell, a template or SQL."""
    from tests.flows.tiny import settings

    folder = tmp_path / "$(touch pwned) '; touch pwned; --"
    folder.mkdir()
    manifest = folder / "`touch pwned`.csv"
    manifest.write_text("prompt,seed\n$(touch pwned) `touch pwned`,$(touch pwned)\n")
    arguments = [*command, manifest, "--library", folder / "lib'rary", *settings(tiny)]
    done = splatmill(*arguments, env=environment(), cwd=folder)
    assert done.returncode == 2 and "row 2, seed" in done.stderr
    assert not list(tmp_path.rglob("pwned"))


def test_reports_keep_markup_as_text():
    for text in HOSTILE:
        failure = {"asset_id": "x", "stage": "s", "error_class": "data", "error_type": "E", "message": text}
        last = markdown(Summary("r", "l", "m", failures=[failure])).splitlines()[-1]
        assert last.startswith("| x | s | data | `") and last.endswith("` |") and last.count("|") == 5
        assert "`" not in last.split("`", 1)[1].rsplit("`", 1)[0]


# --- secrets -----------------------------------------------------------------------


def test_a_secret_in_an_error_reaches_neither_catalogue_nor_report(tmp_path, monkeypatch, tiny):
    from catalog import query
    from flows.batch import run_batch
    from tasks.stage import run_stage

    monkeypatch.setenv("HF_TOKEN", "hf_squeamish_ossifrage")
    manifest = tmp_path / "props.csv"
    manifest.write_text("id,prompt\nmug,a blue mug\n")

    def work(folder):
        raise TransientError("401 for https://ana:s3cretword@hub.example with Bearer hf_squeamish_ossifrage")

    library = tmp_path / "library"
    request = BatchRequest(manifest=str(manifest), library=str(library), overrides=tiny)
    summary = run_batch(request, lambda journey: run_stage(journey, "init_points", work))
    assert summary.failures[0]["message"] == "401 for https://[hidden]@hub.example with Bearer [hidden]"
    [row] = query.rows(str(library), "select error_message from stage_runs where status = 'failed'")
    assert "[hidden]" in row["error_message"]
    for path in library.rglob("*"):
        assert not path.is_file() or not any(w in path.read_bytes() for w in (b"squeamish", b"s3cretword")), path


def test_the_command_s_own_errors_hide_secrets(tmp_path):
    env = environment(PREFECT_API_URL="http://ana:s3cretword@127.0.0.1:9/api", HF_TOKEN="hf_squeamish_ossifrage")
    (tmp_path / "props.csv").write_text("prompt\na mug\n")
    for command in (["run", "props.csv"], ["doctor"], ["server", "status"], ["submit", "props.csv"]):
        done = splatmill(*command, env=env | {"SPLATMILL_LIBRARY": str(tmp_path / "library")}, cwd=tmp_path)
        assert "s3cretword" not in done.stdout + done.stderr and "ossifrage" not in done.stdout + done.stderr


def test_nothing_in_the_tree_looks_like_a_secret():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(
        r"hf_[A-Za-z0-9]{30,}|AKIA[A-Z0-9]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|xox[bp]-\d|ghp_[A-Za-z0-9]{30,}"
    )
    for name in tracked.stdout.split("\0"):
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 2**20:
            assert not pattern.search(path.read_text(errors="ignore")), name
