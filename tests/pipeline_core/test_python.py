"""Child processes find our rooms, whatever lies in the folder that they are started in."""

import os
import subprocess

import numpy as np

from pipeline_core import python
from pipeline_core.meshing.process import run_in_process


def test_a_child_never_looks_in_the_working_directory(tmp_path, monkeypatch):
    for room in ("pipeline_core", "catalog", "own"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("raise ImportError('not ours')")
    monkeypatch.chdir(tmp_path)
    assert run_in_process("numpy:add", np.ones(2), np.ones(2))[0].tolist() == [2, 2]
    for module, found in (("catalog.ids", 0), ("own", 1)):
        done = subprocess.run(python.command(module), env=python.environment(), capture_output=True, text=True)
        assert done.returncode == found, done.stderr
    assert "No module named own" in done.stderr


def test_the_children_of_a_child_neither():
    told = python.environment({"PYTHONPATH": "theirs", "HOME": "/home"})
    assert told == {"PYTHONPATH": os.pathsep.join([python.ROOT, "theirs"]), "HOME": "/home", "PYTHONSAFEPATH": "1"}


def test_hosts_of_this_machine_are_asked_directly(monkeypatch):
    for name in [each for each in os.environ if each.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    python.reach_loopback_directly()
    assert "no_proxy" not in os.environ
    os.environ |= {"http_proxy": "http://proxy:3128", "NO_PROXY": "intern.example, localhost"}
    python.reach_loopback_directly()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "intern.example,localhost,127.0.0.1,::1"
