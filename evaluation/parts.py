"""The measured parts of a report, one file each: what is there is not measured again.

    parts = Parts(out, "adapted", of={"model": ...})
    heldout = parts.get("heldout", {"max_rows": 256}, lambda: measure(...))

A part says what it depends on. A file of other settings is an error that shows the difference, so a
report never mixes two sets of weights; a file appears whole or not at all.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath


class Parts:
    """The parts of one model in a report's folder.

    Args:
        out: the report's folder.
        label: the model's place in it.
        of: what all its parts depend on: the model.
    """

    def __init__(self, out: str, label: str, *, of: Mapping[str, Any]) -> None:
        self._folder = epath.Path(out) / label
        self._of = dict(of)

    def get(
        self, name: str, settings: Mapping[str, Any], measure: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The part of a name, measured where it is not there.

        Args:
            name: of the part; may name a folder (`tasks/mqp`).
            settings: what it depends on besides the model, as JSON.
            measure: gives it, as JSON.

        Raises:
            ValueError: the file is of other settings, or no part at all.
        """
        found = self.kept(name, settings)
        if found is not None:
            return found
        value = json.loads(json.dumps(measure()))
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.unfinished")
        whole = {"settings": self._settings(settings), "value": value}
        fresh.write_text(json.dumps(whole, ensure_ascii=False) + "\n")
        fresh.replace(path)
        return value

    def kept(self, name: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """The part, if it is there."""
        path = self._path(name)
        if not path.exists():
            return None
        try:
            part = json.loads(path.read_text())
            before, value = part["settings"], part["value"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: not a part of a report ({error}); delete it, and it is measured again"
            ) from error
        asked = self._settings(settings)
        other = [
            f"{key} {before.get(key)!r}, now {asked.get(key)!r}"
            for key in sorted({*before, *asked})
            if before.get(key) != asked.get(key)
        ]
        if other:
            raise ValueError(
                f"--out: {path} was measured with {'; '.join(other)}; name another folder, or delete the "
                "file to have it measured again"
            )
        return value

    def _settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return json.loads(json.dumps({**self._of, **settings}))

    def _path(self, name: str) -> epath.Path:
        return self._folder / f"{name}.json"
