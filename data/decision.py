"""What is decided over all documents: which are held out, and which are copies of others.

Where documents are not compared with each other, the held-out split follows from their groups and
nothing else has to be decided.
"""

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from etils import epath

from data import rows as rows_lib
from data.clean import verdicts
from data.cleaning import CleanTask, compared, make_surveyor
from data.document import Document
from data.job import Job
from data.split import Split
from data.tally import Stage, Tally


@dataclass(frozen=True)
class Decision:
    """Says of every document what becomes of it; the same in every process.

    Attributes:
        fraction: share of groups held out.
        folder: where the verdicts about single documents are; None where there are none.
    """

    fraction: float
    folder: str | None = None

    def is_held_out(self, document: Document) -> bool:
        """Whether a document is kept from training."""
        if self.folder is None:
            return Split(self.fraction).is_held_out(document)
        return _verdicts(self.folder).is_held_out(document)

    def stage(self, name: str, tally: Tally) -> Stage:
        """Takes away what is a copy of another document or of a test item."""
        if self.folder is None:
            return lambda documents: documents
        return _verdicts(self.folder).stage(name, tally)

    def contamination(self, name: str) -> Mapping[str, Any]:
        """What was found of the tests in a corpus, for its card."""
        return _verdicts(self.folder).contamination(name) if self.folder else {}


def decide(job: Job, tasks: list[CleanTask]) -> Decision:
    """Decides over all that was noted of the documents when they were cleaned."""
    fraction = job.config.heldout.fraction
    if not tasks:
        return Decision(fraction)
    out = job.spool / f"verdicts-{job.decision_digest()[:16]}"
    done = job.spool / f"{out.name}.json"
    if not done.exists():
        job.executor.decide(
            [task.notes for task in tasks], make_surveyor(job), compared(job.config), str(out)
        )
        rows_lib.write_json(done, {})
    return Decision(fraction, str(out))


@functools.lru_cache(1)
def _verdicts(folder: str) -> "verdicts.Verdicts":
    if not rows_lib.is_remote(folder):
        return verdicts.Verdicts(folder)
    local = tempfile.mkdtemp(prefix="lectern-verdicts-")
    for file in epath.Path(folder).iterdir():
        file.copy(epath.Path(local) / file.name, overwrite=True)
    return verdicts.Verdicts(local)
