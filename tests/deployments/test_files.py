"""What the farm's files name exists: every command line is parsed by the real command, every variable is read by
somebody, every path is in the tree. Where the tools are at hand, they have their word, too."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from flows import server
from flows.farm import setup as farm_setup
from tests.deployments import farm_files
from tests.docs.pages import parse

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deployments"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
UNITS = sorted((FOLDER / "systemd").glob("*.service"))
README = (FOLDER / "README.md").read_text()
CODE = "\n".join(
    path.read_text() for room in ("flows", "tasks", "pipeline_core", "catalog") for path in (ROOT / room).rglob("*.py")
)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"deployments/[a-z/@*.-]+[a-z]", README))))
def test_the_readme_s_files_exist(path):
    assert list(ROOT.glob(path)) or path == "deployments/.env", path


@pytest.mark.parametrize("name", [name for name, each in COMPOSE["services"].items() if name != "postgres"])
def test_compose_services_run_commands_that_exist(name):
    service = COMPOSE["services"][name]
    arguments = [re.sub(r"\$\{\w+:?-?(.*?)\}", r"\1", part) for part in service["command"]]
    assert parse(arguments)
    assert service["build"]["dockerfile"] == "deployments/Dockerfile" and service["user"]
    for mount in service.get("volumes", []):
        assert mount.endswith(":/library")
    if "healthcheck" in service:
        assert parse(service["healthcheck"]["test"][2:])


def test_compose_keeps_the_server_to_loopback_and_behind_a_password():
    service = COMPOSE["services"]["server"]
    assert service["ports"] == ["${SPLATMILL_BIND:-127.0.0.1}:4200:4200"]
    assert service["environment"]["PREFECT_SERVER_API_AUTH_STRING"].startswith("${SPLATMILL_AUTH:?")
    assert "ports" not in COMPOSE["services"]["postgres"]
    text = (FOLDER / "compose.yaml").read_text()
    assert not re.search(
        r"^\s*\w*(PASSWORD|AUTH)\w*: (?!\$\{)", text, re.MULTILINE
    )  # every secret comes from the environment


def test_the_server_brings_the_measured_batch_sizes():
    sizes = {name.removeprefix("PREFECT_SERVER_SERVICES_"): value for name, value in server.SERVER.items()}
    assert sizes["TASK_RUN_RECORDER_BATCH_SIZE"] == sizes["TASK_RUN_RECORDER_READ_BATCH_SIZE"] == "100"
    assert sizes["EVENT_PERSISTER_BATCH_SIZE"] == "200" and sizes["EVENT_PERSISTER_READ_BATCH_SIZE"] == "100"
    assert sizes["TRIGGERS_READ_BATCH_SIZE"] == "100"


def variables():
    """Variables that the files set for us or for Prefect, by the file that sets them."""
    found = {}
    for path in [FOLDER / "compose.yaml", FOLDER / "Dockerfile", *FOLDER.glob("*/*.yaml"), *FOLDER.glob("systemd/*")]:
        for name in re.findall(r"\b((?:SPLATMILL|PREFECT)_[A-Z_]+)\b(?=[:=] ?)", path.read_text()):
            found.setdefault(name, path.name)
    return found


@pytest.mark.parametrize("name", sorted(variables()))
def test_every_variable_is_read_by_somebody(name):
    """By our code, by Prefect's settings, or by the compose file itself."""
    from prefect.settings import get_current_settings

    ours = f'"{name}"' in CODE
    interpolated = f"${{{name}" in (FOLDER / "compose.yaml").read_text() + "".join(u.read_text() for u in UNITS)
    prefects = name in get_current_settings().model_dump_json() or _is_prefect_setting(name)
    assert ours or interpolated or prefects, f"{name} of {variables()[name]}"


def _is_prefect_setting(name):
    from prefect.settings.legacy import _get_valid_setting_names
    from prefect.settings.models.root import Settings

    return name in _get_valid_setting_names(Settings)


def test_compose_s_own_variables_are_in_the_example():
    used = set(re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text()))
    given = set(re.findall(r"^(\w+)=", (FOLDER / "env.example").read_text(), re.MULTILINE))
    assert used == given
    assert not re.search(r"^(SPLATMILL_AUTH|POSTGRES_PASSWORD)=.", (FOLDER / "env.example").read_text(), re.MULTILINE)


def test_the_dockerfile_copies_what_is_there():
    text = (FOLDER / "Dockerfile").read_text()
    copied = [part for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for part in line.split()]
    kept = {line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied and set(copied) == kept and all((ROOT / part).exists() for part in copied)
    assert re.search(r"^USER (?!0|root)", text, re.MULTILINE)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_run_commands_that_exist_without_root(path, tmp_path):
    text = path.read_text()
    [line] = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    program, *arguments = shlex.split(line)
    assert program == "/opt/splatmill/.venv/bin/splatmill" and parse(arguments)
    for stop in re.findall(r"^ExecStop=-(.*)$", text, re.MULTILINE):
        assert shlex.split(stop)[0] == program and parse(shlex.split(stop)[1:])
    assert "User=splatmill" in text and "NoNewPrivileges=true" in text
    for name in re.findall(r"^EnvironmentFile=/etc/splatmill/(.*)$", text, re.MULTILINE):
        assert (path.parent / f"{name}.example").is_file()
    if shutil.which("systemd-analyze"):
        copy = tmp_path / path.name
        copy.write_text(text.replace(program, "/bin/true"))
        done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr.strip(), done.stderr


FILLED = {"SPLATMILL_AUTH": "splatmill:word", "POSTGRES_PASSWORD": "word", "SPLATMILL_HOST_LIBRARY": "/mnt/library"}
COMMANDS = farm_files.units("word") | farm_files.services(FILLED) | {"pod": farm_files.pod("splatmill:word")}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_have_what_their_files_give_them(name):
    """Their words parse with values filled in, they may write what they name, and clients know server and password."""
    command = COMMANDS[name]
    for words in (command.words, command.last, command.check):
        assert not words or (parse(list(words[1:])) and "$" not in " ".join(words))
    named = {command.words[i + 1] for i, word in enumerate(command.words) if word == "--library"}
    assert named <= set(command.writes)
    if command.words[1] != "server":
        assert command.env["PREFECT_API_AUTH_STRING"] == "splatmill:word" and command.env["PREFECT_API_URL"]
    assert command.env["HOME"] in command.writes and "/tmp" in command.writes


def test_compose_s_values_are_filled_in_as_compose_does():
    text = "${A}, ${B:-b}, ${E:-e}, ${E-e}, ${N-n}, ${A:?told}"
    assert farm_files.interpolate(text, {"A": "a", "E": ""}) == "a, b, e, , n, a"
    with pytest.raises(AssertionError, match="N: say it"):
        farm_files.interpolate("${N:?say it}", {})


def test_kubernetes_pods_have_one_gpu_and_few_rights():
    config, claim, workers = yaml.safe_load_all((FOLDER / "kubernetes" / "gpu-worker.yaml").read_text())
    assert (config["kind"], claim["kind"], workers["kind"]) == ("ConfigMap", "PersistentVolumeClaim", "StatefulSet")
    pod = workers["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert parse(container["args"])
    first, *stop = container["lifecycle"]["preStop"]["exec"]["command"]
    assert first == "splatmill" and parse(stop)
    assert float(stop[stop.index("--wait") + 1]) + 60 < pod["terminationGracePeriodSeconds"]
    assert (
        container["resources"]["limits"]["nvidia.com/gpu"] == 1
        and "nvidia.com/gpu" not in container["resources"]["requests"]
    )
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    [auth] = container["env"]
    assert auth["name"] == "PREFECT_API_AUTH_STRING" and "secretKeyRef" in auth["valueFrom"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert workers["spec"]["selector"]["matchLabels"] == workers["spec"]["template"]["metadata"]["labels"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_kubernetes_schema():
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for document in yaml.safe_load_all((FOLDER / "kubernetes" / "gpu-worker.yaml").read_text()):
        validate.validate(document, validate.latest_version(), strict=True)


def test_deployments_use_the_two_pools():
    found = yaml.safe_load((FOLDER / "prefect.yaml").read_text())
    pools = {each["name"]: each["work_pool"]["name"] for each in found["deployments"]}
    assert pools.pop("shard") == farm_setup.POOL
    assert set(pools.values()) == {farm_setup.CONTROL_POOL}  # what waits for shards never takes the place of one
    assert set(pools) == {"batch", "nightly", "reconcile", "compact", "gc"} and found["pull"] == []
