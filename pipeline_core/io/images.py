"""Images and turntables: PNG for stills, animated lossy WebP for turntables.

    save_png("preview.png", image); save_turntable("turntable.webp", frames)

Images are [H, W, 3 or 4] arrays, float in [0, 1] or uint8, display-referred (sRGB).
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline_core.errors import DataError
from pipeline_core.files import write_bytes


def to_uint8(image: np.ndarray) -> np.ndarray:
    """``image`` as uint8; floats are clipped to [0, 1], scaled and rounded."""
    image = np.asarray(image)
    if image.dtype == np.uint8:
        return image
    return np.rint(np.nan_to_num(image).clip(0, 1) * 255).astype(np.uint8)


def encode_png(image: np.ndarray) -> bytes:
    """``image`` [H, W, 3|4] or [H, W] as the bytes of a PNG; the same pixels always give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def save_png(path: str | Path, image: np.ndarray) -> None:
    """Write ``image`` as a PNG."""
    write_bytes(Path(path), encode_png(image))


def decode_image(data: bytes, origin: str | Path = "image") -> np.ndarray:
    """RGB float32 [H, W, 3] in [0, 1] from the bytes of a PNG, JPEG or WebP; ``origin`` is named in errors."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{origin} is not an image that can be read: {error}") from None


def save_webp(path: str | Path, image: np.ndarray, *, quality: int = 85) -> None:
    """Write ``image`` [H, W, 3] as a lossy WebP."""
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(buffer, format="WEBP", quality=quality, method=4)
    write_bytes(Path(path), buffer.getvalue())


def save_turntable(path: str | Path, frames: np.ndarray, *, fps: float = 12.0, quality: int = 70) -> None:
    """Write ``frames`` [T, H, W, 3] as an endless animated WebP, lossy and small."""
    if len(frames) == 0:
        raise ValueError("a turntable needs at least one frame")
    pictures = [Image.fromarray(to_uint8(frame)) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        format="WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / fps),
        loop=0,
        quality=quality,
        method=4,
    )
    write_bytes(Path(path), buffer.getvalue())
