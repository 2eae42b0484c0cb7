"""The forgetting alarm of a run: general bits per byte against step 0 of the same run.

* What is compared is the same rows of held-out text under the weights of step 0 and of now. Their bytes are the same, so
  the change in bits per byte is the ratio of two sums of nats, and resampling rows draws both sums
  at once (a paired bootstrap): how hard a row is falls out, and a few hundred rows tell 1 % from 3 %.
* A stream raises the alarm when the whole 95 % interval of its change lies above the limit, not when
  the change does: a noisy measurement is no alarm.
* Loss rises early when a learning rate is warmed up again, and comes back. Up to `after_steps` a rise
  is written down and is no alarm.
* The row sums of step 0 lie in the run directory (`forgetting.json`), so a restart compares with the
  same weights. What was last found lies there too: a run that the alarm stopped is not started again
  by the same command.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from etils import epath

from evaluation.bootstrap import FEW
from evaluation.config import ForgettingConfig
from evaluation.scoring import HeldOut

NAME = "forgetting.json"
_DRAWS = 2000


class ForgettingError(Exception):
    """A run was stopped because it forgets; its state is saved."""


@dataclass(frozen=True)
class Finding:
    """How a stream's bits per byte changed since step 0.

    Attributes:
        step: when.
        stream: whose.
        change: relative: 0.02 is two percent more bits per byte.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    step: int
    stream: str
    change: float
    low: float
    high: float

    def __str__(self) -> str:
        ends = f"{100 * self.low:+.2f} to {100 * self.high:+.2f}"
        return f"{self.stream} {100 * self.change:+.2f} % ({ends})"


class ForgettingAlarm:
    """Keeps the row sums of step 0 and judges later ones by them. Process 0 alone has one.

    Args:
        run_dir: of the run.
        config: the limit and what to do.
        after_steps: up to this step nothing is an alarm.
        before: another run that this one goes on from; its step 0 is then the one compared with.
    """

    def __init__(
        self,
        run_dir: str,
        config: ForgettingConfig,
        *,
        after_steps: int,
        before: str | None = None,
    ) -> None:
        self._path = epath.Path(run_dir) / NAME
        self._config, self._after = config, after_steps
        places = [self._path, *([epath.Path(before) / NAME] if before else [])]
        self._kept: dict[str, Any] = next((_read(p) for p in places if p.exists()), {})

    def look(
        self, step: int, scores: Mapping[str, HeldOut]
    ) -> tuple[list[Finding], dict[str, str]]:
        """What changed since step 0, stream by stream, and for which streams that cannot be said.

        At step 0 the row sums are kept, and nothing has changed.

        Args:
            step: of the weights that were measured.
            scores: by stream, those to watch.

        Returns:
            The findings, and by stream why there is none.
        """
        if step == 0:
            rows = {
                name: {"nats": score.row_nats.tolist(), "bytes": score.row_bytes.tolist()}
                for name, score in scores.items()
            }
            self._write({"streams": rows})
            return [], {}
        findings, silent = [], {}
        for name, score in scores.items():
            kept = self._kept.get("streams", {}).get(name)
            if kept is None:
                silent[name] = "its rows were not measured at step 0 of this run"
            elif kept["bytes"] != score.row_bytes.tolist():
                silent[name] = (
                    "its held-out rows are not those of step 0 (eval.max_rows, or the data)"
                )
            elif (rows := int(np.count_nonzero(score.row_bytes))) < FEW:
                silent[name] = f"{rows} held-out rows are too few for an interval; it takes {FEW}"
            else:
                change = paired_change(score.row_nats, np.array(kept["nats"]))
                findings.append(Finding(step, name, *change))
        self._write(self._kept | {"last": [asdict(finding) for finding in findings]})
        return findings, silent

    def alarms(self, findings: list[Finding]) -> list[Finding]:
        """Those that are above the limit beyond doubt, after the grace."""
        limit = self._config.limit
        return [f for f in findings if f.low > limit and f.step > self._after]

    def standing(self, step: int) -> list[Finding]:
        """The alarms last found, where they were found at this very step."""
        last = [Finding(**finding) for finding in self._kept.get("last", [])]
        return self.alarms([finding for finding in last if finding.step == step])

    def message(self, alarms: list[Finding]) -> str:
        """What to tell the user."""
        listed = ", ".join(map(str, alarms))
        return (
            f"step {alarms[0].step}: the run forgets: held-out bits per byte against its step 0: {listed}; "
            f"eval.forgetting.limit is {100 * self._config.limit:g} %"
        )

    def _write(self, kept: dict[str, Any]) -> None:
        self._kept = kept
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Whole, then in place: the sums of step 0 cannot be measured again.
        fresh = self._path.with_name(NAME + ".new")
        fresh.write_text(json.dumps(kept) + "\n")
        fresh.replace(self._path)


def paired_change(
    now: np.ndarray, before: np.ndarray, *, draws: int = _DRAWS, seed: int = 0
) -> tuple[float, float, float]:
    """sum(now) / sum(before) - 1 with the middle 95 % over rows drawn with replacement.

    Args:
        now: float64[rows], nats of each row.
        before: float64[rows], of the same rows under other weights. Rows without text have 0 in both
            and do not count.
        draws: resamples.
        seed: of the draws.

    Raises:
        ValueError: no row holds text.
    """
    full = before > 0
    now, before = now[full], before[full]
    if not len(before):
        raise ValueError("no held-out row holds text, so there is no change to tell")
    # How often each row is drawn: [draws, rows] counts times sums, so no [draws, rows] of nats.
    counts = np.random.default_rng(seed).multinomial(
        len(before), np.full(len(before), 1 / len(before)), draws
    )
    changes = (counts @ now) / (counts @ before) - 1
    low, high = np.quantile(changes, [0.025, 0.975])
    return float(now.sum() / before.sum() - 1), float(low), float(high)


def _read(path: epath.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path}: not the JSON that a run writes ({error}); delete it, and the alarm is silent until "
            "the run is begun again"
        ) from error
