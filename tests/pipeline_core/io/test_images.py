"""Images: lossless where promised, deterministic, readable errors."""

import numpy as np
import pytest
from PIL import Image

from pipeline_core.errors import DataError
from pipeline_core.io import images


def test_png_round_trip_and_rounding(tmp_path):
    image = np.linspace(-0.2, 1.2, 4 * 5 * 3, dtype=np.float32).reshape(4, 5, 3)
    images.save_png(tmp_path / "a.png", image)
    assert np.array_equal(
        images.decode_image((tmp_path / "a.png").read_bytes()), np.rint(image.clip(0, 1) * 255).astype(np.float32) / 255
    )
    assert images.encode_png(image) == images.encode_png(image.copy())


def test_nan_pixels_become_black():
    assert images.to_uint8(np.array([np.nan, 0.5])).tolist() == [0, 128]


def test_turntable_has_its_frames_and_is_small(tmp_path):
    frames = np.stack([np.full((64, 64, 3), t / 7, np.float32) for t in range(8)])
    images.save_turntable(tmp_path / "t.webp", frames, fps=8)
    with Image.open(tmp_path / "t.webp") as picture:
        assert picture.n_frames == 8
        assert picture.size == (64, 64)
        for i in (0, 5):
            picture.seek(i)
            picture.load()
            assert picture.info["duration"] == 125
            assert abs(np.asarray(picture.convert("RGB")).mean() / 255 - i / 7) < 0.02


def test_not_an_image(tmp_path):
    with pytest.raises(DataError, match=r"a\.png is not an image"):
        images.decode_image(b"no", tmp_path / "a.png")
