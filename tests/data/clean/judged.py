"""Corpora of documents through survey, decision and verdicts, in one call."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.clean import verdicts as verdicts_lib
from data.clean.config import CleanConfig
from data.clean.decontaminate import TestItems
from data.clean.record import SurveyFile
from data.clean.stages import Cleaned
from data.clean.survey import Surveyor
from data.document import Document, Turn, document_id
from data.tally import Tally


@dataclass(frozen=True)
class Judged:
    """What is left of each corpus, and what was said of the rest."""

    kept: dict[str, list[Document]]
    tallies: dict[str, Tally]
    verdicts: verdicts_lib.Verdicts

    @property
    def ids(self) -> set[str]:
        return {document.id for documents in self.kept.values() for document in documents}

    def reasons(self, corpus: str) -> dict[str, str]:
        """By id: why a document went."""
        lines = map(json.loads, self.tallies[corpus].set_aside)
        return {line["place"].removeprefix("document "): line["reason"] for line in lines}


def text(content: str, group: str | None = None) -> Document:
    turns = (Turn("text", content),)
    return Document(document_id(turns), turns, "c", {} if group is None else {"group": group})


def conversation(*contents: str, group: str | None = None) -> Document:
    roles = ["user", "assistant"] * len(contents)
    turns = tuple(Turn(role, content) for role, content in zip(roles, contents, strict=False))
    return Document(document_id(turns), turns, "c", {} if group is None else {"group": group})


def judge(
    corpora: Mapping[str, Sequence[Document]],
    clean: Mapping[str, Any] | None = None,
    *,
    fraction: float = 0.0,
    items: TestItems | None = None,
    files: int = 1,
    dropped: frozenset[str] = frozenset(),
    order: Sequence[str] | None = None,
) -> Judged:
    """Surveys the documents (dealt to some files), decides, and takes away what is to go."""
    config = CleanConfig.model_validate(dict(clean or {}))
    surveyor = Surveyor.of(config, corpora=list(order or corpora), fraction=fraction)
    if items is not None:
        surveyor = Surveyor(surveyor.ranks, fraction, surveyor.copies, surveyor.split, items)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"survey-{i}" for i in range(files)]
        written = [SurveyFile(path) for path in paths]
        number = 0
        for name, documents in corpora.items():
            for document in documents:
                gone = document.id in dropped
                cleaned = Cleaned(None, "quality", "bad") if gone else Cleaned(document)
                written[number % files].add(surveyor.survey(document, cleaned, name))
                number += 1
        for file in written:
            file.close()
        verdicts_lib.decide(paths, surveyor, config, Path(folder) / "out")
        verdicts = verdicts_lib.Verdicts(Path(folder) / "out")
        tallies = {name: Tally(name) for name in corpora}
        kept = {}
        for name, documents in corpora.items():
            trained = [
                document
                for document in sorted(documents, key=lambda d: d.id)
                if document.id not in dropped and not verdicts.is_held_out(document)
            ]
            kept[name] = list(verdicts.stage(name, tallies[name])(trained))
    return Judged(kept, tallies, verdicts)
