"""Prints the JSON schema of a kind of recipe, for editors: `python -m configs.schema train|prepare`."""

import json
import sys

from configs.recipe import PrepareRecipe, TrainRecipe

KINDS = {"train": TrainRecipe, "prepare": PrepareRecipe}


def main(argv: list[str]) -> int:
    """Prints the schema of the one kind named on the command line."""
    if len(argv) != 1 or argv[0] not in KINDS:
        print(f"error: name one of {', '.join(KINDS)}", file=sys.stderr)
        return 1
    print(json.dumps(KINDS[argv[0]].model_json_schema(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
