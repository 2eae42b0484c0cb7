"""Tests ways to teach a domain on a generated one, whose facts are known, with a small model.

RECIPE is a YAML of evaluation.testbed.config; without it, the small size for two CPU cores
(evaluation/testbed/small.yaml; large.yaml is for a GPU). Writes figures.json, table.md and
figures.png into out_dir. A comparison that was stopped goes on when the same command is given again.
"""

import json
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    from configs.load import command, user_errors
    from evaluation.testbed.compare import cells_of, compare
    from evaluation.testbed.config import TestbedConfig
    from evaluation.testbed.figures import lines_of, to_json
    from evaluation.testbed.report import picture, table

    words = list(sys.argv[1:] if argv is None else argv)
    plain = [word for word in words if not word.startswith("-") and "=" not in word]
    if not plain and not {"-h", "--help", "--schema"} & set(words):
        words.insert(0, str(Path(__file__).resolve().parent / "small.yaml"))
    config, options = command(TestbedConfig, words, __doc__ or "")
    with user_errors():
        cells = cells_of(config)
        if options.dry_run:
            total = config.run.tokens * len(cells)
            print(f"{len(cells)} runs of {config.run.tokens:,} tokens, {total:,} in all:")
            print(*(f"  {cell.name}" for cell in cells), sep="\n")
            return 0
        lines = lines_of(config, compare(config))
        out = Path(config.out_dir)
        (out / "figures.json").write_text(json.dumps(to_json(config, lines), indent=1) + "\n")
        (out / "table.md").write_text(table(config, lines), encoding="utf-8")
        picture(config, lines, out / "figures.png")
        print(table(config, lines))
        spent = sum(line.cpu_seconds for line in lines)
        print(f"{len(cells)} runs, {spent / 60:.1f} minutes of one processor; {out}/figures.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
