"""Each stage of an asset draws from a stream of its own, the same on every machine."""

import torch

from pipeline_core.seeds import stream
from pipeline_core.stages import names


def draws(seed, stage):
    return torch.rand(64, generator=torch.Generator().manual_seed(stream(seed, stage)))


def test_streams_of_stages_and_seeds_differ():
    seeds = {stream(seed, stage) for seed in range(100) for stage in names()}
    assert len(seeds) == 100 * len(names()) and all(0 <= seed < 2**63 for seed in seeds)
    assert (
        abs(float(torch.corrcoef(torch.stack([draws(0, "optimize_gaussians"), draws(0, "densify_prune")]))[0, 1])) < 0.4
    )


def test_a_stream_is_fixed():
    assert stream(7, "optimize_gaussians") == 4590118626075917813
