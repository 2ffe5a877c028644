"""The models and engines of this process, as ``pipeline_core.models`` keeps them."""

from pipeline_core.models import (
    DEVICE,
    MAX_ACTIVE,
    close_engines,
    device,
    engine,
    image_prior,
    licence,
    point_prior,
    prepare_device,
    sampling,
)

__all__ = [
    "DEVICE", "MAX_ACTIVE", "close_engines", "device", "engine", "image_prior", "licence", "point_prior",
    "prepare_device", "sampling",
]  # fmt: skip
