"""Carries a launch through: asks `tpu.supervise` what to do next, does it, and tells it what came of it."""

import json
import os
import queue
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from tpu import gcloud
from tpu.bundle import pack
from tpu.commands import GRACE, Commands
from tpu.gcloud import GcloudError, Lease, Seen
from tpu.machines import TRIES, Machines, Worker
from tpu.output import Log, Stream
from tpu.supervise import (
    Exit,
    State,
    Step,
    decide,
    deleted,
    ended,
    may_start,
    seen,
    started,
    unreachable,
)


@dataclass
class Launcher:
    """One launch; `run` returns the exit code.

    Attributes:
        keep: leave the machines at the end.
        run_id: of the present attempt.
    """

    commands: Commands
    machines: Machines
    log: Log
    keep: bool = False
    run_id: str = ""

    def run(self) -> int:
        """From whatever there is to the end of the run.

        Raises:
            GcloudError: gcloud fails for good; the machines are left as they are.
        """
        request = self.commands.request
        state, first = State(), True
        try:
            while True:
                look = self.machines.look()
                if first and look.lease is not Lease.ABSENT:
                    self.log.say(
                        f"{request.name} is there already ({look.lease.value}); it is used again"
                    )
                state = seen(state, look.lease, look.why)
                if first and look.lease is Lease.READY:
                    state = self._adopt(state)
                first = first and look.lease is Lease.WAITING
                step = decide(state, look.lease)
                if step is Step.FINISH:
                    break
                state = self._do(step, state, look)
        except KeyboardInterrupt:
            self.log.say(
                "left running; the same command follows it again. To give the machines back:"
            )
            self.log.say(gcloud.shown(gcloud.delete(request)))
            return 130
        self.log.say(state.reason)
        if not self.keep and look.lease is not Lease.ABSENT:
            self.machines.give_back()
            self.log.say(f"{request.name} is deleted")
        return state.verdict or 0

    def _do(self, step: Step, state: State, look: Seen) -> State:
        match step:
            case Step.CREATE:
                return self._create(state)
            case Step.WAIT:
                self.log.once(f"waiting: {look.why or look.lease.value}")
                time.sleep(self.machines.poll)
                return state
            case Step.DELETE:
                why = look.why if look.lease is Lease.LOST else state.reason
                self.log.say(f"lost: {why}; replacing it")
                self.machines.give_back()
                return deleted(state)
            case Step.PREPARE:
                return self._prepare(state)
            case Step.START:
                return self._start(state)
            case _:
                exits, lost = self._follow()
                state = ended(state, exits, lost=lost)
                if state.verdict is None:
                    self.log.say(f"{state.reason}; starting again")
                return state

    def _create(self, state: State) -> State:
        request = self.commands.request
        self.log.say(f"asking for {request.slices} x {request.type} in {request.zone}")
        try:
            gcloud.must(gcloud.create(request))
        except GcloudError as error:
            if state.starts == 0:
                raise
            # The run has begun: there may be machines again later.
            self.log.say(f"no machines now, trying again: {error}")
            time.sleep(self.machines.poll)
            return state
        return replace(state, created=True)

    def _prepare(self, state: State) -> State:
        commands, job = self.commands, self.commands.job
        self.log.say(f"code: {pack(commands.bundle, job.commit)}")
        if job.env:
            lines = [f"{name}={os.environ[name]}" for name in job.env]
            commands.secrets.touch(mode=0o600)
            commands.secrets.write_text("\n".join(lines) + "\n")
        try:
            for node in commands.request.nodes:
                self.log.say(f"copying to and installing on {node}")
                for copy in commands.copies(node):
                    self.machines.tell(copy)
                self.machines.tell(commands.install(node))
        except GcloudError as error:
            return self._trouble(state, error)
        return replace(state, prepared=True)

    def _start(self, state: State) -> State:
        commands, hosts = self.commands, sum(self.machines.hosts)
        try:
            # Nothing may be left of an attempt before: a TPU serves one process.
            self.machines.tell_all(lambda worker: commands.stop(worker.node, worker.number))
            answer = self.machines.tell(commands.newest())
            state = may_start(state, int(answer.split()[-1]))
            if state.verdict is not None:
                return state
            at = f"from step {state.newest}" if state.newest >= 0 else "from the beginning"
            self.log.say(f"starting on {hosts} worker(s), {at}")
            self.run_id = f"{commands.request.name}.{int(time.time())}"
            self.machines.tell_all(
                lambda worker: commands.start(worker.node, worker.number, self.run_id, hosts)
            )
        except GcloudError as error:
            return self._trouble(state, error)
        return started(state)

    def _trouble(self, state: State, error: GcloudError) -> State:
        """A command for the workers failed: their machines went away just now, or it is an error."""
        look = self.machines.look()
        if look.lease is not Lease.READY:
            self.log.say(f"interrupted: {look.why or look.lease.value}")
            return state
        if error.reached:
            return replace(state, verdict=1, reason=str(error))
        return unreachable(state, f"a worker cannot be reached: {error}")

    def _adopt(self, state: State) -> State:
        """A run of ours that goes on there on every worker is followed, not started anew.

        Raises:
            GcloudError: a worker does not answer; what runs there is left alone.
        """
        ids: set[Any] = set()
        for worker in self.machines.workers:
            try:
                answer = self.machines.tell(self.commands.status(worker.node, worker.number))
            except GcloudError as error:
                if error.reached or not self.machines.ready:
                    return state  # nothing is installed there yet, or it went away just now
                raise
            now = json.loads(answer.splitlines()[-1])
            ids.add(now["id"] if now["running"] else None)
        if len(ids) == 1 and None not in ids:
            self.run_id = ids.pop()
            self.log.say(f"{self.run_id} goes on there; following it")
            return replace(state, prepared=True, running=True, starts=1)
        return state

    # --- watching -----------------------------------------------------------------------------------------------

    def _follow(self) -> tuple[list[Exit], bool]:
        """Output until every worker's command has ended: their exits in order, and whether machines were lost."""
        events: queue.Queue[Stream] = queue.Queue()
        workers = {worker.name: worker for worker in self.machines.workers}
        streams = [Stream(name, self.log, events) for name in workers]
        for stream in streams:
            self._connect(stream, workers[stream.name])
        exits: list[Exit] = []
        deadline: float | None = None
        stopping = False
        next_look = time.monotonic() + self.machines.poll
        try:
            while len(exits) < len(streams):
                try:
                    stream = events.get(timeout=min(self.machines.poll, 1.0))
                except queue.Empty:
                    stream = None
                if stream is not None and not self._again(stream, workers[stream.name]):
                    exits.append(Exit(stream.name, stream.code, stopped=stopping))
                    if stream.code != 0 and deadline is None:
                        end = "no answer" if stream.code is None else stream.code
                        self.log.say(f"{stream.name} ended with {end}")
                        deadline = time.monotonic() + GRACE
                if time.monotonic() >= next_look:
                    next_look = time.monotonic() + self.machines.poll
                    if not self.machines.ready:
                        return exits, True
                if deadline is not None and time.monotonic() > deadline and not stopping:
                    stopping = True
                    gone = {exit.worker for exit in exits}
                    left = [worker for name, worker in workers.items() if name not in gone]
                    threading.Thread(target=self._stop, args=(left,), daemon=True).start()
            lost = any(exit.code != 0 for exit in exits) and not self.machines.ready
            return exits, lost
        finally:
            for stream in streams:
                stream.close()

    def _connect(self, stream: Stream, worker: Worker) -> None:
        stream.connect(self.commands.follow(worker.node, worker.number, self.run_id, stream.begin))

    def _again(self, stream: Stream, worker: Worker) -> bool:
        """Connects to a worker again when only the connection ended."""
        if stream.code is not None:
            return False
        stream.failures += 1
        if stream.failures > TRIES or not self.machines.ready:
            return False
        self.log.say(f"connection to {stream.name} lost, connecting again")
        time.sleep(min(self.machines.poll, 2.0**stream.failures))
        self._connect(stream, worker)
        return True

    def _stop(self, workers: list[Worker]) -> None:
        for worker in workers:
            gcloud.run(self.commands.stop(worker.node, worker.number))
