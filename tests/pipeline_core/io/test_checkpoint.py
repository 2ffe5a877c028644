import pytest
import torch

from pipeline_core.errors import DataError
from pipeline_core.io.checkpoint import read_checkpoint, write_checkpoint

TENSORS = {"a": torch.arange(6.0).reshape(2, 3).T, "empty": torch.zeros(0, 3), "count": torch.tensor(3)}
VALUES = {"step": 7, "curves": {"loss": [0.5, None]}, "name": "a mug"}


def test_a_state_comes_back_as_it_was(tmp_path):
    path = tmp_path / "deep" / "job.safetensors"
    write_checkpoint(path, (TENSORS, VALUES), format="1", owner="me")
    tensors, values = read_checkpoint(path, format="1", owner="me")
    assert values == VALUES and tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert read_checkpoint(path) is not None and list(path.parent.iterdir()) == [path]


def test_marks_tell_files_apart(tmp_path):
    path = tmp_path / "job.safetensors"
    write_checkpoint(path, (TENSORS, VALUES), format="1", owner="me")
    assert read_checkpoint(path, format="1", owner="you") is None
    assert read_checkpoint(path, format="2") is None


@pytest.mark.parametrize("damage", [lambda data: b"cut off", lambda data: data[:-4], lambda data: b""])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "job.safetensors"
    write_checkpoint(path, (TENSORS, VALUES))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"checkpoint .*job\.safetensors cannot be read"):
        read_checkpoint(path)
    path.unlink()
    with pytest.raises(DataError, match="job"):
        read_checkpoint(path)
