"""Assets of several parts: where each stands, and that a view of one alone is that of the part in its own frame."""

import numpy as np
import pytest
import torch

from pipeline_core.cameras import orbit
from pipeline_core.composition import compose, load_parts, save_parts, stretched, subjects
from pipeline_core.config import Init
from pipeline_core.errors import DataError
from pipeline_core.gaussians.initialise import from_points
from pipeline_core.io.ply import load_splat, save_splat
from pipeline_core.rendering.rasterize import rasterize_views
from pipeline_core.spec import Part
from pipeline_core.types import OBJECT_RADIUS, Gaussians, PointCloud


def box(width, height, depth, seed=0, count=400):
    """Gaussians in a box about a place that is not the origin, with colours that tell its sides apart."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(count, 3, generator=generator)
    xyz = (share - 0.5) * torch.tensor([width, height, depth]) + torch.tensor([0.05, -0.1, 0.02])
    return from_points(PointCloud(xyz, share), Init(num_points=count, sh_degree=1), generator)


def extent(gaussians, part):
    means = gaussians.means[gaussians.part == part]
    return means.amin(0), means.amax(0)


TABLE, BOOK = Part(prompt="a table"), Part(prompt="a book", position=(0.2, 0.5, 0.1), size=0.4, rotation=(0, 90, 0))


def test_parts_have_their_sizes_and_stand_on_their_positions():
    whole = compose([TABLE, BOOK], [box(0.8, 0.4, 0.8), box(0.5, 0.25, 0.1, seed=1)])
    (low, high), (under, over) = extent(whole, 0), extent(whole, 1)
    unit = float((high - low).max())  # the table's longest side is 1
    torch.testing.assert_close((high - low) / unit, torch.tensor([1.0, 0.5, 1.0]), atol=0.02, rtol=0)
    torch.testing.assert_close((over - under) / unit, torch.tensor([0.08, 0.2, 0.4]), atol=0.02, rtol=0)  # turned
    ground = torch.stack([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])  # where the table stands
    foot = torch.stack([(under[0] + over[0]) / 2, under[1], (under[2] + over[2]) / 2])
    torch.testing.assert_close((foot - ground) / unit, torch.tensor([0.2, 0.5, 0.1]), atol=0.02, rtol=0)
    reach = float(whole.means.norm(dim=1).quantile(0.995))
    assert abs(reach - OBJECT_RADIUS) < 0.02 and whole.layout.prompts == ("a table", "a book")


def test_turns_are_about_x_then_y_then_z():
    """Height goes to depth by a quarter about X, and depth to width by one about Y; about Z first it would not."""
    tall = box(0.1, 0.6, 0.2)
    part = Part(prompt="a post", rotation=(90, 90, 0))
    low, high = extent(compose([TABLE, part], [box(0.5, 0.5, 0.5), tall]), 1)
    assert (high - low).argmax() == 0 and (high - low).argmin() == 2
    seen = compose([TABLE, Part(prompt="x", rotation=(0, 90, 0))], [box(0.5, 0.5, 0.5), tall]).layout.rotations[1]
    torch.testing.assert_close(seen @ torch.tensor([0.0, 0.0, 1.0]).double(), torch.tensor([1.0, 0.0, 0.0]).double())


def test_a_view_of_a_part_is_that_of_the_part_in_its_own_frame():
    own = [box(0.8, 0.4, 0.8), box(0.5, 0.25, 0.1, seed=1)]
    turned = BOOK.model_copy(update={"rotation": (20.0, 70.0, -30.0)})
    whole = compose([TABLE, turned], own)
    cameras = orbit(torch.tensor([10.0, 130.0]), torch.tensor([25.0]), size=48)
    moved = whole.layout.moved(cameras, [1, None])
    assert (moved.viewmats == cameras.viewmats).flatten(1).all(1).tolist() == [False, True]
    alone = whole.chosen(whole.part == 1)
    image, alpha = rasterize_views(alone, moved.chosen([0]))
    want, want_alpha = rasterize_views(own[1], cameras.chosen([0]))
    assert float(want_alpha.max()) > 0.9
    torch.testing.assert_close(image, want, atol=2e-3, rtol=0)
    torch.testing.assert_close(alpha, want_alpha, atol=2e-3, rtol=0)
    back = whole.layout.own(1, alone.means)
    torch.testing.assert_close(back, own[1].means, atol=1e-5, rtol=0)


def test_three_sizes_stretch_a_part_and_leave_its_reach():
    xyz = box(0.8, 0.4, 0.8).means
    wide = stretched(xyz, Part(prompt="a table", size=(1, 0.25, 0.5)))
    size = wide.amax(0) - wide.amin(0)
    torch.testing.assert_close(size / size[0], torch.tensor([1.0, 0.25, 0.5]), atol=0.01, rtol=0)
    assert abs(float(wide.norm(dim=1).max() / (xyz - xyz.mean(0)).norm(dim=1).max()) - 1) < 0.1
    assert stretched(xyz, TABLE) is xyz


def test_points_gone_astray_neither_move_nor_shrink_a_part():
    table = box(0.8, 0.4, 0.8)
    table.means[0] = torch.tensor([3.0, -2.0, 1.0])
    clean = compose([TABLE, BOOK], [box(0.8, 0.4, 0.8), box(0.5, 0.25, 0.1, seed=1)]).layout
    astray = compose([TABLE, BOOK], [table, box(0.5, 0.25, 0.1, seed=1)]).layout
    torch.testing.assert_close(clean.moves, astray.moves, atol=0.02, rtol=0)
    torch.testing.assert_close(clean.scales, astray.scales, rtol=0.03, atol=0)


@pytest.mark.parametrize("groups, share", [(4, 0.5), (1, 0.5), (4, 0.25), (3, 1.0), (2, 0.0)])
def test_views_are_shared_out_evenly_and_parts_take_turns(groups, share):
    seen = [each for step in range(24) for each in subjects(step, groups, share, parts=3)]
    assert len(seen) == 24 * groups
    counts = [seen.count(part) for part in range(3)]
    assert sum(counts) == share * len(seen) and max(counts) - min(counts) <= 1


def test_what_tells_the_parts_of_a_splat_is_kept_beside_it(tmp_path):
    whole = compose([TABLE, BOOK], [box(0.8, 0.4, 0.8), box(0.5, 0.25, 0.1, seed=1)])
    save_splat(tmp_path / "splat.ply", whole)
    save_parts(tmp_path / "parts.npz", whole)
    splat = load_splat(tmp_path / "splat.ply")
    again = load_parts(tmp_path / "parts.npz", splat)
    assert torch.equal(again.part, whole.part) and again.layout.to_json() == whole.layout.to_json()
    save_parts(tmp_path / "again.npz", again)
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "parts.npz").read_bytes()
    fewer = Gaussians(**{name: value[:5] for name, value in splat.tensors().items()})
    with pytest.raises(DataError, match="tells of 800 Gaussians, and the splat beside it has 5"):
        load_parts(tmp_path / "parts.npz", fewer)
    (tmp_path / "parts.npz").write_bytes(np.random.default_rng(0).bytes(99))
    with pytest.raises(DataError, match="is not what tells the parts"):
        load_parts(tmp_path / "parts.npz", splat)
