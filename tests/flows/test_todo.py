"""What is made, what waits in quarantine and what is missing: every asset in exactly one of the three."""

from flows.batch import plan_batch, run_batch
from flows.todo import Todo, ids, sort_out
from pipeline_core.errors import DataError
from tasks.stage import run_stage
from tests.flows.test_batch import finish, write


def test_every_asset_is_in_one_list_and_the_quarantine_holds_nothing_that_is_asked_for_by_name(tmp_path, tiny):
    def make(journey):
        def work(folder):
            raise DataError("bad")

        finish(journey) if journey.asset_id == "mug-0001" else run_stage(journey, "extract_mesh", work)

    request = write(tmp_path, 4, tiny)
    run_batch(request.model_copy(update={"only": ("mug-0001", "mug-0002")}), make)
    journeys = plan_batch(request)[1]
    todo = sort_out(request.library, journeys, by_name=False)
    assert (ids(todo.made), ids(todo.held), ids(todo.missing)) == (["mug-0001"], ["mug-0002"], ["mug-0000", "mug-0003"])
    assert todo.asked == 4
    named = sort_out(request.library, journeys, by_name=True)
    assert ids(named.missing) == ["mug-0000", "mug-0002", "mug-0003"] and not named.held


def test_a_library_that_is_not_there_yet_is_looked_at_and_not_made(tmp_path, tiny):
    request = write(tmp_path, 1, tiny)
    journeys = plan_batch(request)[1]
    assert sort_out(request.library, journeys, by_name=False) == Todo([], [], journeys)
    assert not (tmp_path / "library").exists()
