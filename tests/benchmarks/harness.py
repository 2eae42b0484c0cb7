"""Our class in lm-evaluation-harness against `--model hf` on the exported folder.

    LECTERN_REALDATA=... python -m tests.benchmarks.harness FOLDER [--ours RUN] [--limit 100]

Both read the same items of ARC, WinoGrande, BoolQ, PIQA and GSM8K, in definitions of their own
(`tests/evaluation/local_tasks`). Metrics must be equal but for items that the last digits decide:
those whose two best options are closer than 1e-4 in theirs, and texts that part where the two
likeliest tokens are closer than 1e-3 in logit. Such items are listed.
"""

import argparse
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOCAL = Path(__file__).resolve().parents[1] / "evaluation" / "local_tasks"
TASKS = ("arc_challenge", "winogrande", "boolq", "piqa", "gsm8k")
OPTION_MARGIN, TOKEN_MARGIN = 1e-4, 1e-3


@dataclass
class Compared:
    """One task: the figures of both, and where they part."""

    task: str
    ours: dict[str, float]
    theirs: dict[str, float]
    items: int
    max_difference: float = 0.0  # of a log-probability, in nats
    close: list[str] = field(default_factory=list)  # items that the last digits decide
    wrong: list[str] = field(default_factory=list)  # items that differ without that excuse

    @property
    def same(self) -> bool:
        """Equal metrics, or only items apart that the last digits decide."""
        return not self.wrong and (self.ours == self.theirs or bool(self.close))


def compare(
    ours: Any, theirs: Any, tasks: list[str], limit: int, folder: Path = LOCAL
) -> list[Compared]:
    """Runs both on the same tasks; `theirs` is lm-eval's HFLM."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    def run(lm: Any) -> Any:
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        found = simple_evaluate(
            model=lm, tasks=tasks, limit=limit, task_manager=manager, bootstrap_iters=0
        )
        assert found is not None
        return found

    our_results, their_results = run(ours), run(theirs)
    return [_compared(task, our_results, their_results, theirs) for task in tasks]


def _compared(task: str, ours: Any, theirs: Any, hf: Any) -> Compared:
    def figures(results: Any) -> dict[str, float]:
        found = results["results"][task]
        return {k: v for k, v in found.items() if "," in k and "stderr" not in k}

    samples = [_by_document(results["samples"][task]) for results in (ours, theirs)]
    compared = Compared(task, figures(ours), figures(theirs), len(samples[0]))
    for name, our in samples[0].items():
        their = samples[1][name]
        assert our["arguments"] == their["arguments"], f"{task} {name}: another prompt"
        if isinstance(our["resps"][0][0], str):
            _compare_texts(compared, name, our, their, hf)
        else:
            _compare_options(compared, name, our, their)
    return compared


def _by_document(samples: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {f"item {s['doc_id']} ({s['filter']})": s for s in samples}


def _compare_options(compared: Compared, name: str, our: Any, their: Any) -> None:
    scores = [[float(resp[0][0]) for resp in sample["resps"]] for sample in (our, their)]
    greedy = [[resp[0][1] for resp in sample["resps"]] for sample in (our, their)]
    apart = max(abs(a - b) for a, b in zip(*scores, strict=True))
    compared.max_difference = max(compared.max_difference, apart)
    differs = [m for m in their["metrics"] if our[m] != their[m]]
    if not differs and greedy[0] == greedy[1]:
        return
    lengths = [max(1, len(arguments[1])) for arguments in their["arguments"]]
    per_length = sorted(s / n for s, n in zip(scores[1], lengths, strict=True))
    plain = sorted(scores[1])
    margins = {"acc": plain[-1] - plain[-2], "acc_norm": per_length[-1] - per_length[-2]}
    told = f"{name}: {', '.join(f'{m} margin {margins[m]:.1e}' for m in differs) or 'greedy'}"
    excused = differs and all(margins[m] < OPTION_MARGIN for m in differs)
    (compared.close if excused else compared.wrong).append(told)


def _compare_texts(compared: Compared, name: str, our: Any, their: Any, hf: Any) -> None:
    texts = [sample["resps"][0][0] for sample in (our, their)]
    if texts[0] == texts[1]:
        if any(our[m] != their[m] for m in their["metrics"]):
            compared.wrong.append(f"{name}: the same text, another figure")
        return
    margin = _margin_where_they_part(their["arguments"][0], texts[0], hf)
    told = f"{name}: margin {margin:.1e}: {texts[0]!r} / {texts[1]!r}"
    (compared.close if margin < TOKEN_MARGIN else compared.wrong).append(told)


def _margin_where_they_part(arguments: Any, ours: str, hf: Any) -> float:
    """Difference of the two largest logits at the first of their tokens that our text does not have."""
    import torch

    prompt = torch.tensor([hf.tok_encode(arguments[0])])
    out = hf.model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=arguments[1]["max_gen_toks"],
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
        pad_token_id=hf.tokenizer.pad_token_id,
    )
    written = out.sequences[0, prompt.shape[1] :]
    for i, scores in enumerate(out.scores):
        if not ours.startswith(hf.tok_decode(written[: i + 1].tolist())):
            top = scores[0].topk(2).values
            return float(top[0] - top[1])
    return float("inf")


def shown(compared: list[Compared]) -> str:
    """A Markdown table, and the items that the last digits decide or nothing explains."""
    lines = [
        "| task | metric | ours | hf | largest difference of a log-probability |",
        "|---|---|---|---|---|",
    ]
    for c in compared:
        for metric in c.theirs:
            told = f"{c.max_difference:.1e}" if c.max_difference else "texts"
            lines.append(
                f"| {c.task} | {metric} | {c.ours[metric]:.4f} | {c.theirs[metric]:.4f} | {told} |"
            )
    for c in compared:
        lines += [f"{c.task}: close: {item}" for item in c.close]
        lines += [f"{c.task}: WRONG: {item}" for item in c.wrong]
    return "\n".join(lines)


def main() -> int:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", help="an exported folder")
    parser.add_argument("--ours", help="what our class opens; default: the folder")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    options = parser.parse_args()
    import torch
    from lm_eval.models.huggingface import HFLM

    from evaluation.harness_model import lm_class

    torch.set_num_threads(1)  # its threads wait for each other on a busy machine
    ours = lm_class()(pretrained=options.ours or options.folder, dtype="float32")
    theirs = HFLM(pretrained=options.folder, dtype="float32", device="cpu", batch_size=16)
    compared = compare(ours, theirs, [f"local_{t}" for t in options.tasks], options.limit)
    print(shown(compared))
    return 0 if all(c.same for c in compared) else 1


if __name__ == "__main__":
    sys.exit(main())
