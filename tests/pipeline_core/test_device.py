"""Threads from one setting, and devices that are named but not there."""

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from pipeline_core import device
from pipeline_core.errors import RequestError
from pipeline_core.limits import cores


def run(code, **environment):
    """Output of ``code`` in a fresh process without our settings."""
    names = ("SPLATMILL_THREADS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS")
    clean = {k: v for k, v in os.environ.items() if k not in names}
    out = subprocess.run([sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, check=True)
    return out.stdout.decode().split()


def test_one_setting_decides_every_pool():
    code = (
        "import sys; from pipeline_core import device; assert 'torch' not in sys.modules; n = device.configure();"
        "import torch, os, numba; print(n, torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS,"
        "os.environ['OMP_WAIT_POLICY'])"
    )
    assert run(code, SPLATMILL_THREADS="1") == ["1", "1", "1", "PASSIVE"]


@pytest.mark.parametrize(
    "first, mine, argument, count",
    [
        ("", {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "4"}, "", "2"),
        ("import torch, numba;", {"OMP_NUM_THREADS": "1"}, "", "1"),
        ("", {"OMP_NUM_THREADS": "2", "SPLATMILL_THREADS": "3"}, "1", "1"),
    ],
)
def test_one_number_holds_for_all_pools_and_is_what_is_recorded(first, mine, argument, count):
    code = (
        f"{first}from pipeline_core import device; import os; n = device.configure({argument});"
        "print(n, device.made_with()['threads'], *(os.environ[name] for name in device.POOLS));"
        "import torch; from pipeline_core.rendering import pool; told = torch.__config__.parallel_info().splitlines();"
        "print(device.made_with()['threads'], os.environ['OMP_WAIT_POLICY'], pool.thread_count(),"
        "torch.get_num_threads(), *(line.split()[-1] for line in told if '_max_threads()' in line))"
    )
    *numbers, policy = sorted(run(code, OMP_WAIT_POLICY="ACTIVE", **mine))
    assert set(numbers) == {count} and len(numbers) >= 9 and policy == "ACTIVE"


def test_torch_that_is_imported_already_is_resized():
    code = "import torch; from pipeline_core import device; device.configure(); print(torch.get_num_threads())"
    assert run(code, SPLATMILL_THREADS="1") == ["1"]


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "99999"])
def test_a_silly_number_of_threads_is_refused(monkeypatch, text):
    monkeypatch.setenv(device.THREADS, text)
    with pytest.raises(RequestError, match=f"SPLATMILL_THREADS='{text}' is not a number of threads"):
        device.thread_count()
    monkeypatch.delenv(device.THREADS)
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(RequestError, match=f"OMP_NUM_THREADS='{text}' is not"):
        device.thread_count()


def test_default_is_the_cores_of_this_process(monkeypatch):
    for name in (device.THREADS, device.POOLS[0]):
        monkeypatch.delenv(name, raising=False)
    assert device.thread_count() == cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "5,1")  # OpenMP's list, one number for each depth
    assert device.thread_count() == 5
    monkeypatch.setenv(device.THREADS, "3")
    assert device.thread_count() == 3


def test_threads_of_what_works_beside_a_gpu_are_recorded_too(monkeypatch):
    assert "threads_beside" not in device.made_with()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for own, beside in (("1", "1"), ("16", "2")):
        monkeypatch.setenv(device.THREADS, own)
        assert device.made_with()["threads_beside"] == beside


def test_devices():
    auto = device.pick_device()
    assert auto.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert device.pick_device("cpu") == torch.device("cpu")
    with pytest.raises(RequestError, match="device 'gpu' is not a device name; use auto, cpu"):
        device.pick_device("gpu")
    with pytest.raises(RequestError, match=r"device 'cuda:77' is not here: torch .* sees \d+ CUDA device"):
        device.pick_device("cuda:77")
    facts = device.describe("cpu")
    assert facts["name"] == "CPU" and facts["memory_gb"] is None and facts["threads"] == torch.get_num_threads()


def test_precision_follows_the_hardware_unless_it_is_set(monkeypatch):
    monkeypatch.delenv(device.PRECISION, raising=False)
    assert device.default_dtype("cuda") == torch.float16
    for native, precision in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native, raising=False)
        assert device.default_dtype("cpu") == precision
    monkeypatch.setenv(device.PRECISION, "float32")
    assert device.default_dtype("cpu") == device.default_dtype("cuda") == torch.float32
    assert device.describe("cpu")["precision"] == "float32"
    monkeypatch.setenv(device.PRECISION, "int8")
    with pytest.raises(RequestError, match=r"SPLATMILL_PRECISION='int8' is not a precision; set it to float32"):
        device.default_dtype("cpu")


def test_upload_keeps_values_and_follows_the_device():
    value = torch.rand(3)
    assert torch.equal(device.upload(value, torch.device("cpu")), value)
    assert device.upload(value, torch.device("meta")).device.type == "meta"


def test_upload_pins_a_copy_of_rows_that_share_their_memory(monkeypatch):
    """Pinned memory of an expanded tensor is refused by torch: each of its rows is the same place."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda value: pinned.append(value) or value)
    with pytest.raises((RuntimeError, AssertionError)):  # no CUDA here to go on to
        device.upload(torch.ones(1, 3).expand(4, 3), torch.device("cuda", 77))
    assert pinned[0].stride() == (3, 1) and pinned[0].shape == (4, 3)


def test_a_cuda_device_has_a_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.pick_device("cuda") == device.pick_device() == torch.device("cuda", 2)
    assert device.pick_device("cuda:1") == torch.device("cuda", 1) and device.pick_device("cpu").index is None


def test_a_torch_that_is_still_being_imported_is_not_there_yet(monkeypatch):
    """A thread that shows signs of life looks while the main thread imports."""
    half = ModuleType("torch")
    half.__spec__ = SimpleNamespace(_initializing=True)
    monkeypatch.setitem(sys.modules, "torch", half)
    assert device.loaded_torch() is None and device.gpu_load() is None and "precision" not in device.made_with()
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert device.loaded_torch() is torch
