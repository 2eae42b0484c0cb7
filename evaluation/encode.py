"""Prompts and what may follow them as token ids.

Prompt and continuation are tokenized **together**, as the model met text in training, and the score
begins at the first token that is not the prompt's own. Where a token spans the end of the prompt, that
token is scored too, for all options of the item alike: they are told apart from the same place on.

The published evaluator tokenizes the prompt a second time, alone, and begins after as many tokens as that
gives. Where tokens join over the end of the prompt this skips part of an option. `reference_compatible`
does so; with a space between prompt and option, and SentencePiece or GPT-style vocabularies, the two are
the same.
"""

from collections.abc import Sequence

import numpy as np

from data.chat import ChatConfig, encode_document, encode_prompt
from data.document import Document, Turn
from data.tokenizer import Tokenizer
from evaluation.branches import shared
from evaluation.options import Asked
from evaluation.prompt import Question


def encode_questions(
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    *,
    add_bos: bool,
    chat: ChatConfig | None = None,
    reference_compatible: bool = False,
) -> tuple[list[Asked], list[int]]:
    """What to ask a scorer, and how many entries each question has among it.

    A question with one prompt is one entry with all options; one whose options are in the prompts is
    an entry for each.
    """
    pairs = [(prompt, question.answers) for question in questions for prompt in question.prompts]
    counts = [len(question.prompts) for question in questions]
    if chat is not None:
        return [_conversation(p, answers, tokenizer, chat, add_bos) for p, answers in pairs], counts
    if add_bos and tokenizer.bos_id is None:
        raise ValueError(f"add_bos: true, but {tokenizer.path} has no BOS token; set add_bos=false")
    bos = np.array([tokenizer.bos_id] if add_bos else [], np.int32)
    prompts = [prompt[0].text for prompt, _ in pairs]
    known = tokenizer.encode_batch(prompts)
    joined = tokenizer.encode_batch(
        [f"{text} {a}" for text, (_, answers) in zip(prompts, pairs, strict=True) for a in answers]
    )
    asked, at = [], 0
    for context, (_, answers) in zip(known, pairs, strict=True):
        wholes = joined[at : at + len(answers)]
        at += len(answers)
        asked.append(_split(bos, context, wholes, reference_compatible))
    return asked, counts


def _split(
    bos: np.ndarray, context: np.ndarray, wholes: Sequence[np.ndarray], reference: bool
) -> Asked:
    """Where the score begins: at one place for all, unless the published rule is asked for."""
    if reference:
        start = min(len(context), *(len(whole) - 1 for whole in wholes))
    else:
        start = min(shared(whole[:-1], context) for whole in wholes)
    first = np.concatenate([bos, wholes[0][:start]])
    return Asked(tuple(first.tolist()), tuple(tuple(whole[start:].tolist()) for whole in wholes))


def _conversation(
    prompt: tuple[Turn, ...],
    answers: Sequence[str],
    tokenizer: Tokenizer,
    chat: ChatConfig,
    add_bos: bool,
) -> Asked:
    """The options as replies: the template's own, without the token that ends a reply."""
    context = encode_prompt(prompt, tokenizer, chat, add_bos=add_bos)
    whole_chat = chat.model_copy(update={"train_on": "assistant"})
    special = set(tokenizer.special_ids.values())
    wholes = []
    for answer in answers:
        turns = (*prompt, Turn("assistant", answer))
        encoded = encode_document(
            Document("", turns, "an option"), tokenizer, whole_chat, add_bos=add_bos, add_eos=False
        )
        end = int(np.flatnonzero(encoded.supervised)[-1]) + 1
        while end and int(encoded.tokens[end - 1]) in special:
            end -= 1
        wholes.append(encoded.tokens[:end])
    return _split(np.zeros(0, np.int32), context, wholes, False)
