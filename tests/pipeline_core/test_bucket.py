"""Places in a bucket, and leases in them."""

import threading

import pytest

from pipeline_core import bucket as module
from pipeline_core.bucket import BucketError, BucketPath, check_create_only, held
from pipeline_core.errors import RequestError
from pipeline_core.files import lock, replaced, write_json
from pipeline_core.lease import LeaseLost, leased
from pipeline_core.python import this_host


@pytest.fixture
def place(bucket, request):
    return BucketPath(f"{bucket}/paths/{request.node.name}")


def test_a_place_speaks_as_a_path_does(place):
    run = place / "runs" / "r1"
    assert (str(run), run.name, run.parent.name) == (f"{place}/runs/r1", "r1", "runs")
    assert (run / "a.live").suffix == ".live" and (run / "a.live").stem == "a"
    assert not run.exists() and list(run.iterdir()) == [] and list(place.glob("runs/*/a.json")) == []
    write_json(run / "a.json", {"n": 1})
    with replaced(run / "beats" / "b.live") as scratch:
        scratch.write_text("alive\n")
    assert run.exists() and run.is_dir() and (run / "a.json").is_file()
    assert [path.name for path in run.iterdir()] == ["a.json", "beats"]
    assert [str(path.relative_to(place)) for path in place.glob("runs/*/*.json")] == ["runs/r1/a.json"]
    assert (run / "a.json").read_text() == '{\n  "n": 1\n}\n'
    with (run / "beats" / "b.live").open(encoding="utf-8") as file:
        assert list(file) == ["alive\n"]
    assert 0 <= place.now() - (run / "a.json").stat().st_mtime < 60
    (run / "beats" / "b.live").rename(run / "beats" / "b.done")
    assert [path.name for path in run.glob("beats/*")] == ["b.done"]
    with pytest.raises(FileNotFoundError):
        (run / "beats" / "b.live").read_bytes()
    (run / "nothing").unlink(missing_ok=True)


def test_what_is_there_is_not_created_again(place):
    tag = (place / "a").write_bytes(b"one")
    assert not (place / "a").create(b"two") and (place / "a").stat().tag == tag
    assert (place / "b").create(b"two") and (place / "b").stat().tag != tag


def test_a_store_that_ignores_the_condition_is_refused(place, monkeypatch):
    check_create_only(place)
    check_create_only(place)
    other = place / "careless"
    pipe_file = other.filesystem.pipe_file
    monkeypatch.setattr(other.filesystem, "pipe_file", lambda path, data, mode="": pipe_file(path, data))
    with pytest.raises(RequestError, match=r"ignores If-None-Match.*catalog push"):
        check_create_only(other)


def test_a_store_that_is_away_is_an_os_error(place, monkeypatch):
    from botocore.exceptions import EndpointConnectionError

    def refuse(*arguments, **more):
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:9")

    monkeypatch.setattr(place.filesystem, "cat_file", refuse)
    with pytest.raises(OSError, match="cannot be reached") as caught:
        (place / "a").read_bytes()
    assert isinstance(caught.value, BucketError) and caught.value.error_class == "transient"


def test_a_lease_has_one_holder_until_it_ends(place):
    with lock(place, wait=False) as mine, held(place) as other:
        assert mine and not other
    with held(place) as mine:
        assert mine
    assert list(place.iterdir()) == []


def test_who_is_gone_or_silent_is_followed_by_the_next(place, monkeypatch):
    for host, pid, follows in (("elsewhere", 1, False), (this_host(), 2**22 + 1, True)):
        (place / "000000000007.json").write_bytes(b'{"host": "%s", "pid": %d}' % (host.encode(), pid))
        with held(place) as mine:
            assert bool(mine) == follows
    (place / "000000000007.json").write_bytes(b'{"host": "elsewhere", "pid": 1}')
    monkeypatch.setattr(BucketPath, "now", lambda self: (place / "000000000007.json").stat().st_mtime + 31)
    with held(place) as mine:
        assert mine and [path.name for path in place.iterdir()] == ["000000000008.json"]


def test_a_reconcile_s_lease_is_lost_to_the_next_number(place):
    with leased(place) as lease, leased(place) as other:
        assert lease.held() and other is None
        (place / "000000000002.json").write_bytes(b'{"host": "elsewhere", "pid": 1}')
        with pytest.raises(LeaseLost):
            lease.check()


def test_a_holder_renews_until_it_ends(place):
    with held(place, ttl_s=0.15):
        (file,) = place.iterdir()
        first = file.stat().tag
        renewed = threading.Event()
        while file.parent.__truediv__(file.name).stat().tag == first:
            assert not renewed.wait(0.02)
    assert list(place.iterdir()) == []


def test_a_number_that_others_took_and_left_since_the_look_is_not_taken(place, monkeypatch):
    """Between the look and the PUT another takes the lease: the greater number is free, but the chain has changed."""
    create = BucketPath.create

    def late(self, data):
        monkeypatch.setattr(BucketPath, "create", create)
        assert (place / "000000000001.json").create(b'{"host": "elsewhere", "pid": 1}')
        return create(place / "000000000002.json", data)

    (place / "000000000001.json").write_bytes(b'{"host": "%s", "pid": 4194305}' % this_host().encode())
    is_over = module._is_over

    def left(last, ttl_s):
        last.unlink()
        return True

    monkeypatch.setattr(module, "_is_over", left)
    monkeypatch.setattr(BucketPath, "create", late)
    with held(place) as mine:
        assert not mine
    monkeypatch.setattr(module, "_is_over", is_over)
    assert [path.name for path in place.iterdir()] == ["000000000001.json"]
