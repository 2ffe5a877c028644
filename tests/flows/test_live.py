"""Progress: the estimate, and plain lines for pipes."""

import pytest

from flows.live import _Lines, clock, describe, progress, seconds_left, share_done
from pipeline_core.stages import names
from tasks.progress import Board, Position, board


def test_the_estimate_is_the_rest_at_the_pace_so_far():
    done, half = Position("a", "done"), Position("b", "waiting")
    assert seconds_left([done, half], 60) == pytest.approx(60)
    assert seconds_left([done, done], 60) == pytest.approx(0)
    assert seconds_left([half], 60) is None
    assert seconds_left([Position("c", "cached"), done, half], 60) == pytest.approx(60)  # cached ones cost nothing


def test_an_asset_only_ever_gets_nearer_to_its_end():
    shares = [round(share_done(Position("a", "running", s, step, 10)), 12) for s in names() for step in (0, 5, 10)]
    assert shares == sorted(shares) and 0 <= shares[0] and shares[-1] <= 1


def test_lines_tell_each_change_once(capsys):
    lines = _Lines()
    running = Position("mug", "running", "optimize_gaussians", 3, 10, 0.25)
    for _ in range(3):
        lines.update([running, Position("gem", "cached"), Position("well")], 61)
    lines.update([Position("mug", "failed", error="nothing to mesh")], 62)
    told = capsys.readouterr().err.splitlines()
    assert told == ["[1:01] 1/3 mug: optimize_gaussians", "[1:02] 1/1 mug: failed: nothing to mesh"]
    assert describe(running) == "optimize gaussians 3/10, loss 0.25"
    assert clock(3725) == "1:02:05"


def test_a_new_stage_forgets_the_steps_of_the_old():
    positions = Board()
    positions.update("mug", stage="optimize_gaussians", step=9, steps=10, loss=0.1)
    positions.update("mug", stage="densify_prune")
    (position,) = positions.positions()
    assert (position.step, position.steps, position.loss) == (0, 0, None)


def test_progress_is_silent_when_told_so(capsys):
    with progress(quiet=True):
        board.update("mug", state="running", stage="init_points")
    assert capsys.readouterr() == ("", "")
