"""When a network is compiled, and what happens where it cannot be."""

import os
from pathlib import Path

import pytest
import torch

from pipeline_core.errors import RequestError
from pipeline_core.priors import compiled


class Compiler:
    """Stands for torch.compile; counts the rows that go through what it made."""

    def __init__(self):
        self.rows, self.broken = [], False

    def __call__(self, function, dynamic):
        def run(x, *rest):
            if self.broken:
                raise torch._dynamo.exc.TorchDynamoException("no C compiler")
            self.rows.append(len(x))
            return function(x, *rest)

        return run


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.delenv(compiled.COMPILE, raising=False)
    monkeypatch.setattr(compiled, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(compiled, "PATIENCE", 2)
    found = Compiler()
    monkeypatch.setattr(torch, "compile", found)
    return found


def network(**options):
    return compiled.compile_when_it_pays(torch.nn.Linear(2, 2).requires_grad_(False), 4, **options)


def test_a_size_that_comes_often_is_compiled_and_no_other(compiler, tmp_path):
    linear = network(differentiated=False)
    for rows in (4, 5, 3, 4, 4, 3, 3, 4):
        linear(torch.ones(rows, 2))
    linear(torch.ones(4, 2, requires_grad=True))
    assert compiler.rows == [4, 4]
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == tmp_path / "inductor"


class Told(torch.nn.Module):
    def forward(self, x, words):
        return words + x.sum()


def test_inputs_of_other_numbers_of_rows_are_sizes_of_their_own(compiler):
    """The most rows that any has count: a U-Net may be given fewer latents than texts."""
    told = compiled.compile_when_it_pays(Told(), 4, differentiated=False)
    for few, many in ((2, 4), (2, 4), (2, 8), (4, 4), (2, 3), (2, 3), (2, 3), (2, 4)):
        told(torch.ones(few, 2), torch.ones(many, 2))
    assert compiler.rows == [2]


def test_the_environment_decides(compiler, monkeypatch):
    linear = network(differentiated=True)
    monkeypatch.setenv(compiled.COMPILE, "1")
    linear(torch.ones(4, 2, requires_grad=True))
    monkeypatch.setenv(compiled.COMPILE, "0")
    for rows in (4, 5, 5, 5, 5):  # what is compiled is used, and nothing more is
        linear(torch.ones(rows, 2, requires_grad=True))
    assert compiler.rows == [4, 4]
    monkeypatch.setenv(compiled.COMPILE, "yes")
    with pytest.raises(RequestError, match="SPLATMILL_COMPILE='yes' is not a choice"):
        linear(torch.ones(6, 2, requires_grad=True))


def test_what_cannot_be_compiled_runs_as_it_is(compiler, caplog):
    compiler.broken = True
    linear = network(differentiated=False)
    x = torch.ones(4, 2)
    wanted = torch.nn.functional.linear(x, linear.weight, linear.bias)
    assert all(torch.equal(linear(x), wanted) for _ in range(5))
    assert caplog.text.count("Linear runs as it is, it cannot be compiled: no C compiler") == 1
