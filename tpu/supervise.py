"""What the launcher does next: a small pure machine over what it knows of machines and processes.

    absent -> create -> wait -> prepare -> start -> follow -> finish
                 ^---- delete <- lost          |
                                 start <-------+  told to go (75), died

Nothing here touches the cloud; `tpu.launch` asks `decide`, does as it says, and tells what came of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from tpu.gcloud import Lease
from tpu.runtime import PREEMPTED
from tpu.worker import UNKNOWN, VANISHED

RESTARTS = 3  # without a newer checkpoint, then it gives up
_SIGNALS = range(128 + 1, 128 + 65)  # exit codes of a process that a signal ended


class Step(Enum):
    """What to do now."""

    CREATE = "create"
    WAIT = "wait"
    DELETE = "delete"
    PREPARE = "prepare"
    START = "start"
    FOLLOW = "follow"
    FINISH = "finish"


class End(Enum):
    """How an attempt ended."""

    DONE = "done"
    TOLD = "told to go, and saved itself"
    LOST = "lost workers"
    DIED = "a process died"
    ERROR = "error"


@dataclass(frozen=True)
class Exit:
    """One worker's end.

    Attributes:
        code: as a shell counts: 128 + number for a signal. None: it cannot be reached.
        stopped: the launcher had told it to go by then.
    """

    worker: str
    code: int | None
    stopped: bool = False


@dataclass(frozen=True)
class State:
    """What the launcher remembers.

    Attributes:
        created: it has asked for the machines, or found them: if they vanish now, somebody deleted them.
        prepared: the machines at hand have code and dependencies.
        running: the command was started on all of them.
        broken: a worker cannot be reached, whatever Google says of its machine.
        starts: attempts so far.
        newest: the newest checkpoint's step when the last attempt was started.
        fruitless: restarts in a row that found no newer checkpoint than the start before.
        verdict: exit code for the launcher, once it is over.
        reason: in words.
    """

    created: bool = False
    prepared: bool = False
    running: bool = False
    broken: bool = False
    starts: int = 0
    newest: int = -1
    fruitless: int = 0
    verdict: int | None = None
    reason: str = ""


def decide(state: State, lease: Lease) -> Step:
    """The next step."""
    if state.verdict is not None:
        return Step.FINISH
    match lease:
        case Lease.ABSENT:
            return Step.CREATE
        case Lease.WAITING:
            return Step.WAIT
        case Lease.LOST:
            return Step.DELETE
        case Lease.READY if state.broken:
            return Step.DELETE
        case Lease.READY if not state.prepared:
            return Step.PREPARE
        case Lease.READY:
            return Step.FOLLOW if state.running else Step.START
        case Lease.FAILED:
            return Step.FINISH


def seen(state: State, lease: Lease, why: str = "") -> State:
    """The state after a look at the machines."""
    if lease is Lease.FAILED:
        return replace(state, verdict=1, reason=f"the request for machines failed: {why}")
    if lease is Lease.ABSENT and state.created:
        return replace(state, verdict=1, reason="the machines were deleted by somebody else")
    if lease in (Lease.LOST, Lease.WAITING) and state.created:
        # Machines that come back are other machines, or have been started anew.
        return replace(state, prepared=False, running=False)
    return replace(state, created=lease is not Lease.ABSENT)


def deleted(state: State) -> State:
    """The state after the machines were given back in order to ask for others."""
    return replace(state, created=False, prepared=False, running=False, broken=False)


def unreachable(state: State, why: str) -> State:
    """The state after a worker could not be spoken to between two attempts: other machines, some times."""
    state = replace(state, broken=True, running=False, fruitless=state.fruitless + 1, reason=why)
    if state.starts == 0 or state.fruitless > RESTARTS:
        return replace(state, verdict=1)
    return state


def may_start(state: State, newest: int) -> State:
    """The state before a start, or with a verdict where there have been enough without a newer checkpoint.

    Args:
        state: the state so far.
        newest: step of the newest checkpoint in the run directory; -1: none.
    """
    if state.starts == 0:
        return replace(state, newest=newest)
    fruitless = 0 if newest > state.newest else state.fruitless + 1
    state = replace(state, newest=max(newest, state.newest), fruitless=fruitless)
    if fruitless > RESTARTS:
        at = f"step {newest}" if newest >= 0 else "none"
        said = f"given up after {RESTARTS} restarts without a newer checkpoint (newest: {at})"
        return replace(state, verdict=1, reason=f"{said}; last: {state.reason}")
    return state


def started(state: State) -> State:
    """The state after the command was started on every worker."""
    return replace(state, running=True, starts=state.starts + 1)


def judge(exits: Sequence[Exit], *, lost: bool) -> End:
    """How an attempt ended, from the workers' exits in the order of time.

    A worker that cannot be reached, and a process told to go by anybody but the launcher, explain whatever
    happened to the others. Else the first to end is the cause: when one process dies, JAX ends the rest with
    errors of their own.
    """
    codes = [exit.code for exit in exits]
    if lost or None in codes:
        return End.LOST
    if codes and not any(codes):
        return End.DONE
    if PREEMPTED in [exit.code for exit in exits if not exit.stopped]:
        return End.TOLD
    first = next(code for code in codes if code)
    return End.DIED if first in (VANISHED, UNKNOWN, *_SIGNALS) else End.ERROR


def ended(state: State, exits: Sequence[Exit], *, lost: bool) -> State:
    """The state after an attempt: over, or to be started again."""
    end, codes = judge(exits, lost=lost), [exit.code for exit in exits]
    said = ", ".join(
        f"{exit.worker}: {'no answer' if exit.code is None else exit.code}"
        for exit in exits
        if exit.code != 0
    )
    reason = end.value + (f" (exit codes {said})" if said else "")
    state = replace(state, running=False, broken=None in codes, reason=reason)
    if end is End.DONE:
        return replace(state, verdict=0)
    if end is End.ERROR:
        return replace(state, verdict=1)
    return state
