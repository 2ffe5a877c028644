"""Ids grow with real order, whatever the clock does."""

from __future__ import annotations

import threading
import time

from catalog import ids


def test_ids_are_uuid_version_7_in_order() -> None:
    made = [ids.new_id() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert all(ids.ID_PATTERN.fullmatch(each) for each in made[::500])
    assert abs(ids.milliseconds(made[-1]) - time.time() * 1000) < 60_000


def test_a_clock_that_jumps_back_does_not_reorder(monkeypatch) -> None:
    before = ids.new_id()
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
    after = [ids.new_id() for _ in range(5000)]
    assert before < after[0]
    assert after == sorted(after)


def test_what_was_observed_comes_before() -> None:
    ahead = ids._format((ids.milliseconds(ids.new_id()) + 5_000) << 12 | 0xFFF, 7)
    ids.observe(ahead)
    assert ids.new_id() > ahead


def test_threads_never_share_an_id() -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.extend(ids.new_id() for _ in range(3000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 12_000


def test_batch_id_depends_on_the_events_only() -> None:
    events = [ids.new_id() for _ in range(3)]
    batch = ids.batch_id_of(events)
    assert batch == ids.batch_id_of(events)
    assert ids.ID_PATTERN.fullmatch(batch)
    assert ids.milliseconds(batch) == ids.milliseconds(events[0])
    assert batch != ids.batch_id_of(events[:2])
