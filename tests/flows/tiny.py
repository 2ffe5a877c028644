"""The whole journey made small: what tests and chaos put on the command line."""

TINY = {
    "init.num_points": 200,
    "init.sampler_steps": 4,
    "geometry.steps": 4,
    "geometry.views": 1,
    "appearance.steps": 2,
    "appearance.views": 1,
    "mesh.grid": 24,
    "mesh.face_budget": 300,
    "mesh.texture_size": 64,
    "mesh.bake_views": 6,
    "mesh.bake_resolution": 48,
    "texture.steps": 1,
    "texture.views": 1,
    "texture.resolution": 32,
    "texture.denoise_steps": 4,
    "dress.splat_steps": 2,
    "dress.splat_resolution": 48,
    "evaluate.resolution": 48,
    "evaluate.turntable_frames": 2,
}
"""Settings at which the whole journey takes about a second."""


def settings(overrides):
    """Command-line options for dotted overrides."""
    return [part for name, value in overrides.items() for part in ("--set", f"{name}={value}")]
