"""Khronos' own validator of glTF, where Node and its package are installed.

    report = validate([Path("asset.glb")])      # {"asset.glb": [Finding(...), ...]}
    found().version or found().missing          # which one it was, or why there is none

Looked for in this order: the folder that ``SPLATMILL_GLTF_VALIDATOR`` names (of the npm package ``gltf-validator``),
Node's global packages and ``NODE_PATH``. Hints count as infos.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pipeline_core.findings import Finding

VARIABLE = "SPLATMILL_GLTF_VALIDATOR"
TIMEOUT_S = 120
_GLOBAL = Path("/usr/local/lib/node_modules")
_SEVERITIES = ("error", "warning", "info", "info")
_SCRIPT = """
const validator = require(process.argv[1]), fs = require("fs");
(async () => {
  for (const path of process.argv.slice(2)) {
    const report = await validator.validateBytes(new Uint8Array(fs.readFileSync(path)), {maxIssues: 10000});
    console.log(JSON.stringify(report.issues.messages));
  }
})().catch((error) => { console.error(String(error)); process.exit(1); });
"""


@dataclass(frozen=True)
class Validator:
    """The validator of this machine. ``missing``: why there is none."""

    node: str = ""
    package: str = ""
    version: str = ""
    missing: str = ""


@lru_cache(maxsize=8)
def _look(variable: str, node_path: str, path: str) -> Validator:
    node = shutil.which("node", path=path)
    if node is None:
        return Validator(missing="Node is not on PATH; install it, and npm install -g gltf-validator")
    prefix = Path(node).resolve().parents[1]
    folders = [*map(Path, filter(None, node_path.split(os.pathsep))), prefix / "lib/node_modules", _GLOBAL]
    places = [Path(variable)] if variable else [folder / "gltf-validator" for folder in folders]
    for place in places:
        try:
            version = json.loads((place / "package.json").read_bytes())["version"]
        except (OSError, ValueError, KeyError):
            continue
        return Validator(node, str(place.absolute()), f"gltf-validator {version}")
    named = f"{VARIABLE}={variable} is no folder of it" if variable else "npm install -g gltf-validator"
    return Validator(missing=f"the package gltf-validator is not installed: {named}")


def found() -> Validator:
    """The validator that this machine has."""
    environ = os.environ
    return _look(environ.get(VARIABLE, ""), environ.get("NODE_PATH", ""), environ.get("PATH", os.defpath))


def validate(paths: Sequence[Path]) -> list[Finding]:
    """What it says of GLBs, each named by its file; one info where it did not run, which says why."""
    validator = found()
    why = validator.missing
    if not why and paths:
        command = [validator.node, "-e", _SCRIPT, validator.package, *map(str, paths)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
            reports = [json.loads(line) for line in done.stdout.splitlines()]
            return [each for path, report in zip(paths, reports, strict=True) for each in _findings(path.name, report)]
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            said = getattr(error, "stderr", None) or error
            why = f"{validator.version} could not be run: {str(said).strip()[:300]}"
    return [Finding("KHRONOS_VALIDATOR_NOT_RUN", "info", why)] if why else []


def _findings(file: str, report: list[dict[str, object]]) -> list[Finding]:
    """One finding for each code, with the first message and how often it was said."""
    codes = [str(each["code"]) for each in report]
    first = {str(each["code"]): each for each in reversed(report)}
    return [
        Finding(code, _SEVERITIES[int(str(each["severity"]))], str(each["message"]), file, codes.count(code))
        for code, each in first.items()
    ]
