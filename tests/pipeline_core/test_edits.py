"""Edits of splats: what each line takes, does and refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline_core.edits import Body, edited, parse, parts
from pipeline_core.errors import RequestError
from pipeline_core.types import Gaussians, rgb_to_sh0, rotation_matrices, sh0_to_rgb

RED, GREEN, BLUE = (0.8, 0.1, 0.1), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8)


def ball(centre: tuple[float, float, float], colour: tuple[float, float, float], count: int, seed: int) -> Gaussians:
    """Gaussians within a tenth of a metre of ``centre``."""
    draw = torch.Generator().manual_seed(seed)
    at = torch.nn.functional.normalize(torch.randn(count, 3, generator=draw)) * 0.1
    return Gaussians(
        means=at * torch.rand(count, 1, generator=draw) ** (1 / 3) + torch.tensor(centre),
        quats=torch.randn(count, 4, generator=draw),
        scales=torch.randn(count, 3, generator=draw) * 0.3 - 4,
        opacities=torch.full((count,), 3.0),
        sh0=rgb_to_sh0(torch.tensor(colour).expand(count, 3)),
        shN=0.1 * torch.randn(count, 3, 3, generator=draw),
    )


@pytest.fixture(scope="module")
def body() -> Body:
    """A red ball of 300, a blue one of 200 above it, a speck of 4 beside them; the outline is their Gaussians."""
    several = (((0, 0.1, 0), RED, 300), ((0, 0.9, 0), BLUE, 200), ((1, 0.5, 0), RED, 4))
    joined = [ball(at, colour, count, seed).tensors() for seed, (at, colour, count) in enumerate(several)]
    gaussians = Gaussians(**{name: torch.cat([each[name] for each in joined]) for name in joined[0]})
    return Body(gaussians, gaussians.means.numpy().copy())


def done(body: Body, *lines: str, other: Body | None = None) -> Body:
    return edited(body, [parse(line) for line in lines], lambda asset: other)


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("remove floaters=0.02", 500),
        ("remove part=1", 204),
        ("keep part=2", 200),
        ("remove box=-1,0.5,-1,0.5,2,1", 304),
        ("remove box=0.5,2,1,-1,0.5,-1", 304),
        ("keep sphere=0,0.9,0,0.2", 200),
        ("keep colour=#cc1919", 304),
        ("remove colour=#cc1919~0.05", 200),
    ],
)
def test_regions_are_taken_away_or_kept(body, line, left):
    after = done(body, line)
    assert len(after.gaussians) == len(after.outline) == left
    assert np.array_equal(after.gaussians.means.numpy(), after.outline)


def test_what_is_left_tells_its_height(body):
    assert body.height_m == pytest.approx(1.0, abs=0.03)
    assert done(body, "remove part=2", "remove floaters=0.1").height_m == pytest.approx(0.2, abs=0.03)
    assert done(body, "recolour hue=90").height_m == body.height_m


def test_a_hue_goes_round_and_harmonics_with_it(body):
    after = done(body, "recolour hue=120 part=1").gaussians
    torch.testing.assert_close(sh0_to_rgb(after.sh0)[:300], torch.tensor(GREEN).expand(300, 3))
    assert torch.equal(after.sh0[300:], body.gaussians.sh0[300:])
    torch.testing.assert_close(after.shN[:300], body.gaussians.shN[:300].roll(1, dims=2))
    whole = done(body, *["recolour hue=90"] * 4).gaussians
    torch.testing.assert_close(whole.sh0, body.gaussians.sh0, atol=1e-5, rtol=0)


def test_a_colour_keeps_the_light_and_dark_that_was_there(body):
    shaded = replace(body.gaussians, sh0=body.gaussians.sh0 * torch.linspace(0.5, 1.5, 504)[:, None, None])
    after = sh0_to_rgb(done(Body(shaded, body.outline), "recolour to=#3366cc part=2").gaussians.sh0)
    assert torch.equal(after[:300], sh0_to_rgb(shaded.sh0)[:300])
    luma = torch.tensor([0.299, 0.587, 0.114])
    ratio = after[300:500] / torch.tensor([0x33, 0x66, 0xCC])
    torch.testing.assert_close(ratio, ratio[:, :1].expand(-1, 3), rtol=1e-4, atol=1e-6)
    before = sh0_to_rgb(shaded.sh0)[300:500] @ luma
    torch.testing.assert_close(
        (after[300:500] @ luma) / before, torch.full((200,), float(after[300] @ luma / before[0]))
    )


def test_it_is_moved_turned_and_scaled_about_the_origin(body):
    after = done(body, "scale by=2", "turn by=90", "move by=1,2,3")
    x, y, z = body.gaussians.means.unbind(1)
    torch.testing.assert_close(after.gaussians.means, 2 * torch.stack([z, y, -x], 1) + torch.tensor([1.0, 2, 3]))
    np.testing.assert_allclose(after.outline, after.gaussians.means.numpy(), atol=1e-5)
    axes = rotation_matrices(after.gaussians.quats) * after.gaussians.scales.exp()[:, None]
    before = rotation_matrices(body.gaussians.quats) * body.gaussians.scales.exp()[:, None]
    quarter = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    want = 4 * quarter @ before @ before.transpose(1, 2) @ quarter.T
    torch.testing.assert_close(axes @ axes.transpose(1, 2), want, rtol=1e-3, atol=1e-6)
    assert done(body, "scale by=1,3,1").height_m == pytest.approx(3 * body.height_m, rel=1e-5)
    assert done(body, "turn by=90 axis=x").height_m < 0.3


def test_another_asset_is_merged_where_it_is_asked_for(body):
    plain = ball((0, 0.1, 0), GREEN, 50, 7)
    other = Body(replace(plain, shN=torch.zeros(50, 0, 3)), plain.means.numpy())
    after = done(body, "merge asset=lamp at=0,1,0 scale=2", other=other)
    assert (len(after.gaussians), after.gaussians.sh_degree) == (554, 1)
    torch.testing.assert_close(after.gaussians.means[504:], plain.means * 2 + torch.tensor([0, 1.0, 0]))
    assert not after.gaussians.shN[504:].any()
    assert after.height_m == pytest.approx(1.4, abs=0.1)


def test_parts_are_numbered_by_size(body):
    found = parts(body.gaussians)
    assert [part.gaussians for part in found[:2]] == [300, 200] and [part.number for part in found[:3]] == [1, 2, 3]
    assert (found[0].colour, found[1].colour) == ("#cc1a1a", "#1a1acc")
    assert found[1].low[1] == pytest.approx(0.8, abs=0.03) and found[1].high[1] == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "begins with none of remove, keep"),
        ("explode", "begins with none of"),
        ("remove", "one region"),
        ("remove box=1,2,3", "box takes 6 numbers"),
        ("remove box=0,0,0,1,1,nan", "box takes 6 numbers"),
        ("remove box=0,0,0,1,1,1 sphere=0,0,0,1", "one region"),
        ("remove sphere=0,0,0,-1", "sphere is above 0"),
        ("remove part=0", "numbers from 1"),
        ("remove floaters=0", "floaters is above 0"),
        ("remove hue=3", "'hue=3' is not understood; remove takes box="),
        ("recolour box=0,0,0,1,1,1", "needs to=#rrggbb or hue="),
        ("recolour to=red", "to is #rrggbb"),
        ("recolour hue=1 hue=2", "each once"),
        ("keep colour=#cc0000~2", "colour is #rrggbb, or"),
        ("move", "needs by="),
        ("turn by=90 axis=w", "axis is x, y or z"),
        ("scale by=0", "by is above 0"),
        ("scale by=1,2", "by takes 1 or 3 numbers"),
        ("merge at=0,0,0", "needs asset="),
    ],
)
def test_what_is_not_understood_is_told_with_what_would_be(line, says):
    with pytest.raises(RequestError, match=says):
        parse(line)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("remove box=5,5,5,6,6,6", "no Gaussian is there; the splat reaches from -0"),
        ("remove part=99", "there are [0-9]+ parts"),
        ("remove colour=#00ff00~0.05", "no Gaussian is there"),
        ("keep sphere=0,0.5,0,9", None),
        ("remove sphere=0,0.5,0,9", "leaves nothing"),
    ],
)
def test_an_edit_that_finds_nothing_or_leaves_nothing_is_refused(body, line, says):
    if says is None:
        assert len(done(body, line).gaussians) == 504
        return
    with pytest.raises(RequestError, match=says):
        done(body, line)


def test_the_plain_form_of_a_line_is_kept():
    assert parse("  recolour   hue=120  part=1 ").text == "recolour hue=120 part=1"
