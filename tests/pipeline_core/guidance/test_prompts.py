import math
from types import SimpleNamespace

import pytest
import torch

from pipeline_core.errors import RequestError
from pipeline_core.guidance.prompts import (
    VIEW_WORDS,
    encode_text,
    perp_neg_weights,
    perpendicular,
    view_prompt,
    view_word,
)


class Words:
    """A prior that remembers what it encoded; embeddings are one-hot, so mixtures can be read off."""

    def __init__(self, camera="none"):
        self.camera, self.asked = camera, []

    def encode_prompts(self, prompts):
        self.asked = prompts
        return torch.eye(8)[: len(prompts)].reshape(len(prompts), 1, 8)


def test_words_of_the_front_are_left_out_of_the_other_sides():
    prior = Words()
    encode_text(prior, "a smiling cat", front_words=("smiling",))
    assert prior.asked == [
        "a smiling cat", "", "a smiling cat, front view",
        "a cat, side view", "a cat, back view", "a cat, overhead view",
    ]  # fmt: skip
    camera = Words("angles")
    camera.model_id = "some/prior"
    with pytest.raises(RequestError, match="front_words needs view words, and some/prior is told the camera itself"):
        encode_text(camera, "a smiling cat", front_words=("smiling",))


@pytest.mark.parametrize(
    ("azimuth", "elevation", "word"),
    [(0, 0, "front"), (44, 0, "front"), (-44, 60, "front"), (46, 0, "side"), (-90, 0, "side"), (134, 0, "side"),
     (136, 0, "back"), (-180, 0, "back"), (350, 0, "front"), (0, 61, "overhead"), (180, 90, "overhead")],
)  # fmt: skip
def test_view_words(azimuth, elevation, word):
    assert view_word(azimuth, elevation) == word
    assert view_prompt("a mug", word) == f"a mug, {word} view"


def test_perp_neg_weights_are_the_published_ones():
    """Perp-Neg as threestudio and GSGen have it."""
    mix, negatives = perp_neg_weights(0, 0)
    assert mix == {"front": 1.0, "side": 0.0}
    assert negatives == [("front", pytest.approx(-(4 * math.exp(-0.5) - 2.426))), ("side", pytest.approx(-(4 - 2.426)))]
    mix, negatives = perp_neg_weights(-135, 10)
    assert mix == {"side": 0.5, "back": 0.5}
    assert negatives == [
        ("side", pytest.approx(-(math.exp(-0.25) - 0.606))),
        ("front", pytest.approx(-(math.exp(-0.25) + 0.967))),
    ]
    mix, negatives = perp_neg_weights(30, 70)
    assert mix == {"overhead": 1.0} and [w for _, w in negatives] == [0, 0]


def test_perpendicular_removes_the_parallel_part():
    x, y = torch.randn(3, 4, 5, 5), torch.randn(3, 4, 5, 5)
    rest = perpendicular(x, y)
    torch.testing.assert_close((rest * y).sum((1, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(perpendicular(2 * y, y), torch.zeros_like(y), atol=1e-5, rtol=0)


def test_words_only_where_the_prior_takes_no_camera():
    for camera, count in (("none", 6), ("angles", 2), ("mvdream", 2)):
        prior = Words(camera)
        text = encode_text(prior, "a mug", "ugly")
        assert prior.asked[:2] == ["a mug", "ugly"] and len(prior.asked) == count
        assert set(text.views) == (set(VIEW_WORDS) if camera == "none" else set())
    assert encode_text(Words("none"), "a mug", view_prompts=False).views == {}


@pytest.mark.parametrize("camera", ["angles", "mvdream"])
def test_perp_neg_is_refused_where_the_prior_takes_a_camera(camera):
    prior = Words(camera)
    prior.model_id = "some/prior"
    with pytest.raises(RequestError, match="perp_neg needs view words, and some/prior is told the camera itself"):
        encode_text(prior, "a mug", perp_neg=True)


def rows_of(text, scale, azimuth=(0.0, 90.0, 180.0), elevation=(0.0, 0.0, 0.0)):
    n = len(azimuth)
    latents = torch.arange(n).float().reshape(n, 1, 1, 1).expand(n, 2, 3, 3)
    return text.rows(latents, torch.arange(n) / 4, torch.tensor(azimuth), torch.tensor(elevation), scale=scale)


def test_rows_carry_words_noise_levels_and_no_camera_where_unconditional():
    text = encode_text(Words("none"), "a mug", "ugly")
    rows = rows_of(text, 7.5)
    assert len(rows) == 6
    assert rows.t.tolist() == [0, 0.25, 0.5, 0, 0.25, 0.5]
    assert rows.embeddings[:, 0].argmax(-1).tolist() == [
        2,
        3,
        4,
        1,
        1,
        1,
    ]  # front, side, back, then the negative prompt
    assert rows.latents[:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]
    angles = rows_of(encode_text(Words("angles"), "a mug"), 7.5)
    assert angles.azimuth[:3].tolist() == [0, 90, 180] and angles.azimuth[3:].isnan().all()
    multiview = rows_of(encode_text(Words("mvdream"), "a mug"), 7.5)
    assert not multiview.azimuth.isnan().any()


def test_scale_one_asks_for_no_unconditional_rows():
    text = encode_text(Words("angles"), "a mug")
    assert len(rows_of(text, 1.0)) == 3
    eps = torch.randn(3, 2, 3, 3)
    guided, conditional = text.guide(eps, torch.zeros(3), torch.zeros(3), scale=1.0)
    assert guided is eps and conditional is eps


def test_guidance_is_the_usual_form():
    text = encode_text(Words("angles"), "a mug")
    c, u = torch.randn(2, 2, 3, 3), torch.randn(2, 2, 3, 3)
    guided, conditional = text.guide(torch.cat([c, u]), torch.zeros(2), torch.zeros(2), scale=7.5)
    torch.testing.assert_close(guided, u + 7.5 * (c - u))
    assert torch.equal(conditional, c)


def test_perp_neg_rows_and_combination():
    text = encode_text(Words("none"), "a mug", perp_neg=True)
    azimuth, elevation = torch.tensor([45.0, 180.0]), torch.zeros(2)
    rows = rows_of(text, 7.5, azimuth.tolist(), elevation.tolist())
    assert len(rows) == 8
    torch.testing.assert_close(rows.embeddings[0, 0], torch.tensor([0, 0, 0.5, 0.5, 0, 0, 0, 0]))
    torch.testing.assert_close(rows.embeddings[1, 0], torch.eye(8)[4])
    parts = torch.randn(4, 2, 2, 3, 3)
    guided, _ = text.guide(parts.flatten(0, 1), azimuth, elevation, scale=3.0)
    c, u, n1, n2 = parts
    for row, az in enumerate(azimuth.tolist()):
        _, ((_, w1), (_, w2)) = perp_neg_weights(az, 0)
        e = (c - u)[row : row + 1]
        total = e + w1 * perpendicular((n1 - u)[row : row + 1], e) + w2 * perpendicular((n2 - u)[row : row + 1], e)
        torch.testing.assert_close(guided[row : row + 1], u[row : row + 1] + 3.0 * total)


def test_perp_neg_with_negatives_parallel_to_the_prompt_is_plain_guidance():
    text = encode_text(Words("none"), "a mug", perp_neg=True)
    u, e = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    eps = torch.cat([u + e, u, u + 0.3 * e, u - 2 * e])
    guided, _ = text.guide(eps, torch.tensor([120.0]), torch.zeros(1), scale=5.0)
    torch.testing.assert_close(guided, u + 5 * e, atol=1e-4, rtol=1e-4)


def test_a_prior_is_asked_for_its_kind_only():
    assert (
        encode_text(SimpleNamespace(camera="angles", encode_prompts=lambda p: torch.zeros(len(p), 1, 2)), "x").camera
        == "angles"
    )
