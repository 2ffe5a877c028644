"""The picture of an object that a row gives: read, cut out of its background, centred as Zero-1-to-3 wants it.

    picture = read_picture(Path("mug.png"), elevation=20.0)
    picture.rgba, picture.treatment          # [256, 256, 4] uint8, and what was done to get there

Where the file has transparency, that is the object's outline. Where it has none, the background must be one plain
colour: that of the corners, and whatever is like it and joined to the picture's edge. Then the object is scaled to
:data:`FILLED` of the side and centred (DreamGaussian's process.py, border ratio 0.2). Loads no torch.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline_core.errors import DataError

VERSION = 1
"""Raised when the same file comes to be read otherwise, or refused."""
SIZE = 256
"""Pixels a side that a picture comes to: what Zero-1-to-3 was trained on."""
FILLED = 0.8
"""Share of the side that the object's longer side takes."""
LIKE = 24
"""Steps of 255, in any channel, within which a pixel has the background's colour."""
LEAST, MOST = 0.005, 0.95
"""Share of all pixels that an object may have."""
SPECK = 0.01
"""Parts smaller than this share of the largest one are dust on a background that was taken away."""
WORKED = 4 * SIZE
"""Pixels a side above which a picture is made smaller before anything is done with it."""
SMALLEST_SIDE, MAX_PIXELS, MAX_BYTES = 32, 64_000_000, 64 * 2**20
FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True, eq=False)
class Picture:
    """``rgba`` [SIZE, SIZE, 4] uint8, sRGB, straight alpha; ``elevation`` degrees above the horizon it is seen from.

    ``treatment``: what was done to the file's picture, in words.
    """

    rgba: np.ndarray
    elevation: float = 0.0
    treatment: str = ""

    def on_white(self) -> np.ndarray:
        """The object on white, [SIZE, SIZE, 3] float32 in [0, 1]."""
        rgb, alpha = self.rgba[..., :3].astype(np.float32) / 255, self.alpha[..., None]
        return rgb * alpha + (1 - alpha)

    @property
    def alpha(self) -> np.ndarray:
        """The object's outline, [SIZE, SIZE] float32 in [0, 1]."""
        return self.rgba[..., 3].astype(np.float32) / 255

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of the sha256 of pixels and elevation."""
        return hashlib.sha256(self.rgba.tobytes() + repr(self.elevation).encode()).hexdigest()[:16]


def read_picture(path: Path, *, elevation: float = 0.0) -> Picture:
    """The picture in a file. Raises :class:`DataError` that names the file, what is wrong and what would be right."""
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if size > MAX_BYTES:
        raise DataError(f"{path}: {size} bytes; at most {MAX_BYTES} are taken: save it smaller, {SIZE} pixels are used")
    try:
        rgba, treatment = _cut_out(_decode(data))
        return Picture(_centred(rgba), elevation, treatment)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _decode(data: bytes) -> np.ndarray:
    """The pixels [H, W, 4] uint8 of a PNG, JPEG or WebP, upright."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"{image.width} x {image.height} pixels are too many; {SIZE} x {SIZE} are used")
            if min(image.size) < SMALLEST_SIDE:
                raise DataError(f"{image.width} x {image.height} pixels are too few; {SIZE} x {SIZE} are used")
            if getattr(image, "is_animated", False) and image.format != "MPO":  # a telephone's JPEG with a second view
                raise DataError("is animated; save the one frame that is meant as a PNG")
            if image.mode.startswith(("I", "F")):
                raise DataError(f"has {image.mode} pixels; save it with 8 bits a channel")
            image.draft("RGB", (WORKED, WORKED))  # a JPEG is unpacked no larger than it is needed
            upright = ImageOps.exif_transpose(image).convert("RGBA")
            upright.thumbnail((WORKED, WORKED), Image.Resampling.BOX)
            return np.array(upright)
    except UnidentifiedImageError:
        raise DataError("is no image in PNG, JPEG or WebP; save it as a PNG") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"is damaged ({error}); copy or save it again") from None


def _cut_out(rgba: np.ndarray) -> tuple[np.ndarray, str]:
    """The pixels with the object's outline as alpha, and how it was found."""
    alpha = rgba[..., 3]
    if alpha.min() == 255:
        return _without_background(rgba)
    share = float((alpha > 0).mean())
    if share < LEAST:
        raise DataError(f"{share:.1%} of it is not transparent; there is no object in it")
    return rgba, f"outline: the file's transparency; object {share:.0%} of the picture"


def _without_background(rgba: np.ndarray) -> tuple[np.ndarray, str]:
    from scipy import ndimage

    rgb = rgba[..., :3].astype(np.int16)
    k = max(min(rgb.shape[:2]) // 50, 1)
    parts = (rgb[:k, :k], rgb[:k, -k:], rgb[-k:, :k], rgb[-k:, -k:])
    corners = [np.median(part.reshape(-1, 3), axis=0) for part in parts]
    colour = np.median(corners, axis=0)
    shown = "#" + "".join(f"{int(value):02x}" for value in colour)
    remedy = "cut the object out (a PNG with transparency), or take it before one plain colour"
    if max(float(np.abs(corner - colour).max()) for corner in corners) > LIKE:
        raise DataError(f"has no transparency, and its corners differ by more than {LIKE} of 255: {remedy}")
    regions, _ = ndimage.label((np.abs(rgb - colour) <= LIKE).all(axis=-1))
    edge = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    mask = ~np.isin(regions, edge[edge > 0])
    pieces, count = ndimage.label(mask)
    if count:
        sizes = np.bincount(pieces.ravel())[1:]
        mask = np.isin(pieces, 1 + np.flatnonzero(sizes >= SPECK * sizes.max()))
    share = float(mask.mean())
    if not LEAST <= share <= MOST:
        raise DataError(f"has no transparency, and {share:.1%} of it stands out from its corners' {shown}: {remedy}")
    cut = np.dstack([rgba[..., :3], np.where(mask, 255, 0).astype(np.uint8)])
    return cut, f"outline: what is not joined to the edge within {LIKE} of 255 of {shown}; object {share:.0%}"


def _centred(rgba: np.ndarray) -> np.ndarray:
    """The object in the middle of [SIZE, SIZE, 4], its longer side :data:`FILLED` of that."""
    from PIL import Image

    rows, columns = (np.flatnonzero((rgba[..., 3] > 0).any(axis=axis)) for axis in (1, 0))
    part = Image.fromarray(rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = int(SIZE * FILLED) / max(part.size)
    width, height = (max(round(side * scale), 1) for side in part.size)
    kind = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    canvas = Image.new("RGBA", (SIZE, SIZE))
    canvas.paste(part.resize((width, height), kind), ((SIZE - width) // 2, (SIZE - height) // 2))
    return np.array(canvas)
