"""System prompts that conversations begin with: published ones by name, or a recipe's own words."""

import functools
from pathlib import Path


@functools.cache
def published() -> dict[str, str]:
    """Prompts by name, from `system_prompts.yaml`."""
    import yaml

    path = Path(__file__).parent / "system_prompts.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def system_prompt(name: str) -> str:
    """The published prompt of that name, or the words themselves.

    Raises:
        ValueError: one word that is no name of a prompt.
    """
    if name in published():
        return published()[name]
    if len(name.split()) < 2:
        raise ValueError(
            f"comprehension.system: {name!r} is neither the name of a prompt "
            f"({', '.join(published())}) nor a sentence; write the prompt out"
        )
    return name
