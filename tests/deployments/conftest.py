"""The flows' tiny priors, for what is installed too."""

from tests.flows.conftest import tiny, tiny_prior

__all__ = ["tiny", "tiny_prior"]
