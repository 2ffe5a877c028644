"""Kernels are compiled ahead."""

from pipeline_core.meshing import collapse, crossings
from pipeline_core.meshing.warmup import warmup


def test_warmup_compiles_every_kernel():
    warmup()
    for kernel in (crossings._find, collapse._quadrics, collapse._corner_lists, collapse._price, collapse._collapse):
        assert kernel.signatures
