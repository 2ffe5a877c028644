"""Checkpoints of trainers: groups of tensors that go on, the optimiser's moments, and what the run knows of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline_core.errors import RequestError
from pipeline_core.io.checkpoint import read_checkpoint, write_checkpoint

Groups = Mapping[str, Mapping[str, Tensor]]
"""Tensors by the name of their group and their own, for example ``{"model": dict(network.named_parameters())}``."""


def save_training(path: Path, groups: Groups, optimiser: torch.optim.Optimizer, facts: dict[str, Any]) -> None:
    """Write the tensors of ``groups``, the state of ``optimiser``, and ``facts``, which hold the ``seed``."""
    tensors = _flat(groups)
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": value for key, value in state.items()}
    write_checkpoint(path, (tensors, facts))


@torch.no_grad()
def load_training(path: Path, groups: Groups, optimiser: torch.optim.Optimizer, seed: int) -> dict[str, Any]:
    """Copy what :func:`save_training` wrote into ``groups`` and ``optimiser``; returns the facts.

    Raises RequestError when the file is of another seed, or has other tensors than are asked for.
    """
    found = read_checkpoint(path)
    assert found is not None  # no marks were asked for
    tensors, facts = found
    if facts["seed"] != seed:
        raise RequestError(f"{path} was trained with seed {facts['seed']}, not {seed}: use another --out or that seed")
    state: dict[int, dict[str, Tensor]] = {}
    for name in [name for name in tensors if name.startswith("optimiser.")]:
        _, index, key = name.split(".", 2)
        state.setdefault(int(index), {})[key] = tensors.pop(name)
    targets = _flat(groups)
    for name in sorted(targets.keys() ^ tensors.keys()):
        problem = "is missing" if name in targets else "belongs to other settings"
        raise RequestError(f"{path}: {name} {problem}: use another --out")
    for name, target in targets.items():
        value = tensors[name]
        if target.shape != value.shape:
            shapes = f"{tuple(value.shape)}, the settings ask for {tuple(target.shape)}"
            raise RequestError(f"{path}: {name} is {shapes}: use another --out")
        target.copy_(value)
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return facts


def _flat(groups: Groups) -> dict[str, Tensor]:
    return {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
