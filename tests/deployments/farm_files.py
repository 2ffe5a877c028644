"""The commands of the farm's files, as those say that they run: units, services of compose, pods, the README's lines.

    units(password)["splatmill-worker@0"]       # Command(words=("/opt/splatmill/.venv/bin/splatmill", "worker", ...

The files' own values are filled in as an operator would do it: secrets, and the folder of the library.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deployments"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Command:
    """One process: its words, environment and folder; the places that it may write, and what it runs before its end.

    ``needs`` has the services that are up before it, by compose's condition. ``check`` says whether it is up.
    """

    words: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    writes: tuple[str, ...]
    last: tuple[str, ...] = ()
    needs: dict[str, str] = field(default_factory=dict)
    check: tuple[str, ...] = ()


def assignments(text: str) -> dict[str, str]:
    """The variables of a file of ``NAME=value`` lines."""
    return dict(line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z_]+=", line))


# --- systemd ---------------------------------------------------------------------------------------------------------


def env_files(password: str) -> dict[str, str]:
    """Text of the files below /etc/splatmill, filled in."""
    return {
        path.name.removesuffix(".example"): path.read_text().replace("CHANGE-ME", password)
        for path in (FOLDER / "systemd").glob("*.example")
    }


def units(password: str, instance: str = "0") -> dict[str, Command]:
    """What systemd would run for each unit, by the unit's name; ``instance``: what comes after the @."""
    found = {}
    for path in (FOLDER / "systemd").glob("*.service"):
        name = path.name.removesuffix(".service").replace("@", f"@{instance}")
        found[name] = unit(path.read_text().replace("%i", instance), env_files(password))
    return found


def unit(text: str, files: Mapping[str, str]) -> Command:
    """What systemd would run for a unit whose environment files have these texts."""
    lines = [line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Za-z]+=", line)]
    told: dict[str, list[str]] = {}
    for key, value in lines:
        told.setdefault(key, []).append(value)
    env = {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", "USER": told["User"][0], "LOGNAME": told["User"][0]}
    env |= dict(part.split("=", 1) for value in told["Environment"] for part in shlex.split(value))
    for value in told["EnvironmentFile"]:
        env |= assignments(files[Path(value).name])

    def words(line: str) -> tuple[str, ...]:
        return tuple(re.sub(r"\$\{(\w+)\}", lambda each: env.get(each[1], ""), word) for word in shlex.split(line))

    assert told["ProtectSystem"] == ["strict"] and told["PrivateTmp"] == ["true"], "writes below holds for these"
    writes = [f"/var/lib/{each}" for each in told["StateDirectory"]] + [
        f"/var/cache/{each}" for each in told["CacheDirectory"]
    ]
    [start] = told["ExecStart"]
    [stop] = told.get("ExecStop", [""])
    return Command(
        words(start), env, told["WorkingDirectory"][0], (*writes, *told.get("ReadWritePaths", ()), "/tmp"),
        words(stop.removeprefix("-")),
    )  # fmt: skip


def readme_line(beginning: str) -> str:
    """The line of deployments/README.md that begins so."""
    [line] = {line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith(beginning)}
    return line


# --- images and compose ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    """What the Dockerfile says of a container's process."""

    env: dict[str, str]
    cwd: str
    entry: tuple[str, ...]
    copied: tuple[str, ...]


def image() -> Image:
    """The Dockerfile's."""
    text = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")
    env = {"PATH": SYSTEM_PATH}
    for line in re.findall(r"^ENV (.*)$", text, re.MULTILINE):
        env |= {
            name: value.replace("$PATH", SYSTEM_PATH)
            for name, value in (part.split("=", 1) for part in shlex.split(line))
        }
    copied = [part for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for part in line.split()]
    [cwd], [entry] = (
        re.findall(r"^WORKDIR (.*)$", text, re.MULTILINE),
        re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE),
    )
    return Image(env, cwd, tuple(yaml.safe_load(entry)), tuple(copied))


def interpolate(text: str, values: Mapping[str, str]) -> str:
    """Compose's ``${NAME}``, ``${NAME:-else}``, ``${NAME-else}`` and ``${NAME:?message}``."""

    def one(found: re.Match[str]) -> str:
        name, how, other = found[1], found[2] or "", found[3] or ""
        value = values.get(name)
        if value is None or (":" in how and not value):
            assert not how.endswith("?"), f"{name}: {other}"
            return other if how else ""
        return value

    return re.sub(r"\$\{(\w+)(:?[-?])?([^}]*)\}", one, text)


def filled(node: Any, values: Mapping[str, str]) -> Any:
    """What compose reads, with every text interpolated."""
    if isinstance(node, dict):
        return {name: filled(value, values) for name, value in node.items()}
    if isinstance(node, list):
        return [filled(value, values) for value in node]
    return interpolate(node, values) if isinstance(node, str) else node


def services(values: Mapping[str, str]) -> dict[str, Command]:
    """What compose would run for each service of ours, with ``values`` in the env file."""
    values = assignments((FOLDER / "env.example").read_text()) | values
    told_all = filled(yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"], values)
    base, found = image(), dict[str, Command]()
    for name, told in told_all.items():
        if "build" not in told:
            continue
        env = base.env | {key: str(value) for key, value in told["environment"].items()}
        places = [volume.split(":")[1] for volume in told.get("volumes", ())]
        needs = {each: how["condition"] for each, how in told.get("depends_on", {}).items()}
        check = tuple(told["healthcheck"]["test"][1:]) if "healthcheck" in told else ()
        found[name] = Command(
            (*base.entry, *told["command"]), env, base.cwd, (*places, base.env["HOME"], "/tmp"), (), needs, check
        )
    return found


def pod(secret: str) -> Command:
    """What Kubernetes would run in a pod, with this secret."""
    documents = list(yaml.safe_load_all((FOLDER / "kubernetes" / "gpu-worker.yaml").read_text()))
    [config] = [each for each in documents if each["kind"] == "ConfigMap"]
    [workers] = [each for each in documents if each["kind"] == "StatefulSet"]
    [container] = workers["spec"]["template"]["spec"]["containers"]
    base = image()
    assert [each["configMapRef"]["name"] for each in container["envFrom"]] == [config["metadata"]["name"]]
    env = base.env | config["data"] | {each["name"]: secret for each in container["env"]}
    places = tuple(each["mountPath"] for each in container["volumeMounts"])
    stop = tuple(container["lifecycle"]["preStop"]["exec"]["command"])
    return Command((*base.entry, *container["args"]), env, base.cwd, places, stop)
