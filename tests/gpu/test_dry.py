"""The GPU's program at toy sizes, so that it never rots."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_core.stages import names

SECTIONS = ("parity", "strategies", "asset", "graphs", "parts", "bench", "batch")


@pytest.mark.slow
def test_every_section_writes_its_results(tmp_path):
    environment = os.environ | {"DRY": "1", "OUT": str(tmp_path), "ONLY": ",".join(SECTIONS), "KIT": ""}
    command = [sys.executable, str(Path(__file__).with_name("run.py"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in SECTIONS}
    assert found["parity"]["plain"]["seen differently"] == 0 and found["parity"]["together"]["images"] < 1e-6
    assert found["strategies"]["Adam, same bits"] is True
    assert set(found["bench"]) >= {"2 at once, compiled, distilled encoder", "1 at once", "geometry steps", "seconds"}
    assert found["asset"]["cpu, torch.float32"]["faces"] > 0
    assert found["batch"]["assets"] == 3
    assert found["batch"]["mean of an asset"]["finding_errors"] < 2, done.stdout  # of 512 points not all become fine
    assert set(names()) - set(found["batch"]["mean of an asset"]) == {"densify_prune", "accept", "record"}


@pytest.mark.slow
def test_without_a_gpu_it_says_how_to_go_on(tmp_path):
    environment = os.environ | {"DRY": "", "OUT": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(Path(__file__).with_name("run.py"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "DRY=1" in done.stderr
