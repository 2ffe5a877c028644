"""Files are whole wherever a writer is killed, locks end with their holder, and a folder is found without a home."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from pipeline_core import files
from pipeline_core.errors import TransientError, error_class

ROOT = Path(__file__).parents[2]


def python(program: str, *arguments: object, **options) -> subprocess.Popen:
    """A process that has ``files`` and runs ``program``."""
    command = [sys.executable, "-c", f"import os, sys\nfrom pathlib import Path\n{program}", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_and_nothing_is_left_over(tmp_path):
    path = tmp_path / "made" / "on the way" / "a.json"
    files.write_json(path, {"b": "ü", "a": 1}, durable=True)
    assert path.read_bytes() == '{\n  "a": 1,\n  "b": "ü"\n}\n'.encode()
    files.write_text(path, "one\r\ntwo\n")
    assert path.read_bytes() == b"one\r\ntwo\n"
    files.write_bytes(path, b"\0", mode=0o600)
    assert path.read_bytes() == b"\0" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["a.json"]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(ValueError, match="half way"), files.replaced(path) as scratch:
        scratch.write_text("ne")
        raise ValueError("half way")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


KILLED = """
import signal
from pipeline_core import files
step, calls = int(sys.argv[2]), 0
def maybe_die(original):
    def wrapped(*args, **kwargs):
        global calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return wrapped
for name in ("fsync", "replace", "open", "unlink"):
    setattr(os, name, maybe_die(getattr(os, name)))
files.write_text(Path(sys.argv[1]), "new", durable=True)
"""


def test_a_kill_at_any_system_call_leaves_the_old_file_or_the_new(tmp_path):
    outcomes = []
    for step in range(1, 12):
        path = tmp_path / str(step) / "a.txt"
        files.write_text(path, "old")
        code = python(KILLED, path, step).wait(timeout=60)
        outcomes.append((code, path.read_text()))
        if code == 0:
            break
    assert outcomes[0] == (-signal.SIGKILL, "old") and outcomes[-1] == (0, "new")
    assert {text for _, text in outcomes} == {"old", "new"}


def test_two_threads_may_write_the_same_file(tmp_path):
    path, wrong, ready = tmp_path / "a.txt", [], threading.Barrier(3)

    def write(letter: str) -> None:
        ready.wait()
        try:
            for _ in range(100):
                files.write_text(path, letter * 5000)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "ab"]
    files.write_text(path, "a" * 5000)
    for thread in threads:
        thread.start()
    ready.wait()
    while any(thread.is_alive() for thread in threads):
        assert path.read_text() in ("a" * 5000, "b" * 5000)
    assert not wrong and os.listdir(tmp_path) == ["a.txt"]


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, r"disk is full .* gc"), (errno.EDQUOT, "disk is full"), (errno.EROFS, "read-write .* permission")],
)
def test_a_bad_disk_is_a_transient_error_with_a_way_out(tmp_path, monkeypatch, number, says):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def fails(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(TransientError, match=says) as caught:
        files.write_text(path, "new", durable=True)
    assert str(path) in str(caught.value) and error_class(caught.value) == "transient"
    assert isinstance(caught.value, OSError)  # whoever can do without the file goes on
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_a_transient_error_with_a_way_out(tmp_path):
    with pytest.raises(TransientError, match="gc"), files.disk_errors(tmp_path):
        raise OSError(28, "No space left on device")
    with pytest.raises(TransientError, match="permission"), files.disk_errors(tmp_path):
        raise OSError(30, "Read-only file system")
    with pytest.raises(TransientError, match="nolock"), files.disk_errors(tmp_path / "not" / "there"):
        raise OSError(errno.ENOLCK, "No locks available")
    with pytest.raises(FileNotFoundError), files.disk_errors(tmp_path):
        raise FileNotFoundError(2, "No such file or directory")


# --- locks -----------------------------------------------------------------------------------------------------------

HOLDER = """
from pipeline_core.files import lock
with lock(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_held_by_one_and_freed_when_its_holder_is_killed(tmp_path):
    path = tmp_path / "below" / "lock"
    holder = python(HOLDER, path)
    assert holder.stdout.readline() == "True\n"
    with files.lock(path, wait=False) as mine:
        assert not mine
    waiting = python(HOLDER, path)
    assert waiting.poll() is None
    holder.kill()
    assert waiting.stdout.readline() == "True\n"
    waiting.communicate("")
    with files.lock(path, wait=False) as mine, files.lock(path, wait=False) as again:
        assert mine and not again
    with files.lock(path) as mine:
        assert mine
    assert path.exists()


def test_an_error_in_the_block_is_passed_on_and_frees_the_lock(tmp_path):
    for wait in (True, False):
        with pytest.raises(KeyError), files.lock(tmp_path / "lock", wait=wait):
            raise KeyError
    with files.lock(tmp_path / "lock", wait=False) as mine:
        assert mine


def test_a_lock_file_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    def refuses(self) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(files.FileLock, "_acquire", refuses)
    with pytest.raises(TransientError, match=f"{tmp_path}/lock cannot be written"), files.lock(tmp_path / "lock"):
        pass


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No variable says where; the home is ``tmp_path``/home, temporary files lie in ``tmp_path``/tmp."""
    for name in ("SPLATMILL_CACHE", "SPLATMILL_STATE", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    files._temporary.cache_clear()
    yield tmp_path
    files._temporary.cache_clear()


def test_the_first_variable_that_is_set_says_where(nowhere, monkeypatch):
    assert files.cache_folder() == nowhere / "home" / ".cache" / "splatmill"
    assert files.state_folder() == nowhere / "home" / ".local" / "state" / "splatmill"
    assert not (nowhere / "home").exists()  # asking makes nothing
    monkeypatch.setenv("XDG_CACHE_HOME", str(nowhere / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(nowhere / "state"))
    assert files.cache_folder() == nowhere / "cache" / "splatmill"
    assert files.state_folder() == nowhere / "state" / "splatmill"
    monkeypatch.setenv("SPLATMILL_CACHE", str(nowhere / "mine"))
    monkeypatch.setenv("SPLATMILL_STATE", str(nowhere / "ours"))
    assert (files.cache_folder(), files.state_folder()) == (nowhere / "mine", nowhere / "ours")


def test_a_home_that_cannot_be_written_gives_a_private_folder(nowhere, caplog):
    (nowhere / "home").write_text("")  # a file in its place: even root cannot write there
    private = files.cache_folder()
    assert private == files.state_folder() == nowhere / "tmp" / f"splatmill-{os.getuid()}"
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert "home/.cache/splatmill cannot be written" in caplog.text and "set XDG_CACHE_HOME" in caplog.text


def test_a_folder_that_others_may_write_is_not_taken(nowhere):
    (nowhere / "home").write_text("")
    theirs = nowhere / "tmp" / f"splatmill-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    mine = files.cache_folder()
    assert mine.parent == nowhere / "tmp" and mine != theirs and stat.S_IMODE(mine.stat().st_mode) == 0o700
    assert files.cache_folder() == mine


def test_a_shared_temp_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    assert files.is_private(tmp_path / "mine")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert not files.is_private(tmp_path / "open")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    assert not files.is_private(tmp_path / "link")


WHERE = """
from pipeline_core.files import cache_folder
if sys.argv[1] == "unknown user":
    os.setuid(54321)
print(cache_folder())
"""


def test_an_empty_environment_has_a_cache():
    told, _ = python(WHERE, "this user", env={}).communicate()
    assert told.strip().endswith(".cache/splatmill") or "/splatmill-" in told
    if os.getuid() == 0:
        told, _ = python(WHERE, "unknown user", env={"TMPDIR": "/tmp"}).communicate()
        assert re.fullmatch("/tmp/splatmill-.*", told.strip())


HOMELESS = """
import pwd
def unknown(uid):
    raise KeyError(uid)
pwd.getpwuid = unknown
from flows.cli import main
sys.argv = ["splatmill", "--help"]
try:
    main()
except SystemExit:
    import prefect.settings
    print("a home:", Path.home())
"""


def test_a_user_whom_the_system_does_not_know_has_a_home(tmp_path):
    told, _ = python(HOMELESS, env={"TMPDIR": str(tmp_path)}).communicate()
    assert f"a home: {tmp_path}/splatmill-{os.getuid()}\n" in told


# --- once ------------------------------------------------------------------------------------------------------------

BY_HAND = re.compile(r"\bfcntl\b|os\.replace\(|Path\.home\(|XDG_|NamedTemporaryFile|mkstemp")
"""What only ``files`` does."""
ALLOWED = {
    "catalog/store.py": "moves files and outputs aside, into trash/ and quarantine/",
    "catalog/snapshot.py": "lets the two database files change names",
    "pipeline_core/children.py": "asks for wider pipes",
}


def test_nothing_else_writes_files_locks_or_looks_for_a_home_by_hand():
    found = {}
    rooms = (ROOT / name for name in ("pipeline_core", "catalog", "tasks", "flows"))
    for path in sorted(path for room in rooms for path in room.rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if BY_HAND.search(line):
                found.setdefault(path.relative_to(ROOT).as_posix(), []).append(f"{number}: {line.strip()}")
    unexplained = {name: lines for name, lines in found.items() if name not in {"pipeline_core/files.py", *ALLOWED}}
    assert not unexplained, json.dumps(unexplained, indent=2)
    assert set(ALLOWED) <= set(found), "an allowance that nobody needs"
