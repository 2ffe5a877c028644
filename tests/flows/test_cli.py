"""The command: help with an example everywhere, exit codes, JSON, and nothing heavy loaded for light work."""

import json
import subprocess
import sys

import pytest
import torch
import typer

from flows.cli import app
from pipeline_core.config import RECIPES
from pipeline_core.stages import names
from tests.flows.conftest import environment, splatmill
from tests.flows.tiny import settings


def commands(group, prefix=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*prefix, name))
        else:
            yield " ".join((*prefix, name)), command


ALL = dict(commands(typer.main.get_command(app)))


def test_the_commands_are_these():
    top = {"run", "plan", "status", "retry", "sql", "compare", "gc", "gallery", "doctor", "models", "train-starter"}
    top |= {"submit", "worker", "reconcile", "bench gpu"}
    assert top | {"server start", "server stop", "server status", "catalog compact", "catalog fsck"} <= set(ALL)


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_shows_an_example(name):
    assert f"Example: splatmill {name}" in ALL[name].help or f"Example: splatmill {name.split()[-1]}" in ALL[name].help
    assert all(parameter.help for parameter in ALL[name].params if getattr(parameter, "help", None) is not None)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["sql", "--examples"], ["catalog", "--help"]])
def test_light_commands_load_nothing_heavy(arguments):
    code = (
        f"import sys; sys.argv = ['splatmill', *{arguments!r}]\nfrom flows import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print('heavy:', sorted({'torch', 'prefect', 'numba', 'transformers', 'diffusers'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment()).stdout
    assert out.strip().endswith("heavy: []")


@pytest.mark.parametrize("arguments, said", [
    (["run", "none.csv"], "cannot be read"),
    (["run", "{manifest}", "--recipe", "fast"], "--recipe fast: one of"),
    (["run", "{manifest}", "--set", "steps=3"], "geometry.steps"),
    (["run", "{manifest}", "--set", "image_prior=no-such-folder"], "no-such-folder"),
    (["run", "{bad}"], "row 2, seed"),
    (["serve", "--library", "s3://bucket/x"], "local"),
    (["plan", "{bad}"], "row 2, seed"),
    (["status", "--library", "no-such-library"], "no library here"),
    (["run"], "Missing argument"),
    (["run", "{manifest}", "--in-flight", "0"], "--in-flight"),
    (["run", "{manifest}", "--deadline", "soon"], "--deadline soon"),
    (["run", "{manifest}", "--gpu-hours", "-1"], "--gpu-hours"),
])  # fmt: skip
def test_wrong_requests_are_told_and_exit_with_2(arguments, said, manifest, tmp_path, tiny):
    bad = tmp_path / "bad.csv"
    bad.write_text("prompt,seed\na mug,-1\n")
    arguments = [part.format(manifest=manifest, bad=bad) for part in arguments]
    if arguments[0] == "run" and "--set" not in arguments:
        arguments += settings({k: v for k, v in tiny.items() if "prior" in k})
    result = splatmill(*arguments, env=environment(), cwd=tmp_path)
    assert result.returncode == 2 and said in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv", "props.csv"]


def test_plan_tells_what_would_run_and_changes_nothing(manifest, tmp_path, tiny):
    options = [manifest, "--library", tmp_path / "library", *settings(tiny)]
    told = json.loads(splatmill("plan", *options, "--json", env=environment()).stdout)
    assert [row["asset_id"] for row in told["assets"]] == ["mug", "mushroom"]
    assert told["assets"][0]["cached"] == [] and len(told["assets"][0]["would_run"]) == len(names())
    (recipe,) = told["recipes"].values()
    assert recipe["geometry"]["steps"] == 4 and recipe["init"]["num_points"] == 200
    text = splatmill("plan", *options, env=environment()).stdout
    assert "geometry.steps = 4" in text and "0 finished, 2 to make" in text
    assert not (tmp_path / "library").exists()


def test_doctor_tells_what_is_here_and_models_what_the_recipes_name(tmp_path):
    env = environment(HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path), SPLATMILL_CACHE=str(tmp_path))
    told = json.loads(splatmill("doctor", "--library", tmp_path, "--json", env=env).stdout)
    found = {finding["what"]: finding for finding in told}
    assert found["prefect"]["state"] == "ok" and found["device"]["state"] == "ok" and found["library"]["state"] == "ok"
    on_gpu = torch.cuda.is_available()
    assert found["device"]["found"].startswith("cuda" if on_gpu else "cpu")
    without = "sees no GPU" if torch.version.cuda else "for an NVIDIA GPU: a CUDA build of torch"
    assert (found["device"]["way_out"] == "") if on_gpu else (without in found["device"]["way_out"])
    assert found["gsplat"]["state"] in ("ok", "missing" if on_gpu else "note") and "nvdiffrast" in found
    models = json.loads(splatmill("models", "--json", env=env).stdout)
    assert {name for row in models for name in row["recipes"]} == set(RECIPES)
    assert all(row["id"] or row["missing"] for row in models)


@pytest.mark.parametrize("memory_gb, cuda, said", [
    (80, "13.0", ""),
    (None, None, "for an NVIDIA GPU: a CUDA build of torch"),
    (None, "13.0", "torch is built for CUDA 13.0 and sees no GPU"),
])  # fmt: skip
def test_doctor_says_why_no_gpu_is_used(memory_gb, cuda, said):
    from flows.doctor import _without_cuda

    told = _without_cuda({"memory_gb": memory_gb, "cuda": cuda})
    assert told.startswith(said) and bool(told) == bool(said)
