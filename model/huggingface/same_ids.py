"""Does transformers' tokenizer give the training tokenizer's ids, text by text?"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.chat import ChatConfig, ConversationError, encode_prompt, render
from data.tokenizer import Tokenizer

_SHOWN = 5  # differing texts kept in the report
_ROUNDING = 2.0**-24  # of a float32, relative

HARD_TEXTS = (
    "",
    " ",
    "\n",
    " leading and trailing  ",
    "runs  of   spaces    in     a      line, and\ttabs\t\there",
    "\u2022 a bullet\n  \u2022 indented\n\n\n    - further in\n        * and further\n",
    "A line\n                                    in and of itself",
    "Dose: 0.05 mg/kg (1,250 IU) every 12-24 h; p < 0.001, 95 % CI 1.2\u20133.4",
    "\u03b1-synuclein, \u03b2\u2082-agonist, na\u00efve, Sj\u00f6gren, \u2265 10\u00b3, \u00b5g, \ufb01brosis",
    "\u7cd6\u5c3f\u75c5\u60a3\u8005 1 \u578b\u3002 \U0001f469\u200d\u2695\ufe0f\U0001fa7a",
    "\u2581 and \u2581\u2581 themselves",
    "def f(x):\n    if x:\n        return  x\n",
)


@dataclass(frozen=True)
class Material:
    """What a folder is checked on.

    Attributes:
        texts: domain documents; the first also give the tokens whose logits are compared.
        conversations: lists of turns (`role`, `text`).
        chat: the template that renders them.
    """

    texts: Sequence[str] = ()
    conversations: Sequence[Sequence[Any]] = ()
    chat: ChatConfig = field(default_factory=lambda: ChatConfig(template="plain"))  # pyright: ignore[reportCallIssue]


def compare_tokenizers(
    tokenizer: Tokenizer, folder: str, material: Material, *, add_bos: bool
) -> dict[str, Any]:
    """Ids of the training tokenizer and of the folder's as transformers loads it, text by text.

    Texts that hold the string of a special token are left out: in training they are ordinary text, in transformers
    they are the token. A Unigram model picks the best of all segmentations, in float32 in SentencePiece and float64 in
    transformers; segmentations that tie within float32's rounding are counted as ties and accepted.
    """
    # Without torch transformers would say at import that it has no models; none is wanted here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.model_max_length = int(1e30)  # a document may be longer than a row
    special = [s for s in tokenizer.special_ids if s]
    tie = _tie_test(folder)
    result: dict[str, Any] = {"documents": 0, "conversations": 0, "tokens": 0, "different": 0}
    result |= {"ties": 0, "left_out": 0, "examples": []}

    def compare(kind: str, text: str, ours: list[int], other: list[int]) -> None:
        result[kind] += 1
        result["tokens"] += len(ours)
        if ours == other:
            return
        if (
            tie is not None
            and tie(ours, other)
            and tokenizer.decode(ours) == tokenizer.decode(other)
        ):
            result["ties"] += 1
            return
        result["different"] += 1
        if len(result["examples"]) < _SHOWN:
            at = next((i for i, (a, b) in enumerate(zip(ours, other, strict=False)) if a != b), 0)
            near = slice(max(0, at - 3), at + 4)
            result["examples"].append(
                {"text": text[:200], "at": at, "training": ours[near], "exported": other[near]}
            )

    texts = [t for t in [*HARD_TEXTS, *material.texts] if not any(s in t for s in special)]
    result["left_out"] = len(HARD_TEXTS) + len(material.texts) - len(texts)
    for start in range(0, len(texts), 256):
        batch = texts[start : start + 256]
        for text, ours, other in zip(
            batch,
            tokenizer.encode_batch(batch),
            theirs(batch, add_special_tokens=False)["input_ids"],
            strict=True,
        ):
            compare("documents", text, ours.tolist(), list(other))
    begin = [tokenizer.bos_id] if add_bos else []
    sample = texts[:16]
    for text, other in zip(sample, theirs(sample)["input_ids"], strict=True):
        compare("documents", text, begin + tokenizer.encode(text).tolist(), list(other))
    for turns in material.conversations:
        if any(s in turn.text for turn in turns for s in special):
            result["left_out"] += 1
            continue
        try:
            rendered = render(turns, material.chat, tokenizer, generation_prompt=True)
            ours = encode_prompt(turns, tokenizer, material.chat, add_bos=False).tolist()
        except ConversationError:
            result["left_out"] += 1
            continue
        other = list(theirs(rendered, add_special_tokens=False)["input_ids"])
        compare("conversations", rendered, ours, other)
        if theirs.chat_template is not None:
            messages = [{"role": turn.role, "content": turn.text} for turn in turns]
            if material.chat.system is not None and turns[0].role != "system":
                messages.insert(0, {"role": "system", "content": material.chat.system})
            other = theirs.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=True, return_dict=True
            )["input_ids"]
            ours = encode_prompt(turns, tokenizer, material.chat, add_bos=add_bos).tolist()
            compare("conversations", rendered, ours, list(other))
    result["problems"] = []
    if result["different"]:
        total = result["documents"] + result["conversations"]
        result["problems"].append(
            f"tokenizer: transformers gives other ids on {result['different']} of {total} texts"
        )
    return result


def _tie_test(folder: str) -> Callable[[list[int], list[int]], bool] | None:
    """For Unigram models: whether two segmentations score the same within float32's rounding."""
    path = Path(folder) / "tokenizer.json"
    spec = json.loads(path.read_text())["model"] if path.exists() else {}
    if spec.get("type") != "Unigram":
        return None
    scores = np.array([score for _, score in spec["vocab"]])

    def tie(ours: list[int], other: list[int]) -> bool:
        if max([*ours, *other], default=0) >= len(scores):
            return False
        a, b = scores[ours].sum(), scores[other].sum()
        return abs(a - b) <= _ROUNDING * abs(a) * max(len(ours), len(other))

    return tie
