"""lm-evaluation-harness on our models: its own command line, with all of its options and tasks.

`--model lectern` takes a run directory, a Hugging Face folder or a hub id:

  python -m evaluation.harness run --model lectern --model_args pretrained=MODEL --tasks arc_challenge

`--model_args` may also say step, max_length, add_bos_token, dtype, chat, devices, tensor, slots and
seed (docs/harness.md). Every other model of lm-eval (`--model hf`) is there too, and so are its
commands `ls` and `validate`. Besides lm-eval's tasks there is the group `open_llm_leaderboard`, whose
results `python -m evaluation.leaderboard` reads.

What follows is lm-eval's.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from evaluation.harness_model import NAME, lm_class

GROUPS = Path(__file__).with_name("groups")
_MISSING = "lm-eval is not here; pip install -e '.[eval]' -c constraints.txt"


def main(argv: list[str] | None = None) -> int:
    """The command line: registers our model and our groups, then hands over to lm-eval's own."""
    from configs.load import user_errors

    words = list(sys.argv[1:] if argv is None else argv)
    if words in (["-h"], ["--help"], []):
        print(__doc__)
        words = ["run", "--help"]
    with user_errors():
        register()
        from lm_eval._cli import HarnessCLI
        from lm_eval.utils import setup_logging

        setup_logging()
        cli = HarnessCLI()
        before, sys.argv = sys.argv, ["lm-eval", *words]  # lm-eval's parser reads it from there
        try:
            options = cli.parse_args()
        finally:
            sys.argv = before
        cli.execute(with_groups(options))
    return 0


def register() -> None:
    """Makes `--model lectern` known to lm-eval.

    Raises:
        ValueError: lm-eval is not installed.
    """
    try:
        from lm_eval.api.registry import model_registry
    except ModuleNotFoundError as error:
        raise ValueError(_MISSING) from error
    model_registry.register(NAME)(lm_class())


def with_groups(options: argparse.Namespace) -> argparse.Namespace:
    """The options with our groups' folder beside the user's own `--include_path`.

    lm-eval lets a flag go before its `--config` file, so the file's own is looked up here.
    """
    if hasattr(options, "include_path"):
        own: Any = options.include_path
        file = getattr(options, "config", None)
        if not own and file and Path(file).is_file():
            own = (yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}).get("include_path")
        own = own if isinstance(own, list) else [own] if own else []
        options.include_path = [str(GROUPS), *own]
    return options


if __name__ == "__main__":
    sys.exit(main())
