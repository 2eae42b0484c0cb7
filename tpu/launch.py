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

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from tpu import gcloud
from tpu.commands import Commands, Job, dry_run
from tpu.gcloud import GcloudError
from tpu.launcher import Launcher
from tpu.machines import Machines
from tpu.output import Log
from tpu.request import Request


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
        commands, poll = _read_options(recipe, options, arguments)
        if options.dry_run:
            print("\n".join(dry_run(commands)))
            return 0
        commands.folder.mkdir(parents=True, exist_ok=True)
        log = Log(commands.folder)
        machines = Machines(commands, log, poll)
        launcher = Launcher(commands, machines, log, keep=bool(options.flags["keep"]))
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        try:
            return launcher.run()
        except GcloudError as error:
            delete = gcloud.shown(gcloud.delete(commands.request))
            raise ValueError(f"{error}\nWhat was made may still be there: {delete}") from error


def _read_options(recipe: Any, options: Any, arguments: list[str]) -> tuple[Commands, float]:
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
    return Commands(request, job, launches / request.name), poll


if __name__ == "__main__":
    sys.exit(main())
