"""An asset from a picture, as a user starts it: `splatmill run` on a row that gives an image and no prompt."""

import json

import numpy as np
import pytest
from PIL import Image

from catalog import query
from catalog.gallery import write_gallery
from flows.batch import BatchRequest, prepare
from flows.show import show_plan
from pipeline_core.errors import ManifestError
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


@pytest.mark.parametrize("skip", [False, True])
def test_rows_that_their_prior_cannot_use_are_refused_by_plan_and_run(props, tiny_zero123, tiny_prior, tmp_path, skip):
    rows = [
        f"red_ball.png,,1,{tiny_prior}",
        f",a red ball,2,{tiny_zero123}",
        f"red_ball.png,,3,{tiny_zero123}",
    ]
    manifest = props.with_name("mixed.csv")
    manifest.write_text("\n".join(["image,prompt,seed,image_prior", *rows]))
    request = BatchRequest(
        manifest=str(manifest), library=str(tmp_path), recipe="dreamgaussian-image", skip_invalid=skip,
        overrides={"init.point_prior": str(tiny_prior)},
    )  # fmt: skip
    said = [
        f"row 2, image, 'red_ball.png': none, since image_prior {tiny_prior} reads prompts alone",
        f"row 3, image, '': needed: image_prior {tiny_zero123} is shown a picture and reads no prompt",
    ]
    if skip:
        plan = prepare(request)
        assert [each.spec.prompt for each in plan.todo.missing] == ["red ball"]
        assert all(words in line for words, line in zip(said, plan.refused, strict=True))
    else:
        for ask in (prepare, lambda asked: show_plan(asked, as_json=True)):
            with pytest.raises(ManifestError) as refused:
                ask(request)
            assert all(words in str(refused.value) for words in said)


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
    assert row["status"] == "unjudged" and row["prompt"] == "red ball"
    page = write_gallery(library).read_text()
    assert f"../inputs/{sha256}.png" in page
    again = splatmill("run", props, "--library", library, *settings(small), env=environment())
    assert "1 there already" in again.stdout, again.stdout + again.stderr
