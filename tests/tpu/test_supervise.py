"""The launcher's machine: what follows from what, with no cloud in sight."""

from dataclasses import replace

import pytest

from tpu.gcloud import Lease
from tpu.supervise import (
    RESTARTS,
    End,
    Exit,
    State,
    Step,
    decide,
    deleted,
    ended,
    judge,
    may_start,
    seen,
    started,
    unreachable,
)
from tpu.worker import UNKNOWN, VANISHED

NO_ANSWER = None


def exits(*codes):
    return [Exit(f"w{i}", code) for i, code in enumerate(codes)]


def test_the_way_from_nothing_to_done():
    state = State()
    assert decide(seen(state, Lease.ABSENT), Lease.ABSENT) is Step.CREATE
    state = replace(state, created=True)
    assert decide(seen(state, Lease.WAITING), Lease.WAITING) is Step.WAIT
    state = seen(state, Lease.READY)
    assert decide(state, Lease.READY) is Step.PREPARE
    state = replace(state, prepared=True)
    assert decide(state, Lease.READY) is Step.START
    state = started(may_start(state, -1))
    assert decide(seen(state, Lease.READY), Lease.READY) is Step.FOLLOW
    state = ended(state, exits(0, 0), lost=False)
    assert (state.verdict, decide(state, Lease.READY)) == (0, Step.FINISH)


@pytest.mark.parametrize(
    ("codes", "lost", "end"),
    [
        ((0, 0), False, End.DONE),
        ((75, 75), False, End.TOLD),
        ((1, 75), False, End.TOLD),
        ((134, 75), False, End.TOLD),
        ((1, 134), False, End.ERROR),  # an error on one; JAX aborts the other
        ((137, 1), False, End.DIED),  # one is killed; the other trips over it
        ((VANISHED, 1), False, End.DIED),
        ((UNKNOWN, 1), False, End.DIED),
        ((255, 134), False, End.ERROR),  # sys.exit(-1): no signal
        ((1, NO_ANSWER), False, End.LOST),
        ((0, 1), False, End.ERROR),
        ((127,), False, End.ERROR),
        ((134, 1), True, End.LOST),
        ((), True, End.LOST),
    ],
)
def test_what_an_end_means(codes, lost, end):
    assert judge(exits(*codes), lost=lost) is end


def test_what_the_launcher_told_to_go_after_an_error_does_not_hide_the_error():
    told = [Exit("w0", 1), Exit("w1", 75, stopped=True)]
    assert judge(told, lost=False) is End.ERROR
    assert judge([Exit("w0", 75), *told], lost=False) is End.TOLD


@pytest.mark.parametrize("codes", [(75, 75), (137,), (VANISHED, 0), (NO_ANSWER,)])
def test_what_is_started_again(codes):
    state = ended(started(State(created=True, prepared=True)), exits(*codes), lost=False)
    assert state.verdict is None
    assert not state.running


def test_an_error_is_not_started_again():
    state = ended(started(State(created=True, prepared=True)), exits(0, 1), lost=False)
    assert state.verdict == 1
    assert "w1: 1" in state.reason


def test_a_worker_that_cannot_be_reached_is_replaced_though_google_calls_it_ready():
    state = ended(started(State(created=True, prepared=True)), exits(NO_ANSWER), lost=False)
    assert decide(seen(state, Lease.READY), Lease.READY) is Step.DELETE
    assert decide(deleted(state), Lease.ABSENT) is Step.CREATE


def test_lost_machines_are_deleted_and_others_prepared_anew():
    state = seen(State(created=True, prepared=True, running=True, starts=1), Lease.LOST)
    assert decide(state, Lease.LOST) is Step.DELETE
    state = seen(deleted(state), Lease.ABSENT)
    assert decide(state, Lease.ABSENT) is Step.CREATE
    state = seen(replace(state, created=True), Lease.READY)
    assert decide(state, Lease.READY) is Step.PREPARE


def test_machines_that_were_away_are_prepared_anew():
    state = seen(State(created=True, prepared=True, running=True), Lease.WAITING)
    assert decide(seen(state, Lease.READY), Lease.READY) is Step.PREPARE


def test_machines_deleted_by_somebody_are_not_asked_for_again():
    state = seen(State(created=True, prepared=True, running=True), Lease.ABSENT)
    assert decide(state, Lease.ABSENT) is Step.FINISH
    assert "somebody" in state.reason
    assert state.verdict == 1


def test_a_request_that_failed_ends_it():
    state = seen(State(created=True), Lease.FAILED, "no quota")
    assert (decide(state, Lease.FAILED), state.verdict) == (Step.FINISH, 1)
    assert "no quota" in state.reason


def starts(newest_by_attempt):
    """How many starts there are when attempt i finds this newest checkpoint, and the state after."""
    state = State(created=True, prepared=True)
    for count, newest in enumerate(newest_by_attempt):
        state = may_start(state, newest)
        if state.verdict is not None:
            return count, state
        state = ended(started(state), exits(75), lost=False)
    return len(newest_by_attempt), state


def test_given_up_after_three_restarts_without_a_newer_checkpoint():
    count, state = starts([-1] * 10)
    assert count == 1 + RESTARTS
    assert state.verdict == 1
    assert "without a newer checkpoint" in state.reason
    count, state = starts([100, 200, 200, 200, 300, 300, 300, 300, 300])
    assert count == 8, "a newer one gives three more; then 300 is found a fourth time"
    assert "step 300" in state.reason


def test_a_run_that_gets_on_is_started_as_often_as_it_takes():
    count, state = starts(range(0, 5000, 100))
    assert (count, state.verdict) == (50, None)


def test_an_older_checkpoint_does_not_count_as_newer_later():
    """A damaged newest step is taken away: the run falls back, and reaching it again is no progress yet."""
    count, _ = starts([500, 400, 500, 500, 500, 500])
    assert count == 4


def test_machines_that_do_not_answer_are_replaced_some_times_and_at_the_first_start_never():
    state = started(State(created=True, prepared=True))
    for _ in range(RESTARTS):
        state = unreachable(state, "no answer")
        assert decide(state, Lease.READY) is Step.DELETE
        state = replace(deleted(state), created=True, prepared=True)
    assert decide(unreachable(state, "no answer"), Lease.READY) is Step.FINISH
    first = unreachable(State(created=True, prepared=True), "a firewall")
    assert (first.verdict, first.reason) == (1, "a firewall")
