"""An asset from a picture, as a user starts it: `splatmill run` on a row that gives an image and no prompt."""

import json

import numpy as np
import pytest
from PIL import Image

from catalog import query
from catalog.gallery import write_gallery
from pipeline_core.storage import sha256_file
from tests.flows.conftest import environment, splatmill
from tests.flows.tiny import TINY, settings
from tests.gltf_check import check_glb
from tests.pipeline_core.priors.checkpoints import write_zero123


@pytest.fixture(scope="module")
def props(tmp_path_factory):
    """A manifest whose one row is a picture of a red ball on white."""
    folder = tmp_path_factory.mktemp("props")
    y, x = np.mgrid[:120, :160]
    ball = (x - 80) ** 2 + (y - 60) ** 2 < 40**2
    Image.fromarray(np.where(ball[..., None], [200, 30, 40], 255).astype(np.uint8)).save(folder / "red_ball.png")
    (folder / "props.csv").write_text("image,image_elevation,recipe\nred_ball.png,15,dreamgaussian-image\n")
    return folder / "props.csv"


@pytest.fixture(scope="module")
def tiny_zero123(tmp_path_factory):
    return write_zero123(tmp_path_factory.mktemp("models") / "tiny-zero123")


@pytest.mark.slow
def test_a_picture_becomes_an_asset(props, tiny_zero123, tiny_prior, tmp_path):
    library, small = tmp_path / "library", TINY | {"geometry.resolution": "[[1.0, 32]]"}
    small |= {"image_prior": tiny_zero123, "init.point_prior": tiny_prior}
    result = splatmill("run", props, "--library", library, *settings(small), env=environment())
    assert result.returncode == 0 and "1 made" in result.stdout, result.stdout + result.stderr
    (folder,) = (library / "assets").iterdir()
    told = json.loads((folder / "asset.json").read_text())
    sha256 = sha256_file(props.with_name("red_ball.png"))
    assert told["image"]["name"] == "red_ball.png" and told["image"]["sha256"] == sha256
    assert told["image"]["treatment"].startswith("outline: what is not joined to the edge within 24 of 255 of #ffffff")
    assert told["prompt"] == "red ball" and told["spec"]["image_elevation"] == 15.0
    assert sha256_file(library / "inputs" / f"{sha256}.png") == sha256
    assert check_glb(folder / "asset.glb", grounded=True) == [] and folder.name.startswith("red-ball-")
    (curves,) = (library / "stages" / "optimize_gaussians").glob("*/curves.json")
    assert np.isfinite(json.loads(curves.read_text())["loss_reference"]).all()
    (row,) = query.assets(library)
    assert row["status"] == "ok" and row["prompt"] == "red ball"
    page = write_gallery(library).read_text()
    assert f"../inputs/{sha256}.png" in page
    again = splatmill("run", props, "--library", library, *settings(small), env=environment())
    assert "1 there already" in again.stdout, again.stdout + again.stderr

