"""Runs a recipe on TPU slices: gets them, installs, runs on every worker, watches, starts again, gives them back.

    python -m tpu.launch RECIPE --name=N --zone=Z --type=v5litepod-16 [--spot] [key.path=value ...]

The slices come from a queued resource of that name (`--direct`: a TPU VM, now or never); one that is there
already is used again, and a run that goes on there is followed. The working tree (or `--commit`) is copied,
`tpu/setup.sh` installs, `train.py RECIPE` starts on every worker, and its output comes back with the
worker's name before each line. Preempted slices and dead workers are replaced and the run goes on from its
newest checkpoint; after 3 restarts without a newer one it gives up. Exit code 0 of the run ends it, and so
does an error (1). At the end the slices are deleted, unless `--keep`. Ctrl-C leaves everything running: the
same command follows it again. `--dry-run` prints every gcloud command and carries out none.
"""

import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tpu import gcloud
from tpu.bundle import pack
from tpu.gcloud import GcloudError, Lease, Request
from tpu.supervise import (
    UNREACHABLE,
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

CODE = "lectern"  # in the home folder of every worker
VENV = "lectern-venv"
GRACE = 60.0  # seconds for the others to end when one has
TRIES = 5  # connections to a worker that fail in a row before it counts as dead
AT_ONCE = 16  # workers spoken to at the same time


@dataclass(frozen=True)
class Job:
    """What to run.

    Attributes:
        command: words, Python's path left out: `train.py RECIPE ...`.
        run_dir: where its checkpoints are.
        commit: the code; None is the working tree.
        env: names of variables whose values the workers get.
    """

    command: tuple[str, ...]
    run_dir: str
    commit: str | None = None
    env: tuple[str, ...] = ()


@dataclass(frozen=True)
class Words:
    """The gcloud commands of one launch, in the order of their use."""

    request: Request
    job: Job
    folder: Path

    @property
    def bundle(self) -> Path:
        """The code, on this machine."""
        return self.folder / "code.tgz"

    @property
    def secrets(self) -> Path:
        """The variables for the workers, on this machine."""
        return self.folder / "env"

    def copies(self, node: str) -> Iterator[list[str]]:
        """Puts code and variables on all workers of a node."""
        yield gcloud.copy(self.request, node, str(self.bundle), f"{CODE}.tgz")
        if self.job.env:
            yield gcloud.copy(self.request, node, str(self.secrets), f"{CODE}.env")

    def install(self, node: str) -> list[str]:
        """Unpacks, without what an earlier copy left, and installs; on all workers of a node."""
        steps = [
            f"mkdir -p {CODE}",
            f"cd {CODE}",
            "{ [ ! -f .files ] || xargs -d '\\n' rm -f < .files; }",
            f"tar -xzf ../{CODE}.tgz",
            f"bash tpu/setup.sh ../{VENV}",
        ]
        return gcloud.ssh(self.request, node, "all", " && ".join(steps))

    def worker(self, node: str, worker: int, *words: str) -> list[str]:
        """`tpu.worker` on one worker, in place of the shell that ssh starts."""
        line = shlex.join([f"../{VENV}/bin/python", "-m", "tpu.worker", *words])
        return gcloud.ssh(self.request, node, worker, f"cd {CODE} && exec {line}")

    def start(self, node: str, worker: int, run_id: str, hosts: int) -> list[str]:
        """Starts the command on one worker; it learns how many there should be."""
        env = [
            f"--env=LECTERN_PROCESSES={hosts}",
            f"--env=LECTERN_DEVICES={self.request.chips * self.request.slices}",
            *([f"--env-file=../{CODE}.env"] if self.job.env else []),
        ]
        command = [f"../{VENV}/bin/python", *self.job.command]
        return self.worker(node, worker, "start", f"--id={run_id}", *env, "--", *command)

    def follow(self, node: str, worker: int, run_id: str, begin: int) -> list[str]:
        """Prints the command's output from a byte on; ends with its exit code."""
        return self.worker(node, worker, "follow", f"--id={run_id}", f"--from={begin}")


def dry_run(words: Words) -> list[str]:
    """Every command of a launch in order, with remarks between them; hosts as the table has them."""
    request = words.request
    hosts = request.hosts
    workers = [(node, worker) for node in request.nodes for worker in range(hosts)]
    shown = gcloud.shown
    first = request.nodes[0]
    lines = [
        f"# {request.slices} x {request.type}: {request.chips} chips, {hosts} host(s) each",
        "# the code",
        shown(
            [sys.executable, "-m", "tpu.bundle", str(words.bundle)]
            + ([words.job.commit] if words.job.commit else [])
        ),
        "# ask for the machines, unless they are there; then look until they are ready",
        shown(gcloud.create(request)),
        *([shown(gcloud.describe(request))] if request.queued else []),
        *(shown(gcloud.describe_node(request, node)) for node in request.nodes),
        "# does a run go on there already?",
        *(shown(words.worker(node, worker, "status")) for node, worker in workers),
        "# copy and install",
        *(shown(copy) for node in request.nodes for copy in words.copies(node)),
        *(shown(words.install(node)) for node in request.nodes),
        "# the newest checkpoint, before every start",
        shown(words.worker(first, 0, "newest", words.job.run_dir)),
        "# start, then follow",
        *(
            shown(words.start(node, worker, f"{request.name}.1", len(workers)))
            for node, worker in workers
        ),
        *(shown(words.follow(node, worker, f"{request.name}.1", 0)) for node, worker in workers),
        "# when one of them ended with an error, for the others; then from `the newest checkpoint` on",
        *(
            shown(words.worker(node, worker, "stop", f"--grace={GRACE:.0f}"))
            for node, worker in workers
        ),
        "# when machines are lost, before asking for others, and at the end",
        shown(gcloud.delete(request)),
    ]
    return lines


@dataclass
class Stream:
    """One worker's output, read by a thread of its own."""

    node: str
    worker: int
    name: str
    events: "queue.Queue[Stream]"  # of this attempt: it goes there whenever its connection ends
    begin: int = 0  # bytes of whole lines received
    failures: int = 0
    process: subprocess.Popen[bytes] | None = None
    code: int | None = None


@dataclass
class Launcher:
    """Carries a launch through; `run` returns the exit code.

    Attributes:
        words: the commands.
        poll: seconds between looks at the machines.
        keep: leave the machines at the end.
    """

    words: Words
    poll: float = 30.0
    keep: bool = False
    run_id: str = ""
    hosts: tuple[int, ...] = ()
    _print: threading.Lock = field(default_factory=threading.Lock)
    _said: str = ""

    def run(self) -> int:
        """From whatever there is to the end of the run."""
        request = self.words.request
        state, first = State(), True
        try:
            while True:
                look = self._look()
                if first and look.lease is not Lease.ABSENT:
                    self.say(
                        f"{request.name} is there already ({look.lease.value}); it is used again"
                    )
                state = seen(state, look.lease, look.why)
                if look.lease is Lease.READY:
                    self.hosts = look.hosts
                    if first:
                        state = self._adopt(state)
                first = first and look.lease is Lease.WAITING
                step = decide(state, look.lease)
                if step is Step.FINISH:
                    break
                state = self._do(step, state, look)
        except KeyboardInterrupt:
            self.say("left running; the same command follows it again. To give the machines back:")
            self.say(gcloud.shown(gcloud.delete(request)))
            return 130
        self.say(state.reason)
        if self.keep or look.lease is Lease.ABSENT:
            return state.verdict or 0
        gcloud.must(gcloud.delete(request))
        self.say(f"{request.name} is deleted")
        return state.verdict or 0

    def say(self, text: str, who: str = "launch") -> None:
        """A line on the screen and in the log, with who says it."""
        with self._print:
            print(f"[{who}] {text}", flush=True)
            with (self.words.folder / f"{who.replace(' ', '-')}.log").open("a") as log:
                log.write(text + "\n")

    # --- one step -----------------------------------------------------------------------------------------------

    def _do(self, step: Step, state: State, look: gcloud.Seen) -> State:
        request = self.words.request
        match step:
            case Step.CREATE:
                self.say(f"asking for {request.slices} x {request.type} in {request.zone}")
                try:
                    gcloud.must(gcloud.create(request))
                except GcloudError as error:
                    if state.starts == 0:
                        raise
                    # The run has begun: there may be machines again later.
                    self.say(f"no machines now, trying again: {error}")
                    time.sleep(self.poll)
                    return state
                return replace(state, created=True)
            case Step.WAIT:
                self._once(f"waiting: {look.why or look.lease.value}")
                time.sleep(self.poll)
                return state
            case Step.DELETE:
                self.say(
                    f"lost: {look.why if look.lease is Lease.LOST else state.reason}; replacing it"
                )
                gcloud.must(gcloud.delete(request))
                return deleted(state)
            case Step.PREPARE:
                return self._prepare(state)
            case Step.START:
                return self._start(state)
            case _:
                exits, lost = self._follow()
                state = ended(state, exits, lost=lost)
                if state.verdict is None:
                    self.say(f"{state.reason}; starting again")
                return state

    def _prepare(self, state: State) -> State:
        words = self.words
        self.say(f"code: {pack(words.bundle, words.job.commit)}")
        if words.job.env:
            lines = [f"{name}={os.environ[name]}" for name in words.job.env]
            words.secrets.touch(mode=0o600)
            words.secrets.write_text("\n".join(lines) + "\n")
        try:
            for node in words.request.nodes:
                self.say(f"copying to and installing on {node}")
                for copy in words.copies(node):
                    self._patiently(copy)
                self._patiently(words.install(node))
        except GcloudError as error:
            return self._trouble(state, error)
        return replace(state, prepared=True)

    def _start(self, state: State) -> State:
        words = self.words
        try:
            # Nothing may be left of an attempt before: a TPU serves one process.
            self._everywhere("stop", f"--grace={GRACE:.0f}")
            answer = self._patiently(
                words.worker(words.request.nodes[0], 0, "newest", words.job.run_dir)
            )
            state = may_start(state, int(answer.split()[-1]))
            if state.verdict is not None:
                return state
            at = f"from step {state.newest}" if state.newest >= 0 else "from the beginning"
            self.say(f"starting on {sum(self.hosts)} worker(s), {at}")
            self.run_id = f"{words.request.name}.{int(time.time())}"
            self._everywhere("start")
        except GcloudError as error:
            return self._trouble(state, error)
        return started(state)

    def _trouble(self, state: State, error: GcloudError) -> State:
        """A command for the workers failed: their machines went away just now, or it is an error."""
        look = self._look()
        if look.lease is Lease.READY and error.code == UNREACHABLE:
            return unreachable(state, f"a worker cannot be reached: {error}")
        if look.lease is Lease.READY:
            return replace(state, verdict=1, reason=str(error))
        self.say(f"interrupted: {look.why or look.lease.value}")
        return state

    def _patiently(self, line: list[str]) -> str:
        """What a command for workers prints; a machine that has just come up may not answer at once.

        Raises:
            GcloudError: it failed, or did not get through after some tries.
        """
        for _ in range(TRIES):
            try:
                return gcloud.must(line)
            except GcloudError as error:
                if error.code != UNREACHABLE or self._look().lease is not Lease.READY:
                    raise
            time.sleep(self.poll)
        return gcloud.must(line)

    def _everywhere(self, verb: str, *words: str) -> None:
        """One verb of `tpu.worker` on every worker, some at a time.

        Raises:
            GcloudError: it failed on one of them.
        """
        waiting = self._workers()
        errors: list[GcloudError] = []

        def work() -> None:
            while waiting and not errors:
                try:
                    node, worker, _ = waiting.pop()
                except IndexError:
                    return
                line = (
                    self.words.start(node, worker, self.run_id, sum(self.hosts))
                    if verb == "start"
                    else self.words.worker(node, worker, verb, *words)
                )
                try:
                    self._patiently(line)
                except GcloudError as error:
                    errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(min(AT_ONCE, len(waiting)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def _workers(self) -> list[tuple[str, int, str]]:
        """(node, worker, name for people) of every worker."""
        several = len(self.hosts) > 1
        return [
            (node, worker, f"{node} {worker}" if several else f"worker {worker}")
            for node, count in zip(self.words.request.nodes, self.hosts, strict=True)
            for worker in range(count)
        ]

    def _adopt(self, state: State) -> State:
        """A run of ours that goes on there on every worker is followed, not started anew."""
        ids: set[Any] = set()
        for node, worker, _ in self._workers():
            done = gcloud.run(self.words.worker(node, worker, "status"))
            try:
                now = json.loads(done.out.splitlines()[-1])
            except (ValueError, IndexError):
                return state  # nothing is installed there yet
            ids.add(now["id"] if now["running"] else None)
        if len(ids) == 1 and None not in ids:
            self.run_id = ids.pop()
            self.say(f"{self.run_id} goes on there; following it")
            return replace(state, prepared=True, running=True, starts=1)
        return state

    # --- watching -----------------------------------------------------------------------------------------------

    def _follow(self) -> tuple[list[Exit], bool]:
        """Output until every worker's command has ended: their exits in order, and whether machines were lost."""
        events: queue.Queue[Stream] = queue.Queue()
        streams = [Stream(node, worker, name, events) for node, worker, name in self._workers()]
        for stream in streams:
            self._read(stream)
        exits: list[Exit] = []
        deadline: float | None = None
        stopping = False
        next_look = time.monotonic() + self.poll
        try:
            while len(exits) < len(streams):
                try:
                    stream = events.get(timeout=min(self.poll, 1.0))
                except queue.Empty:
                    stream = None
                if stream is not None and not self._again(stream):
                    assert stream.code is not None
                    exits.append(Exit(stream.name, stream.code))
                    if stream.code and deadline is None:
                        self.say(f"{stream.name} ended with {stream.code}")
                        deadline = time.monotonic() + GRACE
                if time.monotonic() >= next_look:
                    next_look = time.monotonic() + self.poll
                    if self._look().lease is not Lease.READY:
                        return exits, True
                if deadline is not None and time.monotonic() > deadline and not stopping:
                    stopping = True
                    left = [s for s in streams if s.name not in {e.worker for e in exits}]
                    threading.Thread(target=self._stop, args=(left,), daemon=True).start()
            lost = any(e.code for e in exits) and self._look().lease is not Lease.READY
            return exits, lost
        finally:
            for stream in streams:
                if stream.process is not None and stream.process.poll() is None:
                    stream.process.kill()

    def _again(self, stream: Stream) -> bool:
        """Connects to a worker again when only the connection ended."""
        if stream.code != UNREACHABLE:
            return False
        stream.failures += 1
        if stream.failures > TRIES or self._look().lease is not Lease.READY:
            return False
        self.say(f"connection to {stream.name} lost, connecting again")
        time.sleep(min(self.poll, 2.0**stream.failures))
        self._read(stream)
        return True

    def _read(self, stream: Stream) -> None:
        line = self.words.follow(stream.node, stream.worker, self.run_id, stream.begin)
        stream.process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        threading.Thread(target=self._pump, args=(stream, stream.process), daemon=True).start()

    def _pump(self, stream: Stream, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        errors: list[str] = []
        aside = threading.Thread(
            target=lambda: errors.extend(
                text.decode(errors="replace").rstrip() for text in process.stderr or ()
            ),
            daemon=True,
        )
        aside.start()
        rest = b""
        for text in process.stdout:
            if not text.endswith(b"\n"):
                rest = text
                break
            stream.begin += len(text)
            stream.failures = 0
            self.say(text.decode(errors="replace").rstrip("\n"), stream.name)
        code = process.wait()
        aside.join(timeout=5)
        if code != UNREACHABLE and rest:
            stream.begin += len(rest)
            self.say(rest.decode(errors="replace"), stream.name)
        if code:
            for text in errors[-5:]:
                self.say(text, f"{stream.name} gcloud")
        stream.code = code if code >= 0 else UNREACHABLE
        stream.events.put(stream)

    def _stop(self, streams: list[Stream]) -> None:
        for stream in streams:
            gcloud.run(
                self.words.worker(stream.node, stream.worker, "stop", f"--grace={GRACE:.0f}")
            )

    # --- looking ------------------------------------------------------------------------------------------------

    def _look(self) -> gcloud.Seen:
        """The machines now; a network that is away for some minutes is waited for.

        Raises:
          GcloudError: gcloud fails again and again.
        """
        for patience in (*(self.poll for _ in range(20)), None):
            try:
                return gcloud.look(self.words.request)
            except GcloudError as error:
                if patience is None or "not installed" in str(error):
                    raise
                self._once(f"gcloud does not answer: {error}")
                time.sleep(patience)
        raise AssertionError("unreachable")

    def _once(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self.say(text)


def main(argv: list[str] | None = None) -> int:
    """Reads the command line, checks the recipe and launches it."""
    from configs.load import Flag, command, user_errors
    from configs.recipe import TrainRecipe

    flags = [
        Flag("name", "of the queued resource and the TPU VM", "NAME"),
        Flag("zone", "where, such as us-west4-a", "ZONE"),
        Flag("type", "accelerator type, such as v5litepod-16, v6e-16, v5p-32", "TYPE"),
        Flag("slices", "how many of them, joined by the data-centre network; default 1", "N"),
        Flag("project", "Google Cloud project; default: gcloud's", "PROJECT"),
        Flag("spot", "spot machines: cheaper, and taken away at any time"),
        Flag("direct", "a TPU VM at once or not at all, in place of a queued resource"),
        Flag("runtime", "TPU software version; default: the one for JAX on that type", "VERSION"),
        Flag("network", "default: the project's", "NETWORK"),
        Flag("subnetwork", "default: the network's", "SUBNETWORK"),
        Flag(
            "service-account", "whose rights the workers have; default: Compute Engine's", "EMAIL"
        ),
        Flag("internal-ip", "workers without public addresses, reached inside the network"),
        Flag("commit", "the code to run; default: the working tree", "COMMIT"),
        Flag("env", "variables to hand on to the workers, by name", "NAME,NAME"),
        Flag("command", "what to run in place of train.py RECIPE ...", "'WORDS'"),
        Flag("keep", "do not delete the machines at the end"),
        Flag("poll", "seconds between looks at the machines; default 30", "SECONDS"),
    ]
    arguments = sys.argv[1:] if argv is None else argv
    recipe, options = command(TrainRecipe, arguments, __doc__ or "", flags=flags)
    with user_errors():
        words, poll = _read_options(recipe, options, arguments)
        if options.dry_run:
            print("\n".join(dry_run(words)))
            return 0
        words.folder.mkdir(parents=True, exist_ok=True)
        launcher = Launcher(words, poll, bool(options.flags["keep"]))
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        try:
            return launcher.run()
        except GcloudError as error:
            raise ValueError(
                f"{error}\nWhat was made may still be there: {gcloud.shown(gcloud.delete(words.request))}"
            ) from error


def _read_options(recipe: Any, options: Any, arguments: list[str]) -> tuple[Words, float]:
    """The launch that the command line asks for.

    Raises:
      ValueError: something is missing or does not fit together.
    """
    flags = options.flags
    missing = [f"--{name}" for name in ("name", "zone", "type") if not flags[name]]
    if missing:
        raise ValueError(f"{', '.join(missing)}: needed; see --help")
    try:
        slices, poll = int(flags["slices"] or 1), float(flags["poll"] or 30)
    except ValueError as error:
        raise ValueError(f"--slices, --poll: {error}") from error
    request = Request(
        flags["name"],
        flags["zone"],
        flags["type"],
        slices=slices,
        project=flags["project"],
        spot=bool(flags["spot"]),
        queued=not flags["direct"],
        runtime=flags["runtime"],
        network=flags["network"],
        subnetwork=flags["subnetwork"],
        service_account=flags["service-account"],
        internal=bool(flags["internal-ip"]),
    )
    # An absolute path may be a file system that all of them mount; the run checks it at its start.
    relative = "://" not in recipe.run_dir and not Path(recipe.run_dir).is_absolute()
    if relative and request.hosts * request.slices > 1:
        raise ValueError(
            f"run_dir: {recipe.run_dir} lies on each worker's own disk; {request.type} x {slices} has "
            f"{request.hosts * slices} hosts, which need one place for all, such as gs://BUCKET/RUN"
        )
    env = tuple(filter(None, (flags["env"] or "").split(",")))
    absent = [name for name in env if name not in os.environ]
    if absent:
        raise ValueError(f"--env: {', '.join(absent)} not set here")
    overrides = [word for word in arguments if "=" in word and not word.startswith("-")]
    path = str(options.recipe_path)
    if flags["command"]:
        line = tuple(shlex.split(flags["command"]))
    else:
        root = Path(__file__).resolve().parent.parent
        if not Path(path).resolve().is_relative_to(root):
            raise ValueError(f"{path}: lies outside of {root}, and only that is copied")
        inside = Path(path).resolve().relative_to(root)
        line = ("train.py", str(inside), *[word for word in overrides if word != path])
    job = Job(line, recipe.run_dir, flags["commit"], env)
    launches = Path(os.environ.get("LECTERN_LAUNCHES", "runs/launch"))
    return Words(request, job, launches / request.name), poll


if __name__ == "__main__":
    sys.exit(main())
