"""Pictures of a row: cut out, centred, and refused with the file's name and what to do."""

import numpy as np
import pytest
from PIL import Image

from pipeline_core import picture
from pipeline_core.errors import DataError
from pipeline_core.picture import Picture, read_picture


def disc(size=(200, 120), centre=(60, 50), radius=30):
    """A red disc [H, W, 4] on nothing."""
    y, x = np.mgrid[: size[1], : size[0]]
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2
    return np.where(inside[..., None], np.array([200, 30, 40, 255]), 0).astype(np.uint8)


def on(rgba, colour):
    """The same on an opaque colour."""
    return np.where(rgba[..., 3:] > 0, rgba[..., :3], np.array(colour)).astype(np.uint8)


@pytest.fixture
def save(tmp_path):
    def save(pixels, name="mug.png", **options):
        path = tmp_path / name
        Image.fromarray(pixels).save(path, **options)
        return path

    return save


def check_disc(found: Picture):
    rows, columns = np.nonzero(found.alpha > 0.5)
    assert found.rgba.shape == (256, 256, 4)
    for along in (rows, columns):  # DreamGaussian's process.py: 80 % of the side, in the middle
        assert abs((along.min() + along.max()) / 2 - 127.5) <= 1 and abs(along.max() - along.min() + 1 - 204) <= 3
    assert abs(found.alpha.mean() - np.pi / 4 * 0.797**2) < 0.02
    np.testing.assert_allclose(found.on_white()[128, 128], np.array([200, 30, 40]) / 255, atol=0.03)
    np.testing.assert_allclose(found.on_white()[3, 3], 1)


def test_transparency_is_the_outline(save):
    found = read_picture(save(disc()), elevation=20.0)
    check_disc(found)
    assert found.elevation == 20.0 and found.treatment == "outline: the file's transparency; object 12% of the picture"
    assert found.digest != read_picture(save(disc()), elevation=0.0).digest


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (30, 160, 60)])
def test_one_plain_colour_is_taken_away(save, colour):
    found = read_picture(save(on(disc(), colour), "mug.jpg", quality=90))
    check_disc(found)
    assert "not joined to the edge within 24 of 255 of #" in found.treatment


def test_what_is_like_the_background_inside_of_the_object_stays(save):
    rgba = disc()
    rgba[45:55, 55:65, :3] = 255
    found = read_picture(save(on(rgba, (255, 255, 255))))
    assert found.alpha[128, 128] == 1 and found.on_white()[120:136, 120:136].min() > 0.95


def test_edges_of_soft_outlines_do_not_take_the_colour_of_what_is_hidden(save):
    rgba = disc(radius=50)
    rgba[..., :3] = np.where(rgba[..., 3:] > 0, rgba[..., :3], [0, 255, 0])
    assert read_picture(save(rgba)).on_white()[..., 1].max() <= 1
    green = read_picture(save(rgba)).rgba
    assert green[green[..., 3] > 0][:, 1].max() < 60


def test_a_photograph_is_turned_upright(save):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    tall = disc((100, 100), (50, 25), 20)
    tall[20:90, 45:55] = [200, 30, 40, 255]
    found = read_picture(save(on(np.rot90(tall), (255, 255, 255)), "mug.jpg", exif=exif, quality=95))
    plain = read_picture(save(on(tall, (255, 255, 255)), "upright.png"))
    assert np.abs(found.alpha - plain.alpha).mean() < 0.02


def test_other_modes_of_pixels_are_read(save):
    check_disc(read_picture(save(on(disc(), (255, 255, 255)), "grey.png"), elevation=0))
    grey = Image.fromarray(disc()[..., 3]).convert("L")
    grey.save(save(disc()).with_name("l.png"))
    assert read_picture(save(disc()).with_name("l.png")).alpha.mean() > 0.3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text("no picture"), "is no image in PNG, JPEG or WebP; save it as a PNG"),
        (lambda path: Image.fromarray(disc()).save(path, format="GIF"), "is no image in PNG, JPEG or WebP"),
        (lambda path: path.write_bytes(b""), "is no image in PNG, JPEG or WebP"),
        (lambda path: None, r"cannot be read \(No such file or directory\)"),
        (lambda path: Image.new("RGBA", (20, 300)).save(path), "20 x 300 pixels are too few; 256 x 256 are used"),
        (
            lambda path: Image.new("RGBA", (64, 64)).save(path),
            "0.0% of it is not transparent; there is no object in it",
        ),
        (lambda path: Image.new("RGB", (64, 64), "red").save(path), r"0.0% of it stands out from its corners' #ff0000"),
        (lambda path: Image.new("I;16", (64, 64)).save(path), "has I;16 pixels; save it with 8 bits a channel"),
    ],
)
def test_what_is_no_picture_of_an_object_is_refused_by_name(tmp_path, make, said):
    path = tmp_path / "mug.png"
    make(path)
    with pytest.raises(DataError, match=f"mug.png: .*{said}"):
        read_picture(path)


def test_half_a_file_is_refused(save):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 4)).astype(np.uint8)
    path = save(noise)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DataError, match=r"mug\.png: is damaged \(.*\); copy or save it again"):
        read_picture(path)


def test_an_animation_is_refused(save, tmp_path):
    frames = [Image.fromarray(disc(radius=r)) for r in (20, 30)]
    frames[0].save(tmp_path / "mug.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="is animated; save the one frame that is meant as a PNG"):
        read_picture(tmp_path / "mug.webp")


def test_no_plain_background_is_refused(save):
    gradient = np.linspace(0, 255, 200)[None, :, None].repeat(120, 0).repeat(3, 2).astype(np.uint8)
    with pytest.raises(DataError, match="its corners differ by more than 24 of 255: cut the object out"):
        read_picture(save(gradient))


def test_what_is_too_large_is_refused_before_it_is_unpacked(save, monkeypatch):
    path = save(disc())
    monkeypatch.setattr(picture, "MAX_PIXELS", 1000)
    with pytest.raises(DataError, match="200 x 120 pixels are too many"):
        read_picture(path)
    monkeypatch.setattr(picture, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="at most 100 are taken"):
        read_picture(path)
