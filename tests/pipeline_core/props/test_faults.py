"""Props with something wrong: in place, of the same body, and wrong in more ways than one."""

import numpy as np

from pipeline_core.props.faults import faulty
from pipeline_core.props.primitives import COLOUR1, COLOUR2, colour_groups, surface
from pipeline_core.props.props import CATEGORIES, PropSpec, build
from pipeline_core.training.data import Chunk, write_image_chunk


def test_groups_are_of_one_colour_and_the_largest_comes_first():
    rows = build(PropSpec("mushroom", "red", "white", "stem")).rows
    groups = colour_groups(rows)
    area = np.bincount(groups, surface(rows))
    assert (area[0] >= area).all()
    for group in range(groups.max() + 1):
        assert np.ptp(rows[groups == group, COLOUR1 : COLOUR1 + 3], axis=0).max() < 0.05


def test_a_faulty_prop_keeps_its_place_its_largest_row_and_most_of_its_surface():
    for seed, category in enumerate(CATEGORIES):
        prop = build(PropSpec(category, "teal", seed=seed))
        before = prop.rows.copy()
        twin = faulty(prop, np.random.default_rng(seed))
        assert np.array_equal(prop.rows, before) and np.array_equal(twin.bounds, prop.bounds)
        kept = [(row[:COLOUR1] == twin.rows[:, :COLOUR1]).all(1).any() for row in prop.rows]
        assert kept[surface(prop.rows).argmax()]
        assert surface(twin.rows).sum() > 0.5 * surface(prop.rows).sum()


def test_faults_lose_parts_repaint_parts_and_spoil_patterns():
    prop = build(PropSpec("candle", "purple", "green", "flame"))
    twins = [faulty(prop, np.random.default_rng(seed)).rows for seed in range(60)]
    whole = [rows for rows in twins if len(rows) == len(prop.rows)]
    first, second = (slice(c, c + 3) for c in (COLOUR1, COLOUR2))
    painted = [not np.array_equal(rows[:, first], prop.rows[:, first]) for rows in whole]
    pattern = [not np.array_equal(rows[:, second], prop.rows[:, second]) for rows in whole]
    assert 10 < len(whole) < 50 and 5 < sum(painted) and 5 < sum(pattern)
    assert np.array_equal(twins[7], faulty(prop, np.random.default_rng(7)).rows)


def test_a_twin_is_seen_by_the_camera_of_its_prop(tmp_path):
    write_image_chunk(tmp_path, seed=1, index=0, count=64, size=32)
    chunk = Chunk.open(tmp_path, 0, ("rgba", "twins"))
    whole, twins = (chunk.arrays[name][..., 3] > 127 for name in ("rgba", "twins"))
    overlap = (whole & twins).sum((1, 2)) / (whole | twins).sum((1, 2))
    assert np.median(overlap) > 0.85 and overlap.mean() < 0.999
    write_image_chunk(tmp_path / "without", seed=1, index=0, count=64, size=32, twins=False)
    without = Chunk.open(tmp_path / "without", 0, ("rgba", "cameras"))
    assert all(np.array_equal(without.arrays[name], np.load(tmp_path / f"00000.{name}.npy")) for name in without.arrays)
    assert without.captions == chunk.captions and not list((tmp_path / "without").glob("*twins*"))
