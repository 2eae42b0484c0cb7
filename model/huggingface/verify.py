"""Does the written folder say what the checkpoint says? Asked of the files, before anybody gets them.

Three questions, each answered by reading the folder back:

- weights: is every tensor bit for bit the checkpoint's, in the written dtype?
- logits: does another implementation (transformers, where torch is installed; else our own network on
  the folder as loaded) give the same numbers on domain text, and the same greedy continuation? Both
  sides get the weights as written and compute in float32, so rounding to bfloat16 hides nothing.
- tokenizer: does transformers' tokenizer give the training tokenizer's ids on real documents?

Memory stays within `max_bytes`: models whose float32 weights are larger are run one layer at a time, and
their greedy continuation is left out, which the report says.
"""

import contextlib
import functools
import importlib.util
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from data.tokenizer import Tokenizer
from model.config import LlamaConfig
from model.huggingface.config import read_config
from model.huggingface.load import open_store
from model.huggingface.names import Tensor, tensors
from model.huggingface.same_ids import HARD_TEXTS, Material, compare_tokenizers
from model.huggingface.save import WORDS, DType, Read, as_written
from model.huggingface.streamed import our_logits, their_logits

TOLERANCE = 2e-4  # of a float32 logit, for logits up to _SCALE; in proportion above
MAX_KL = 1e-6

_SCALE = 8.0
_ROWS, _LENGTH = 4, 128  # tokens whose logits are compared
_ROWS_STREAMED = 2
_PROMPT, _NEW = 32, 24
_SHOWN = 5  # differing tensors named in a problem


def verify(
    folder: str,
    read: Read,
    config: LlamaConfig,
    *,
    dtype: DType,
    tokenizer: Tokenizer | None,
    add_bos: bool,
    material: Material,
    max_bytes: float,
) -> dict[str, Any]:
    """Compare a local folder with the checkpoint it was written from.

    Args:
        folder: written by export.
        read: one layer of the checkpoint, float32.
        config: of the checkpoint.
        dtype: the folder's.
        tokenizer: the run's, None where it has none.
        add_bos: whether a text begins with BOS.
        material: texts and conversations.
        max_bytes: of host memory for weights.

    Returns:
        The report that is kept as parity.json; `passed` says whether all agreed, `problems` what did not.
    """
    begun = time.monotonic()
    problems: list[str] = []
    found = read_config(folder)
    kept = config.model_copy(update={"vocab_multiple": 1, "init_std": found.init_std})
    if found != kept:
        differing = [n for n, value in kept.model_dump().items() if found.model_dump()[n] != value]
        problems.append(f"config.json: reads back with other {', '.join(differing)}")
    num_bytes = 4 * sum(math.prod(t.shape) for t in tensors(config))
    written = num_bytes * (2 if dtype == "bf16" else 4) // 4
    whole = num_bytes + written <= max_bytes  # the judge's float32 weights beside ours as written
    rows = _ROWS if whole else _ROWS_STREAMED
    tokens = _tokens(config, tokenizer, material, add_bos, rows)
    with contextlib.ExitStack() as stack:
        store = open_store(epath.Path(folder), stack)
        weights, reference = _reference(read, store, config, dtype, tokens, keep=whole)
        logits, greedy, judge = _judge(folder, store, config, tokens, reference, whole)
    if weights["different"]:
        problems.append(
            f"weights: {', '.join(weights['different'][:_SHOWN])} differ from the checkpoint"
        )
    problems += logits.pop("problems") + greedy.pop("problems", [])
    words: dict[str, str | None] = {"prompt": None, "continuation": None}
    if tokenizer is not None and greedy.get("ids"):
        words["prompt"] = tokenizer.decode(tokens[0, : _prompt_length(tokens)])
        words["continuation"] = tokenizer.decode(greedy["ids"])
    ids = None
    if tokenizer is not None:
        ids = compare_tokenizers(tokenizer, folder, material, add_bos=add_bos)
        problems += ids.pop("problems")
    return {
        "passed": not problems,
        "problems": problems,
        "against": judge,
        "dtype": WORDS[dtype],
        "compared_in": "float32",
        "how": "the whole model"
        if whole
        else f"one layer at a time, in at most {max_bytes / 1e9:.3g} GB",
        "weights": weights,
        "logits": logits,
        "greedy": greedy | words,
        "tokenizer": ids,
        "seconds": round(time.monotonic() - begun, 1),
    }


def _reference(
    read: Read, store: Any, config: LlamaConfig, dtype: DType, tokens: np.ndarray, *, keep: bool
) -> tuple[dict[str, Any], Callable[[np.ndarray], np.ndarray]]:
    """The comparison of every tensor, and a function that gives the checkpoint's logits.

    The checkpoint is read once: what is compared is also what computes. With `keep` the weights stay in memory, and the
    function takes any tokens; without, only those given.
    """
    different: list[str] = []
    held: dict[str, np.ndarray] = {}
    seen = set()

    def compared(tensor: Tensor) -> np.ndarray:
        if tensor.name in held:
            return held[tensor.name]
        written = as_written(tensor, read(tensor.key, tensor.layer), dtype)
        seen.add(tensor.name)
        if not _is_stored(store, tensor, written):
            different.append(tensor.name)
        if keep:
            held[tensor.name] = written
        return written

    logits = our_logits(config, compared, tokens)
    assert seen == {t.name for t in tensors(config)}
    report = {
        "tensors": len(seen),
        "bytes": sum(math.prod(t.shape) for t in tensors(config)) * (2 if dtype == "bf16" else 4),
        "bitwise_equal": not different,
        "different": different,
    }

    def reference(asked: np.ndarray) -> np.ndarray:
        return logits if asked is tokens else our_logits(config, compared, asked)

    return report, reference


def _is_stored(store: Any, tensor: Tensor, written: np.ndarray) -> bool:
    """Bit for bit, a few rows at a time."""
    if store.entries.get(tensor.name, (None,))[0] != tensor.shape:
        return False
    rows = max(1, 2**22 // max(1, math.prod(tensor.shape[1:])))
    for start in range(0, tensor.shape[0], rows):
        stop = min(start + rows, tensor.shape[0])
        box = (slice(start, stop), *(slice(0, n) for n in tensor.shape[1:]))
        part = np.ascontiguousarray(store.read(tensor.name, box))
        mine = written[start:stop]
        if part.dtype != mine.dtype or not np.array_equal(part.view(np.uint8), mine.view(np.uint8)):
            return False
    return True


def _judge(
    folder: str,
    store: Any,
    config: LlamaConfig,
    tokens: np.ndarray,
    reference: Callable[[np.ndarray], np.ndarray],
    whole: bool,
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Logits and greedy continuation of the folder against the reference's."""
    ours = reference(tokens)
    if importlib.util.find_spec("torch") is None:
        judge = "our own network on the folder as loaded (torch is not installed)"

        def stored(tensor: Tensor) -> np.ndarray:
            return store.read(tensor.name, tuple(slice(0, n) for n in tensor.shape))

        cached = functools.cache(stored) if whole else stored
        other = our_logits(config, cached, tokens)
        generate = functools.partial(_greedy, functools.partial(our_logits, config, cached))
    else:
        import transformers

        judge = f"transformers {transformers.__version__}"
        if whole:
            other, generate = _transformers(folder, tokens)
        else:
            other, generate = their_logits(Path(folder), tokens), _no_greedy
    report, tolerance = _compare_logits(ours, other)
    if not whole:
        return report, {"left_out": "the model is checked one layer at a time"}, judge
    length = _prompt_length(tokens)
    prompt, new = tokens[:1, :length], min(_NEW, config.max_seq_len - length)
    expected = _greedy(reference, prompt, new)
    greedy = _compare_greedy(reference, prompt, expected, generate(prompt, new), tolerance)
    return report, greedy, judge


def _transformers(folder: str, tokens: np.ndarray) -> tuple[np.ndarray, Callable]:
    """Logits, and a greedy generation as a user would run it: with a cache and the folder's settings."""
    import torch
    import transformers

    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if bars:
        transformers.utils.logging.enable_progress_bar()

    def generate(prompt: np.ndarray, new: int) -> list[int]:
        ids = torch.tensor(prompt).long()
        with torch.no_grad():
            out = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new
            )
        return out[0, ids.shape[1] :].tolist()

    with torch.no_grad():
        return model(torch.tensor(tokens).long()).logits.float().numpy(), generate


def _no_greedy(prompt: np.ndarray, new: int) -> list[int]:
    raise AssertionError("the whole model is not in memory")


def _greedy(logits: Callable[[np.ndarray], np.ndarray], prompt: np.ndarray, new: int) -> list[int]:
    row = np.pad(
        prompt, ((0, 0), (0, new))
    )  # one shape, one compilation: what comes later is not seen
    for at in range(prompt.shape[1], row.shape[1]):
        row[0, at] = logits(row)[0, at - 1].argmax()
    return row[0, prompt.shape[1] :].tolist()


def _compare_logits(ours: np.ndarray, other: np.ndarray) -> tuple[dict[str, Any], float]:
    largest = float(max(ours.max(), -ours.min()))
    tolerance = TOLERANCE * max(1.0, largest / _SCALE)
    difference = math.inf
    if ours.shape == other.shape:
        difference = max(float(np.abs(a - b).max()) for a, b in zip(ours, other, strict=True))
    report: dict[str, Any] = {
        "tokens": int(np.prod(ours.shape[:-1])),
        "max_abs_difference": difference,
        "tolerance": tolerance,
        "largest_logit": largest,
    }
    if not math.isfinite(difference):
        problem = f"logits: shapes {ours.shape} and {other.shape}, or not finite"
        return report | {"problems": [problem]}, tolerance
    # Row by row: the whole in float64, several times over, would be more than the rest of the memory.
    kl, margins = [], []
    for mine, theirs in zip(
        ours.reshape(-1, ours.shape[-1]), other.reshape(-1, ours.shape[-1]), strict=True
    ):
        p, q = _log_softmax(mine), _log_softmax(theirs)
        kl.append(float((np.exp(p) * (p - q)).sum()))
        second, first = np.partition(mine, -2)[-2:]
        margins.append(float(first - second))
    agree = (ours.argmax(-1) == other.argmax(-1)).reshape(-1)
    clear = np.array(margins) > 2 * tolerance
    report |= {"mean_kl": float(np.mean(kl)), "top1_agreement": float(agree.mean())}
    problems = []
    if difference > tolerance:
        problems.append(f"logits: differ by up to {difference:.3g}, tolerance {tolerance:.3g}")
    if report["mean_kl"] > MAX_KL:
        problems.append(f"logits: KL divergence {report['mean_kl']:.3g}, tolerance {MAX_KL:g}")
    if not agree[clear].all():
        problems.append(f"logits: another most likely token at {int((~agree[clear]).sum())} places")
    return report | {"problems": problems}, tolerance


def _compare_greedy(
    reference: Callable[[np.ndarray], np.ndarray],
    prompt: np.ndarray,
    expected: list[int],
    got: list[int],
    tolerance: float,
) -> dict[str, Any]:
    """Equal up to where the other side stopped at an end token, or to a choice too close to call."""
    equal = [a == b for a, b in zip(expected, got, strict=False)]
    report: dict[str, Any] = {
        "ids": expected,
        "tokens": len(got),
        "equal": all(equal),
        "problems": [],
    }
    if all(equal) and got:
        return report
    at = equal.index(False) if False in equal else 0
    before = np.concatenate([prompt[0], expected[:at]]).astype(np.int32)[None]
    best, second = np.sort(reference(before)[0, -1])[:-3:-1]
    report["parted_at"] = at
    if best - second > 2 * tolerance:
        report["problems"] = [f"greedy: another token at place {at} of {len(expected)}"]
    return report


def _tokens(
    config: LlamaConfig,
    tokenizer: Tokenizer | None,
    material: Material,
    add_bos: bool,
    num_rows: int,
) -> np.ndarray:
    """Rows of domain text, int32 `[B, T]`; of the vocabulary in turn where there is no tokenizer."""
    length = min(_LENGTH, config.max_seq_len)
    if tokenizer is None:
        return (
            np.arange(num_rows * length, dtype=np.int32).reshape(num_rows, length)
            % config.vocab_size
        )
    begin = [tokenizer.bos_id] if add_bos else []
    body = length - len(begin)
    ids: list[int] = []
    texts = [t for t in material.texts if t.strip()] or [t for t in HARD_TEXTS if t.strip()]
    while len(ids) < num_rows * body:
        for text in texts:
            ids += tokenizer.encode(text[:20_000]).tolist()
            if len(ids) >= num_rows * body:
                break
    rows = [begin + ids[i * body : (i + 1) * body] for i in range(num_rows)]
    return np.array(rows, np.int32)


def _prompt_length(tokens: np.ndarray) -> int:
    return min(_PROMPT, tokens.shape[1] // 2)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))
