"""Every line of the GPU benchmark at toy sizes; what the numbers are is only for a GPU to say."""

import csv
import json

import numpy as np
import pytest
import torch

from pipeline_core.benchmark import dreamgaussian, gpu
from pipeline_core.config import RECIPES
from pipeline_core.engine.clock import PARTS
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.engine.gaussian_job import GaussianJob
from pipeline_core.errors import OutOfMemory, RequestError
from pipeline_core.texturing.fit import FitJob


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for options in ([], ["--device", "cpu"], ["--tiny"]):
        with pytest.raises(RequestError, match=r"no CUDA device is here.*--device cpu --tiny"):
            gpu.main(options)


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """Standard output of a whole trial, its table, and the kinds of jobs that it ran."""
    import contextlib
    import io

    path, out, kinds = tmp_path_factory.mktemp("bench") / "results" / "toy.csv", io.StringIO(), set()
    submit = DistillationEngine.submit
    with contextlib.redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLATMILL_PRECISION", "float32")
        patch.setattr(DistillationEngine, "submit", lambda self, job: kinds.add(type(job)) or submit(self, job))
        assert gpu.main(["--device", "cpu", "--tiny", "--active", "1", "2", "--csv", str(path), "--ablate"]) == 0
    with path.open() as file:
        return out.getvalue(), list(csv.DictReader(file)), kinds


def test_a_trial_prints_one_document_at_the_end(trial):
    report = json.loads(trial[0].splitlines()[-1])
    assert report["gpu"] is None and report["weights"] == "random: speed only" and "plain loop" in report["baseline"]
    figures = report["trial"]
    assert set(figures) == {
        "name", "assets_per_hour", "peak_gb_at_1", "vs_sequential", "vs_dreamgaussian", "fraction_of_peak"
    }  # fmt: skip
    assert set(figures["assets_per_hour"]) == {"1", "2"} and figures["vs_dreamgaussian"] > 0
    assert list(report["ablations_step_s"]) == ["everything", "no CUDA graphs", "no channels_last"]


def test_the_table_has_a_line_for_each_number_of_assets(trial):
    assert [row["active"] for row in trial[1]] == ["1", "2"]
    for row in trial[1]:
        parts = [float(row[f"{part}_s"]) for part in PARTS]
        assert 0.8 * float(row["step_s"]) < sum(parts) <= 1.01 * float(row["step_s"])
        assert row["peak_gb"] == "" and row["out_of_memory"] == "False"


def test_both_stages_are_the_recipe_s(trial):
    assert RECIPES["dreamgaussian"].texture.method == "fit" and trial[2] == {GaussianJob, FitJob}


def row(active, rate, geometry, short=False):
    return gpu.Row(active, rate, geometry, 0.0, 0.1, {}, {}, 0.3, None, 5.0 * active, 100.0, short)


def test_figures_compare_the_best_that_fits():
    found = gpu.figures([row(1, 40.0, 60.0), row(8, 200.0, 96.0), row(16, 900.0, 1.0, short=True)], "card", 120.0)
    assert found["assets_per_hour"] == {"1": 40.0, "8": 200.0}
    assert found["vs_sequential"] == 5.0 and found["vs_dreamgaussian"] == 10.0 and found["peak_gb_at_1"] == 5.0
    with pytest.raises(RequestError, match="fits this GPU"):
        gpu.figures([row(1, 40.0, 60.0, short=True)], "card", 120.0)


def test_what_does_not_fit_is_left_out(monkeypatch, capsys):
    def measure(prior, recipe, start, count, rate):
        if count > 1:
            raise OutOfMemory("asset 0: one asset alone does not fit the device")
        return row(1, 40.0, 60.0)

    monkeypatch.setattr(gpu, "measure", measure)
    assert len(gpu.table(None, None, None, [1, 2], (1.0, 1.0))) == 1
    assert "2 at once: asset 0: one asset alone" in capsys.readouterr().out
    with pytest.raises(RequestError, match="not one number"):
        gpu.table(None, None, None, [2], (1.0, 1.0))


def test_squeezing_keeps_the_shares_of_both_stages():
    recipe = RECIPES["dreamgaussian"]
    assert gpu.squeezed(recipe, 0) is recipe
    short = gpu.squeezed(recipe, 50)
    assert (short.geometry.steps, short.texture.steps) == (50, 5)
    assert short.geometry.resolution == recipe.geometry.resolution


def test_the_ball_is_closed_and_faces_outward():
    mesh = gpu.sphere(512)
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normals, axis=1)
    assert ((normals * corners.mean(1)).sum(1)[area > 1e-9] > 0).all()
    assert abs(area.sum() / 2 - np.pi) < 0.01
    assert mesh.uvs.min() == 0 and mesh.uvs.max() == 1


PROGRAM = """
import sys, time
settings = dict(word.split("=", 1) for word in sys.argv[3:])
assert sys.argv[1:3] == ["--config", "configs/text.yaml"] and settings["prompt"] == "a red mug"
time.sleep(int(settings["iters"]) * 0.002)
"""


def test_a_checkout_is_timed_by_the_difference_of_two_runs(tmp_path):
    (tmp_path / "main.py").write_text(PROGRAM)
    assert dreamgaussian.time_checkout(tmp_path, steps=(5, 405)) > 0
    (tmp_path / "main.py").write_text("import diff_gaussian_rasterization")
    with pytest.raises(RequestError, match=r"does not run with .*No module named 'diff_gaussian_rasterization'"):
        dreamgaussian.time_checkout(tmp_path)


def test_a_table_that_is_cut_short_keeps_its_rows(monkeypatch, tmp_path):
    path = tmp_path / "rows.csv"

    def measure(prior, recipe, start, count, rate):
        if count == 4:
            raise KeyboardInterrupt
        return row(count, 40.0, 60.0)

    monkeypatch.setattr(gpu, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        gpu.table(None, None, None, [1, 2, 4], (1.0, 1.0), path)
    with path.open() as file:
        assert [line["active"] for line in csv.DictReader(file)] == ["1", "2"]
