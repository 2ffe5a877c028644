import pytest
import torch

from pipeline_core.cameras import orbit
from pipeline_core.guidance.views import draw_backgrounds, draw_cameras


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(size, generator, views=1, **settings):
    return draw_cameras(views, size, generator, **{"elevation": (-30.0, 30.0), "fovy": 49.1} | settings)


def test_cameras_are_stratified_and_inside_their_ranges():
    for seed in range(20):
        cameras = draw(32, generator(seed), views=4, elevation=(-10.0, 50.0), fovy=40.0)
        gaps = cameras.azimuth.sort().values.diff()
        assert (gaps <= 180).all() and (
            cameras.azimuth.abs() <= 180
        ).all()  # one view in each quarter: gaps below a half turn
        assert (cameras.elevation >= -10).all() and (cameras.elevation <= 50).all()
        torch.testing.assert_close(cameras.viewmats, orbit(cameras.azimuth, cameras.elevation, size=32).viewmats)


def test_the_start_of_the_turn_is_random():
    azimuths = torch.cat([draw(8, generator(s)).azimuth for s in range(400)])
    assert (torch.histc(azimuths, 4, -180, 180) > 70).all()


def test_jitter_changes_field_of_view_and_target_only_where_asked():
    plain = draw(32, generator(), views=4, fovy=50.0)
    moved = draw(32, generator(), views=4, fovy=50.0, fovy_jitter=10.0, target_jitter=0.05)
    torch.testing.assert_close(plain.azimuth, moved.azimuth)
    assert (plain.Ks[:, 0, 0] == plain.Ks[0, 0, 0]).all() and moved.Ks[:, 0, 0].std() > 0
    fovy = torch.rad2deg(2 * torch.atan(16 / moved.Ks[:, 1, 1]))
    assert (fovy >= 40).all() and (fovy <= 60).all()
    assert not torch.allclose(plain.viewmats[:, :3, 3], moved.viewmats[:, :3, 3])


def test_a_rig_is_four_views_a_quarter_turn_apart():
    cameras = draw(32, generator(), views=8, fovy_jitter=10.0, group=4)
    turns = (cameras.azimuth.reshape(2, 4).diff(dim=1)) % 360
    torch.testing.assert_close(turns, torch.full((2, 3), 90.0), atol=1e-3, rtol=0)
    groups = cameras.elevation.reshape(2, 4)
    assert (groups == groups[:, :1]).all() and groups[0, 0] != groups[1, 0]
    with pytest.raises(AssertionError, match="groups of 4"):
        draw(32, generator(), views=3, group=4)


def test_framing_is_half_the_pictures_height_at_the_object_whatever_the_field_of_view():
    cameras = draw(32, generator(), views=80, fovy=37.5, fovy_jitter=22.5, framing=(0.8, 1.0), group=4)
    distance = cameras.viewmats[:, :3, 3].norm(dim=1)
    frame = distance * 16 / cameras.Ks[:, 1, 1]
    assert (frame >= 0.8 - 1e-5).all() and (frame <= 1.0 + 1e-5).all() and frame.std() > 0.02
    assert (distance.reshape(20, 4).diff(dim=1).abs() < 1e-5).all()
    plain = draw(32, generator(), views=80, fovy=37.5, fovy_jitter=22.5, group=4)
    assert torch.equal(plain.azimuth, cameras.azimuth) and torch.equal(plain.Ks, cameras.Ks)


def test_backgrounds():
    assert draw_backgrounds("prior", (1.0, 1.0, 1.0), 3, generator()).tolist() == [[1.0, 1.0, 1.0]] * 3
    mixed = draw_backgrounds("prior", None, 200, generator())
    assert set(map(tuple, mixed.tolist())) == {(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)}
    assert 60 < mixed[:, 0].sum() < 140
    assert draw_backgrounds("black", (1.0, 1.0, 1.0), 2, generator()).sum() == 0
    assert draw_backgrounds("random", None, 50, generator()).std() > 0.2


@pytest.mark.parametrize("kind", ["prior", "white_black", "random"])
def test_the_views_of_a_rig_share_one_background(kind):
    colours = torch.cat([draw_backgrounds(kind, None, 8, generator(seed), group=4) for seed in range(100)])
    rigs = colours.reshape(200, 4, 3)
    assert (rigs == rigs[:, :1]).all() and len(rigs[:, 0].unique(dim=0)) > 1


def test_sharing_a_background_draws_as_often_as_not_sharing_it():
    alone, shared = generator(), generator()
    draw_backgrounds("random", None, 8, alone)
    draw_backgrounds("random", None, 8, shared, group=4)
    assert torch.equal(alone.get_state(), shared.get_state())


def test_a_focal_length_is_drawn_in_place_of_the_field_of_view():
    cameras = draw(512, generator(), views=200, focal=(0.75, 1.35))  # GSGen's focal_length_range
    focal = cameras.Ks[:, 0, 0] / 512
    assert focal.min() >= 0.75 - 1e-4 and focal.max() <= 1.35 + 1e-4
    torch.testing.assert_close(focal.mean(), torch.tensor(1.05), atol=0.03, rtol=0)


def test_elevations_are_even_over_the_sphere_or_over_degrees():
    for even_over, share_above_30 in (("sphere", 0.5 / 1.0), ("degrees", 2 / 3)):
        elevation = draw(8, generator(), views=3000, elevation=(0.0, 90.0), even_over=even_over).elevation
        assert float((elevation > 30).float().mean()) == pytest.approx(share_above_30, abs=0.03)
