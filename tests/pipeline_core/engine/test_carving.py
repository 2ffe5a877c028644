"""A job takes away at its end what became its prior's background; where that cannot be told it is refused."""

import pytest
import torch

from pipeline_core.engine import gaussian_job
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.engine.gaussian_job import GaussianJob
from pipeline_core.errors import DataError


def test_it_is_refused_where_it_cannot_be_told(exact_prior, stage, make_gaussians, monkeypatch):
    start = make_gaussians(9, (0.8, 0.1, 0.1))
    for background, changes in ((None, {}), ((0.5, 0.5, 0.5), {"densify": {"every": 1}})):
        monkeypatch.setattr(exact_prior, "background", background, raising=False)
        engine = DistillationEngine(exact_prior, max_active=1)
        with pytest.raises(DataError, match=r"carve=0\.3 needs an image prior with a background of its own"):
            settings = stage(steps=1, **changes).model_copy(update={"carve": 0.3})
            engine.submit(GaussianJob(start, "red", settings)).result(timeout=60)
        engine.close()


def test_what_became_the_background_is_gone_unless_it_is_most_of_it(exact_prior, stage, make_gaussians, monkeypatch):
    monkeypatch.setattr(exact_prior, "background", (0.5, 0.5, 0.5), raising=False)
    start = make_gaussians(9, (0.8, 0.1, 0.1))
    count = len(start)
    for gone, left in ((count // 3, count - count // 3), (count // 2 + 1, count)):
        shares = torch.arange(count) < gone
        monkeypatch.setattr(gaussian_job, "painted", lambda *_, shares=shares, **__: shares.float())
        engine = DistillationEngine(exact_prior, max_active=1)
        settings = stage(steps=1).model_copy(update={"carve": 0.3})
        found, curves = engine.submit(GaussianJob(start, "red", settings)).result(timeout=60)
        engine.close()
        assert len(found) == left and curves["events"].get("carved", 0) == count - left
