import pytest
import torch
from torch import nn

from pipeline_core.errors import RequestError
from pipeline_core.training.checkpoint import load_training, save_training


def make(width=2):
    network = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
    return network, {"model": network.state_dict()}, torch.optim.AdamW(network.parameters(), lr=0.1)


@pytest.fixture
def saved(tmp_path):
    network, groups, optimiser = make()
    network(torch.randn(4, 3)).square().sum().backward()
    optimiser.step()
    path = tmp_path / "checkpoint.safetensors"
    save_training(path, groups, optimiser, {"step": 1, "seed": 3})
    return path, network, optimiser


def test_buffers_and_moments_come_back_too(saved):
    path, network, optimiser = saved
    twin, groups, twin_optimiser = make()
    assert load_training(path, groups, twin_optimiser, 3) == {"step": 1, "seed": 3}
    theirs = twin.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in network.state_dict().items())
    assert int(theirs["1.num_batches_tracked"]) == 1
    for one, other in zip(optimiser.state.values(), twin_optimiser.state.values(), strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_checkpoint_of_another_run_is_refused(saved):
    path, *_ = saved
    _, groups, optimiser = make()
    with pytest.raises(RequestError, match="seed 3, not 4"):
        load_training(path, groups, optimiser, 4)
    with pytest.raises(RequestError, match=r"model\.0\.weight is \(2, 3\), the settings ask for \(5, 3\)"):
        load_training(path, make(5)[1], optimiser, 3)
    with pytest.raises(RequestError, match=r"ema\.0 is missing"):
        load_training(path, groups | {"ema": {"0": torch.zeros(1)}}, optimiser, 3)
    with pytest.raises(RequestError, match=r"model\.0\.bias belongs to other settings"):
        load_training(path, {}, optimiser, 3)
