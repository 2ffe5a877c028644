"""Light on a card: maps do what glTF says of them, and without maps it is a rough, plain surface."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline_core.cameras import orbit
from pipeline_core.metrics.views import preview
from pipeline_core.rendering.lit import render_lit
from tests.pipeline_core.metrics.test_views import card


def flat(*colour):
    return np.full((4, 4, 3), colour, np.float32)


def middle(textured):
    image, coverage = render_lit(textured, orbit(torch.tensor([0.0]), torch.tensor([0.0]), size=24), supersample=1)
    assert coverage[0, 12, 12] == 1 and image[0, 0, 0].tolist() == [1, 1, 1]
    return image[0, 12, 12].numpy()


PLAIN = card(flat(0.6, 0.4, 0.2))


def test_without_maps_it_is_a_rough_surface_of_about_its_colour():
    np.testing.assert_allclose(middle(PLAIN), [0.6, 0.4, 0.2], atol=0.12)
    np.testing.assert_allclose(middle(replace(PLAIN, orm=flat(1, 0.9, 0))), middle(PLAIN), atol=1e-4)


def test_occlusion_darkens_and_emitted_light_is_added():
    assert (middle(replace(PLAIN, orm=flat(0.2, 0.9, 0))) < 0.95 * middle(PLAIN)).all()
    glowing = middle(replace(PLAIN, emissive=flat(0.5, 0, 0)))
    assert glowing[0] > middle(PLAIN)[0] + 0.05 and glowing[1:] == pytest.approx(middle(PLAIN)[1:])


def test_a_metal_mirrors_in_its_own_colour_alone():
    metal, plastic = (middle(replace(card(flat(0.8, 0.0, 0.0)), orm=flat(1, 0.3, m))) for m in (1, 0))
    assert metal[0] > 0.3 and metal[1] < 0.1 < plastic[1]


def test_a_normal_map_turns_the_surface_up_the_picture_and_to_the_right():
    def turned(x, y):
        vector = np.array([x, y, 0.6]) / np.linalg.norm([x, y, 0.6])
        return middle(replace(PLAIN, normal_map=flat(*(vector / 2 + 0.5)))).sum()

    assert turned(0, 0.8) > turned(0, -0.8)  # the light stands above
    assert turned(-0.8, 0) > turned(0.8, 0)  # and to the left


def test_a_mesh_with_materials_is_shown_in_light():
    assert not np.array_equal(preview(PLAIN, size=32), preview(replace(PLAIN, orm=flat(1, 0.3, 1)), size=32))


def test_the_picture_does_not_depend_on_the_number_of_threads():
    before, pictures = torch.get_num_threads(), []
    colours = np.random.default_rng(0).random((4, 32, 32, 3)).astype(np.float32)
    shown = replace(card(colours[0]), normal_map=colours[1], orm=colours[2], emissive=colours[3])
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            pictures.append(preview(shown, size=160).tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(set(pictures)) == 1
