"""Procedural props: geometry, pictures, clouds and meshes agree with each other and with the conventions."""

import dataclasses

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_opening, distance_transform_edt
from scipy.spatial import cKDTree

from pipeline_core.props import primitives as pr
from pipeline_core.props import textures as tx
from pipeline_core.props.props import (
    CATEGORIES,
    COLOURS,
    COMPOSED,
    FRONTED,
    OBJECT_RADIUS,
    SMALL,
    STANDS,
    PropSpec,
    build,
    is_heldout,
    may_stand,
    parts_of,
    sample_spec,
    size_of,
)
from pipeline_core.props.raycast import LIT_COLOUR, NORMALS, UNLIT_COLOUR, render, sample_points, sample_surface
from pipeline_core.props.textures import FLAT, UNLIT
from tests.pipeline_core.props.meshes import to_mesh

EVERY = [PropSpec(c, "blue", seed=s) for c in CATEGORIES for s in range(3)]


def white(colour=(0.9, 0.9, 0.9)):
    return pr.plain(colour)


def project(xyz, azimuth, elevation, size, distance=2.5, fovy=40.0):
    """Pinhole camera of the module's conventions, written independently: [n, 3] -> pixel (u, v)."""
    a, e = np.radians(azimuth), np.radians(elevation)
    eye = distance * np.array([np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)])
    forward = -eye / distance
    right = np.array([np.cos(a), 0, -np.sin(a)])
    up = np.cross(right, forward)
    d = xyz - eye
    z, t = d @ forward, np.tan(np.radians(fovy / 2))
    return (0.5 + 0.5 * (d @ right) / z / t) * size, (0.5 - 0.5 * (d @ up) / z / t) * size


# ---- specs --------------------------------------------------------------------------------------


def test_there_are_enough_categories_and_colours():
    assert len(CATEGORIES) == len(set(CATEGORIES)) >= 60
    assert len(COLOURS) == 12
    assert set(CATEGORIES) >= FRONTED


def test_colours_are_distinct():
    values = np.array(list(COLOURS.values()))
    gaps = np.linalg.norm(values[:, None] - values[None], axis=-1) + 9 * np.eye(len(values))
    assert gaps.min() > 0.25
    assert values.max() <= 0.97  # room for light before clipping
    assert max(COLOURS["white"]) < 0.9  # seen against a white background


def test_heldout_rule_leaves_every_category_and_colour_most_partners():
    held = np.array([[is_heldout(c, k) for k in COLOURS] for c in CATEGORIES])
    assert 0.10 < held.mean() < 0.15
    assert 1 <= held.sum(1).min() and held.sum(1).max() <= 2
    assert 1 <= held.sum(0).min() and held.sum(0).max() <= len(CATEGORIES) // 6


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_splits_keep_to_the_rule(split):
    rng = np.random.default_rng(0)
    specs = [sample_spec(rng, split=split) for _ in range(2000)]
    assert {is_heldout(s.category, s.colour) for s in specs} == {split == "heldout"}
    assert {s.category for s in specs} == set(CATEGORIES)
    assert {s.colour for s in specs} == set(COLOURS)


def test_sampling_is_deterministic_and_covers_every_part():
    a, b = np.random.default_rng(5), np.random.default_rng(5)
    assert [sample_spec(a) for _ in range(50)] == [sample_spec(b) for _ in range(50)]
    for category in CATEGORIES:
        specs = [sample_spec(a, category=category) for _ in range(200)]
        assert {s.category for s in specs} == {category}
        assert {s.part for s in specs} == {None, *parts_of(category)}
        assert all((s.part is None) == (s.colour2 is None) and s.colour2 != s.colour for s in specs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category": "dragon"}, "category='dragon' must be one of crate"),
        ({"colour": "mauve"}, "colour='mauve'"),
        ({"colour2": "mauve"}, "colour2='mauve'"),
        ({"material": "marble"}, "material='marble'"),
        ({"pattern": "plaid"}, "pattern='plaid'"),
        ({"colour2": "red", "part": "roof"}, "part='roof' of a mug must be one of stripes"),
    ],
)
def test_unknown_names_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build(dataclasses.replace(PropSpec("mug", "blue"), **change))


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split='test'"):
        sample_spec(np.random.default_rng(0), split="test")


# ---- geometry -----------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", EVERY, ids=lambda s: f"{s.category}-{s.seed}")
def test_prop_is_normalised_and_its_cloud_and_mesh_agree(spec):
    prop = build(spec)
    assert prop.rows.dtype == np.float32 and 1 <= len(prop.rows) <= 32
    np.testing.assert_array_equal(prop.rows, build(spec).rows)

    mesh = to_mesh(prop)
    np.testing.assert_allclose(prop.bounds[0], -prop.bounds[1], atol=1e-6)
    np.testing.assert_allclose(mesh.bounds, prop.bounds, atol=0.004)
    assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(OBJECT_RADIUS, abs=0.003)

    xyz, rgb = sample_points(prop, 1024, np.random.default_rng(1))
    assert xyz.shape == rgb.shape == (1024, 3) and xyz.dtype == rgb.dtype == np.float32
    assert np.linalg.norm(xyz, axis=1).max() <= OBJECT_RADIUS * 1.001
    assert rgb.min() >= 0 and rgb.max() <= 1
    again, _ = sample_points(prop, 1024, np.random.default_rng(1))
    np.testing.assert_array_equal(xyz, again)

    # the sampler never goes through the mesh code: distance from each point to 200k points of the mesh
    dense = mesh.sample(200_000, seed=0)
    gap, _ = cKDTree(dense).query(xyz)
    assert np.quantile(gap, 0.99) < 0.012 and gap.max() < 0.03


def test_small_parts_get_more_points_where_that_is_asked_for():
    prop = build(PropSpec("candle", "purple", "green", "flame", seed=1))

    def flame(parts: float) -> float:
        xyz, rgb = sample_points(prop, 4000, np.random.default_rng(0), parts=parts)
        again, _ = sample_points(prop, 4000, np.random.default_rng(0), parts=parts)
        np.testing.assert_array_equal(xyz, again)
        return float((rgb[:, 1] > rgb[:, 0] + 0.1).mean())

    assert 1.3 < flame(0.5) / flame(0.0) < 3.0


@pytest.mark.parametrize("category", CATEGORIES)
def test_points_land_on_the_mask(category):
    prop, size = build(PropSpec(category, "red", seed=4)), 64
    xyz, _ = sample_points(prop, 4000, np.random.default_rng(0))
    for azimuth, elevation in ((0, 0), (90, 10), (215, 35), (30, 80), (300, -20)):
        rgba = render([prop], [azimuth], [elevation], size=size)[0]
        mask = rgba[..., 3] > 0
        assert not rgba[~mask].any()  # nothing hides under zero alpha
        u, v = project(xyz, azimuth, elevation, size)
        at = np.floor(v).astype(int), np.floor(u).astype(int)
        # an edge pixel may hold a point between its four rays, but no point is farther out
        assert binary_dilation(mask, np.ones((3, 3)))[at].all()
        hit = np.zeros_like(mask)
        hit[at] = True
        assert binary_dilation(hit, iterations=2)[mask].mean() > 0.98  # and they cover it


@pytest.mark.parametrize("category", CATEGORIES)
def test_recognisable_size_and_no_thread_like_parts(category):
    """Every view but the thinnest fills a fair part of the image, and most of it is at least three pixels thick."""
    for seed in range(3):
        prop = build(PropSpec(category, "red", seed=seed))
        for mask in render([prop] * 4, [0, 45, 90, 200], [15, 20, 5, 15])[..., 3] > 127:
            assert mask.sum() > 150
            assert binary_opening(mask, np.ones((3, 3))).sum() > 0.8 * mask.sum()


def test_same_seed_keeps_its_shape_in_every_colour_and_seeds_differ():
    def shape(**change):
        prop = build(PropSpec(**{"category": "house", "colour": "red", "seed": 7, **change}))
        return prop.rows[:, pr.CENTRE : pr.PARAMS + 4]

    np.testing.assert_array_equal(shape(), shape(colour="black"))
    np.testing.assert_array_equal(shape(), shape(colour2="blue", part="roof"))
    np.testing.assert_array_equal(shape(), shape(material="stone"))
    assert not np.array_equal(shape(), shape(seed=8))


PRIMITIVES = {
    "ball": pr.ball((0.1, 0.2, 0), (0.5, 0.3, 0.7), white(), rot=pr.rotation("z", 30)),
    "bowl": pr.bowl((0, 0, 0), 1.0, white(), cut=0.2, inner=0.7),
    "dome": pr.dome((0, 0, 0), (1.0, 0.6, 0.8), white(), cut=0.1),
    "box": pr.box((0, 0, 0), (0.5, 0.3, 0.7), white(), rot=pr.rotation("y", 25)),
    "gable": pr.box((0, 0, 0), (0.5, 0.3, 0.7), white(), taper=(0.0, 1.0)),
    "cylinder": pr.cylinder((0, -1, 0), (0.5, 1, 0.3), 0.5, white()),
    "cone": pr.cylinder((0, -1, 0), (0, 1, 0), 0.8, white(), radius2=0.001),
    "flared": pr.cylinder((0, -1, 0), (1, 1, 0), 0.3, white(), radius2=0.9, flat=0.5),
    "cup": pr.cylinder((0, -1, 0), (0, 1, 0), 0.8, white(), radius2=0.9, inner=0.7, floor=-0.6),
    "tube": pr.cylinder((0, -1, 0), (0, 1, 0), 0.8, white(), inner=0.7, floor=-1),
    "prism": pr.cylinder((0, -1, 0), (0, 1, 0), 0.8, white(), radius2=0.4, sides=6),
    "ring": pr.ring((0, 0, 0), (1, 1, 0), 1.0, 0.3, white()),
    "rod": pr.rod((0, -1, 0), (1, 1, 1), 0.3, white()),
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_primitive_mesh_is_closed_and_the_ray_caster_agrees(name):
    prop = pr.pack([PRIMITIVES[name]])
    mesh = to_mesh(prop, steps=24)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    mesh.update_faces(mesh.nondegenerate_faces())
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0
    xyz, _ = sample_points(prop, 3000, np.random.default_rng(0))
    gap, _ = cKDTree(mesh.sample(200_000, seed=0)).query(xyz)
    assert gap.max() < 0.02
    # silhouettes: random surface points of the mesh fall on the rendered mask, and cover it
    outline = mesh.sample(60_000, seed=1)
    for azimuth, elevation in ((20, 10), (130, 50), (250, -60)):
        mask = render([prop], [azimuth], [elevation], size=96)[0, ..., 3] > 0
        u, v = project(outline, azimuth, elevation, 96)
        seen = np.zeros_like(mask)
        seen[np.floor(v).astype(int), np.floor(u).astype(int)] = True
        assert (seen & ~binary_dilation(mask)).sum() == 0
        assert (mask & ~binary_dilation(seen)).sum() == 0


def test_hollow_things_are_hollow():
    mask = {}
    for floor in (-0.6, -1.0):
        prop = pr.pack([pr.cylinder((0, -1, 0), (0, 1, 0), 0.8, white(), inner=0.7, floor=floor)])
        mask[floor] = render([prop], [0], [90], size=65)[0, ..., 3]
    assert mask[-0.6][32, 32] == 255  # a cup has a floor
    assert mask[-1.0][32, 32] == 0  # a tube does not


def test_sampling_is_uniform_by_area():
    # lines hit a convex body in proportion to area: 2 x 1 x 1 box -> ends 2/10 of the area
    prop = pr.pack([pr.box((0, 0, 0), (1.0, 0.5, 0.5), white())])
    xyz, _ = sample_points(prop, 40_000, np.random.default_rng(0))
    share = (np.abs(xyz[:, 0]) > prop.bounds[1, 0] - 1e-4).mean()
    assert share == pytest.approx(0.2, abs=0.01)


def test_cloud_leaves_out_what_cannot_be_seen():
    prop = pr.pack([pr.ball((0, 0, 0), 1.0, white()), pr.ball((0, 0, 0), 0.8, pr.plain((1, 0, 0)))])
    xyz, rgb = sample_points(prop, 2000, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(xyz, axis=1), OBJECT_RADIUS, atol=1e-3)
    assert rgb[:, 1].min() > 0.3


# ---- rendering ----------------------------------------------------------------------------------


def centroid(rgba, wanted):
    """Mean (x, y) in [-1, 1], y up, of the pixels of one pure channel."""
    on = (rgba[..., wanted] > 200) & (np.delete(rgba[..., :3], wanted, -1).max(-1) < 40)
    v, u = np.nonzero(on)
    n = rgba.shape[0]
    return (2 * (u.mean() + 0.5) / n - 1, 1 - 2 * (v.mean() + 0.5) / n) if on.any() else None


def test_axes_and_cameras():
    """Red ball on +X, green on +Y, blue on +Z: where each view must show them."""
    red, green, blue = pr.plain((1, 0, 0)), pr.plain((0, 1, 0)), pr.plain((0, 0, 1))
    far = pr.plain((0.2, 0.2, 0.2))
    rows = [pr.ball((1, 0, 0), 0.3, red), pr.ball((0, 1, 0), 0.3, green), pr.ball((0, 0, 1), 0.3, blue)]
    rows += [pr.ball((-1, 0, 0), 0.3, far), pr.ball((0, -1, 0), 0.3, far), pr.ball((0, 0, -1), 0.3, far)]
    prop = pr.pack(rows)
    front, right, back, above = render([prop] * 4, [0, 90, 180, 0], [0, 0, 0, 90], lighting=FLAT)
    assert centroid(front, 0)[0] > 0.3 and centroid(front, 1)[1] > 0.3
    assert np.abs(centroid(front, 2)).max() < 0.05  # +Z faces the camera
    assert np.abs(centroid(right, 0)).max() < 0.05 and centroid(right, 2)[0] < -0.3
    assert centroid(back, 0)[0] < -0.3
    assert np.abs(centroid(above, 1)).max() < 0.05
    assert centroid(above, 0)[0] > 0.3 and centroid(above, 2)[1] < -0.3


def test_views_broadcast_and_threads_do_not_matter():
    props = [build(s) for s in EVERY[:12]]
    azimuth = np.linspace(0, 330, 36).reshape(12, 3)
    elevation = np.full((12, 3), 20.0)
    grid = render(props, azimuth, elevation, size=32)
    assert grid.shape == (12, 3, 32, 32, 4) and grid.dtype == np.uint8
    np.testing.assert_array_equal(grid, render(props, azimuth, elevation, size=32, threads=1))
    for view in range(3):
        one = render(props, azimuth[:, view], elevation[:, view], size=32)
        np.testing.assert_array_equal(grid[:, view], one)
    near = render(props[:1], [0.0], [0.0], distance=2.0)[0, ..., 3]
    wide = render(props[:1], [0.0], [0.0], fovy=60.0)[0, ..., 3]
    normal = render(props[:1], [0.0], [0.0])[0, ..., 3]
    assert (near > 0).sum() > (normal > 0).sum() > (wide > 0).sum()


def test_camera_inside_the_bounding_sphere_still_renders():
    prop = build(PropSpec("house", "red"))
    assert render([prop], [30.0], [60.0], distance=0.75)[0, ..., 3].mean() > 128


def test_supersampling_only_softens():
    prop = build(PropSpec("chair", "green", seed=2))
    rough = render([prop], [40.0], [20.0], supersample=1)[0].astype(float)
    fine = render([prop], [40.0], [20.0], supersample=4)[0].astype(float)
    assert set(np.unique(rough[..., 3])) == {0.0, 255.0}
    inside = distance_transform_edt(rough[..., 3] > 0) > 2
    assert np.abs(rough - fine)[inside].mean() < 6


@pytest.mark.parametrize("colour", COLOURS)
def test_the_named_colour_is_the_one_seen(colour):
    prop = build(PropSpec("candle", colour, seed=1, colour2="red" if colour != "red" else "blue", part="base"))
    rgba = render([prop], [10.0], [5.0], lighting=FLAT)[0, 24:44]
    body = rgba[rgba[..., 3] == 255][:, :3] / 255.0
    named = np.array(list(COLOURS.values()))
    nearest = np.linalg.norm(body[:, None] - named, axis=-1).argmin(1)
    assert np.bincount(nearest, minlength=12).argmax() == list(COLOURS).index(colour)


def test_light_is_soft_and_fixed_to_the_world():
    prop = pr.pack([pr.box((0, 0, 0), (1, 1, 1), white((0.8, 0.8, 0.8)))])
    views = render([prop] * 3, [0, 90, 180], [0, 0, 0])[:, 20:44, 20:44, 0].astype(float) / 255
    front, right, back = views.mean((1, 2))
    top = render([prop], [0], [90])[0, 32, 32, 0] / 255
    assert 0.8 > top > front > right > back > 0.8 * 0.65
    assert front - right > 0.03  # an edge between two lit faces is visible
    bright = render([prop], [0], [0], lighting=FLAT)[0, 32, 32, 0]
    assert bright == round(0.8 * 255)


def test_mug_handle_is_on_the_right():
    prop = build(PropSpec("mug", "red", seed=1))
    front, right, back, left = render([prop] * 4, [0, 90, 180, 270], [10] * 4)[..., 3].astype(float)
    columns = np.nonzero((front > 0).any(0))[0]
    body = (front > 0).sum(0)
    assert body[columns[-6:]].mean() < 0.8 * body[columns[:6]].mean()  # the handle is lower than the wall
    assert np.abs(front - front[:, ::-1]).mean() > 10
    assert np.abs(front - back[:, ::-1]).mean() < 8  # the same silhouette, mirrored
    flat = render([prop] * 2, [90, 270], [10, 10]).astype(float)
    assert np.abs(flat[0] - flat[1]).mean() > 3  # the handle is seen from the right side only
    assert right.any() and left.any()


@pytest.mark.parametrize("category", sorted(FRONTED))
def test_front_differs_from_back(category):
    """By albedo alone, and beyond mirroring: light must not be what tells front from back."""
    for seed in range(3):
        prop = build(PropSpec(category, "blue", seed=seed))
        front, back = render([prop] * 2, [0, 180], [10, 10], lighting=FLAT).astype(float)
        plain = np.abs(front - back).mean(-1)
        mirrored = np.abs(front - back[:, ::-1]).mean(-1)
        assert min((plain > 40).sum(), (mirrored > 40).sum()) > 25


def test_second_colour_and_material_show():
    def picture(**change):
        prop = build(PropSpec(**{"category": "mug", "colour": "red", "seed": 3, **change}))
        return render([prop], [20.0], [20.0])[0].astype(float)

    for part in parts_of("mug"):
        assert np.abs(picture() - picture(colour2="white", part=part)).max() > 80, part
    for material in ("wooden", "metal"):
        assert np.abs(picture() - picture(material=material)).max() > 25
    np.testing.assert_array_equal(picture(colour2="white"), picture(colour2="white", part="stripes"))


def test_every_part_of_every_category_changes_the_picture():
    for category in CATEGORIES:
        plain = build(PropSpec(category, "blue", seed=11))
        for part in parts_of(category):
            prop = build(PropSpec(category, "blue", "pink", part, seed=11))
            both = render([plain, plain, prop, prop], [25, 115] * 2, [5, 45] * 2).astype(float)
            changed = (np.abs(both[:2] - both[2:])[..., :3].max(-1) > 30).sum()
            assert changed > 25, (category, part, changed)


def test_mesh_colours_are_those_of_the_picture():
    prop = build(PropSpec("mushroom", "red", "white", "spots", seed=2))
    mesh = to_mesh(prop, steps=24)
    xyz, rgb = sample_points(prop, 2000, np.random.default_rng(0))
    _, nearest = cKDTree(mesh.vertices).query(xyz)
    colours = mesh.visual.vertex_colors[nearest, :3] / 255.0
    close = np.abs(colours - rgb).max(1) < 0.12
    assert close.mean() > 0.8  # the rest lies across the edge of a spot or of a part


# ---- kinds of render, and finish ----------------------------------------------------------------


def middle(rgba):
    """Mean colour [3] in [0, 1] of the middle of an image."""
    n = rgba.shape[0]
    return rgba[3 * n // 8 : 5 * n // 8, 3 * n // 8 : 5 * n // 8, :3].reshape(-1, 3).mean(0) / 255


def test_unlit_pictures_are_paint_from_every_side():
    prop = pr.pack([pr.box((0, 0, 0), (1, 1, 1), pr.plain((0.2, 0.5, 0.8), metal=0.9, glow=0.5))])
    views = render([prop] * 4, [0, 90, 180, 0], [0, 0, 0, 90], kind=np.full(4, UNLIT_COLOUR))
    for view in views:
        np.testing.assert_array_equal(view[view[..., 3] == 255][:, :3], [[51, 128, 204]] * (view[..., 3] == 255).sum())
    shaded = render([prop] * 4, [0, 90, 180, 0], [0, 0, 0, 90])
    np.testing.assert_array_equal(views[..., 3], shaded[..., 3])


def test_lit_pictures_are_lit_from_the_side_that_is_asked_for():
    prop = pr.pack([pr.ball((0, 0, 0), 1.0, white((0.9, 0.9, 0.9)))])
    sides = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]], float)
    for azimuth in (0, 70, 200):  # the light is in the camera's frame
        right, left, above, front, back = render(
            [prop] * 5, [azimuth] * 5, [20] * 5, kind=np.full(5, LIT_COLOUR), light=sides
        )[..., 0].astype(float)
        assert right[20:44, 34:46].mean() > right[20:44, 18:30].mean() + 25
        np.testing.assert_allclose(right, left[:, ::-1], atol=2)
        assert above[18:30, 20:44].mean() > above[34:46, 20:44].mean() + 25
        lit, dark = front[30:34, 30:34].mean() / 255, back[30:34, 30:34].mean() / 255
        assert lit == pytest.approx(0.9 * (tx.SIDE_AMBIENT + tx.SIDE_DIFFUSE), abs=0.01)
        assert dark == pytest.approx(0.9 * tx.SIDE_AMBIENT, abs=0.01)


def test_normals_are_in_the_frame_of_the_camera():
    prop = pr.pack([pr.box((0, 0, 0), (1, 1, 1), white())])
    for azimuth, elevation in ((0, 0), (90, 0), (180, 0), (0, 90), (40, -30)):
        towards = render([prop], [azimuth], [elevation], kind=np.array([NORMALS]))[0]
        if (azimuth, elevation) != (40, -30):
            np.testing.assert_allclose(middle(towards), (0.5, 0.5, 1.0), atol=0.01)
        inside = towards[towards[..., 3] == 255][:, :3] / 127.5 - 1
        assert np.median(np.abs(np.linalg.norm(inside, axis=1) - 1)) < 0.02 and inside[:, 2].min() > -0.1
    above = render([prop], [0], [35], kind=np.array([NORMALS]))[0]
    top = above[20, 32, :3] / 127.5 - 1
    np.testing.assert_allclose(top, (0, np.cos(np.radians(35)), np.sin(np.radians(35))), atol=0.02)


def test_kinds_differ_from_view_to_view_and_default_pictures_do_not_change():
    props = [build(PropSpec("mug", "red", seed=3)), build(PropSpec("house", "blue", seed=2))]
    angles = np.array([[10.0, 200.0, 90.0]] * 2), np.full((2, 3), 15.0)
    kind, light = np.array([[0, 1, 2], [2, 0, 1]]), np.broadcast_to((0.6, 0.0, 0.8), (2, 3, 3))
    mixed = render(props, *angles, size=32, kind=kind, light=light)
    for i in range(2):
        for v in range(3):
            one = render(
                props[i : i + 1], angles[0][i, v : v + 1], angles[1][i, v : v + 1], size=32, kind=kind[i, v : v + 1],
                light=light[i, v : v + 1],
            )  # fmt: skip
            np.testing.assert_array_equal(mixed[i, v], one[0])
    np.testing.assert_array_equal(render(props, *angles), render(props, *angles, lighting=tx.SOFT))
    with pytest.raises(ValueError, match="from 0 to 2"):
        render(props, *angles, kind=kind + 1, light=light)
    with pytest.raises(ValueError, match="direction for each"):
        render(props, *angles, kind=kind)
    with pytest.raises(ValueError, match="beside kind"):
        render(props, *angles, kind=kind, light=light, lighting=FLAT)


def finish_of(points, colour):
    """Metallic and roughness of the points nearest to a colour."""
    return points.finish[np.abs(points.rgb - colour).max(1) < 0.03].mean(0)


def test_points_have_the_finish_of_their_part():
    sword = sample_surface(build(PropSpec("sword", "grey", "brown", "handle")), 3000, np.random.default_rng(0))
    assert set(sword.finish[:, 0]) == {0.0, 1.0} and 0.4 < sword.finish[:, 0].mean() < 0.95
    for material, metallic in {"wooden": 0.0, "golden": 1.0, "metal": 1.0}.items():
        prop = build(PropSpec("chest", "yellow", "blue", "bands", material, seed=4))
        points = sample_surface(prop, 3000, np.random.default_rng(0), lighting=UNLIT)
        assert abs(points.finish[:, 0].mean() - metallic) < 0.5 and 0 < points.finish[:, 1].min() <= 1
    bands = sample_surface(
        build(PropSpec("barrel", "brown", "green", "bands", "wooden", seed=1)), 3000, np.random.default_rng(0),
        lighting=UNLIT,
    )  # fmt: skip
    np.testing.assert_allclose(finish_of(bands, COLOURS["green"]), tuple(pr.STEELY), atol=1e-4)
    xyz, rgb = sample_points(build(PropSpec("chest", "red")), 200, np.random.default_rng(3), parts=0.5)
    surface = sample_surface(build(PropSpec("chest", "red")), 200, np.random.default_rng(3), parts=0.5)
    np.testing.assert_array_equal(xyz, surface.xyz)
    np.testing.assert_array_equal(rgb, surface.rgb)
    assert surface.finish.shape == (200, 2) and surface.finish.dtype == np.float32


# ---- a thing on another -------------------------------------------------------------------------


def test_a_thing_stands_on_another_and_both_are_there():
    book, table = PropSpec("book", "red", seed=1), PropSpec("table", "green", seed=2)
    prop, alone = build(dataclasses.replace(book, on=table)), build(table)
    n = len(alone.rows)
    assert len(prop.rows) == n + len(build(book).rows)
    top = (prop.rows[:n, pr.CENTRE + 1] + prop.rows[:n, pr.SCALE + 1]).max()
    assert prop.rows[n:, pr.CENTRE + 1].min() > top - 0.02  # none of the book is in the table
    np.testing.assert_array_equal(prop.rows, build(dataclasses.replace(book, on=table)).rows)
    xyz, rgb = sample_points(prop, 3000, np.random.default_rng(0), lighting=UNLIT)
    assert np.linalg.norm(xyz, axis=1).max() <= OBJECT_RADIUS * 1.001
    red, green = (np.abs(rgb - COLOURS[name]).max(1) < 0.1 for name in ("red", "green"))
    assert red.mean() > 0.1 and green.mean() > 0.1 and xyz[red, 1].min() > np.quantile(xyz[green, 1], 0.9) - 0.05


@pytest.mark.parametrize("on", ["house", "mug"])
def test_not_everything_stands_on_everything(on):
    with pytest.raises(ValueError, match="does not stand on"):
        build(PropSpec("mug", "red", on=PropSpec(on, "blue")))


def test_compositions_are_drawn_now_and_then_and_keep_to_the_split():
    rng = np.random.default_rng(0)
    specs = [sample_spec(rng) for _ in range(3000)]
    both = [s for s in specs if s.on is not None]
    assert len(both) / len(specs) == pytest.approx(COMPOSED, abs=0.02)
    assert all(may_stand(s.category, s.on.category, split="train") for s in both)
    assert not any(is_heldout(s.on.category, s.on.colour) for s in both)
    assert all(sample_spec(rng, composed=0.0).on is None for _ in range(300))
    pairs = [(a, b) for a in SMALL for b in STANDS if a != b]
    assert 0.05 < np.mean([may_stand(a, b, split="heldout") for a, b in pairs]) < 0.25


def test_sizes_are_those_of_things():
    assert size_of("coin") < size_of("mug") < size_of("chair") < size_of("house") < size_of("tower")
    assert all(0.01 <= size_of(category) <= 20 for category in CATEGORIES)
