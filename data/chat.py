"""Documents to token ids with a loss mask: texts, and conversations through a chat template.

* Every template is Jinja: ours lie in `chat_templates/`, others come with a tokenizer or from a
  file, and all are rendered with the settings that transformers uses. One document becomes one
  segment.
* The whole rendered text is tokenized once; the loss mask comes from character spans of that one
  tokenization. A token is supervised when any character of it is, so that a token that joins the
  prompt's last space with the answer's first word is learned.
* Special-token strings that the template writes become special ids. The same strings inside a turn
  stay text.
* Who adds BOS and EOS: for texts and for the text templates `plain` and `huatuo` the caller
  (`add_bos`, `add_eos`); all other templates say themselves where they stand, and nothing is added
  to them.
"""

import functools
import re
from collections.abc import Sequence

import numpy as np

from data.chat_template import CLOSE, OPEN, compile_template, read_template
from data.config import ChatConfig
from data.document import Document, Turn
from data.encoded import Encoded, tokens_of
from data.tokenizer import Tokenizer

# Templates that leave BOS and EOS to the caller.
TEXT_TEMPLATES = ("plain", "huatuo")
_NEEDED = {  # special tokens without which a template of ours writes nothing that a model knows
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}

# Splits special-token strings inside turns; a noncharacter, as the marks of the templates are.
_ESCAPE = "\ufdd2"


class ConversationError(ValueError):
    """This conversation does not fit the template; another one may."""


def encode_document(
    document: Document, tokenizer: Tokenizer, chat: ChatConfig, *, add_bos: bool, add_eos: bool
) -> Encoded:
    """One document as token ids with its loss mask; see `encode_documents`."""
    return encode_documents([document], tokenizer, chat, add_bos=add_bos, add_eos=add_eos)[0]


def encode_documents(
    documents: Sequence[Document],
    tokenizer: Tokenizer,
    chat: ChatConfig,
    *,
    add_bos: bool,
    add_eos: bool,
) -> list[Encoded]:
    """Documents as token ids with their loss masks, in the order given.

    A text is supervised wholly, whatever `chat.train_on` says: it has no turns to choose from.
    Texts, and plain conversations under `train_on: all`, go through the tokenizer in one batch.
    Documents that bring along the very tokens that are asked for are not tokenized again.

    Raises:
        ConversationError: a conversation does not fit the template (the message names the
            document).
        ValueError: the template cannot be used with this tokenizer at all.
    """
    texts: dict[int, str] = {}
    encoded: dict[int, Encoded] = {}
    by = encoded_by(tokenizer, chat, add_bos=add_bos, add_eos=add_eos)
    for i, document in enumerate(documents):
        try:
            if known := tokens_of(document, by):
                encoded[i] = known
            elif document.is_text:
                texts[i] = "\n\n".join(turn.text for turn in document.turns)
            elif chat.template == "plain" and chat.train_on == "all":
                texts[i] = render(document.turns, chat, tokenizer)
            else:
                tokens, supervised = _conversation(document.turns, chat, tokenizer)
                if chat.template in TEXT_TEMPLATES:
                    bos, eos = _ends(tokenizer, add_bos, add_eos)
                    if tokens[-1:].tolist() == [tokenizer.eos_id]:
                        eos = eos[:0]  # the template has written it
                    reply = chat.train_on == "all" or document.turns[-1].role == "assistant"
                    ends = np.zeros(len(bos), bool), np.full(len(eos), reply)
                    supervised = np.concatenate([ends[0], supervised, ends[1]])
                    tokens = np.concatenate([bos, tokens, eos])
                encoded[i] = _encoded(tokens, supervised)
        except ConversationError as error:
            raise ConversationError(
                f"{document.source} (document {document.id}): {error}"
            ) from error
    if texts:
        bos, eos = _ends(tokenizer, add_bos, add_eos)
    for i, tokens in zip(texts, tokenizer.encode_batch(list(texts.values())), strict=True):
        tokens = np.concatenate([bos, tokens, eos])
        encoded[i] = _encoded(tokens, np.ones(len(tokens), bool))
    return [encoded[i] for i in range(len(documents))]


def encoded_by(
    tokenizer: Tokenizer, chat: ChatConfig, *, add_bos: bool, add_eos: bool
) -> tuple[object, ...]:
    """What a document's tokens depend on besides the document."""
    return tokenizer.fingerprint, chat, add_bos, add_eos


def encode_prompt(
    turns: Sequence[Turn], tokenizer: Tokenizer, chat: ChatConfig, *, add_bos: bool
) -> np.ndarray:
    """Ids int32 `[n]` of a conversation up to the place where the assistant's next reply begins."""
    if all(turn.role == "text" for turn in turns):
        text = "\n\n".join(turn.text for turn in turns)
        return np.concatenate([_ends(tokenizer, add_bos, False)[0], tokenizer.encode(text)])
    rendered = _render(turns, chat, tokenizer, generation_prompt=True)
    tokens = [
        ids for ids, _ in tokenizer.encode_parts([part for part, _ in _split(rendered, tokenizer)])
    ]
    bos = _ends(tokenizer, add_bos and chat.template in TEXT_TEMPLATES, False)[0]
    return np.concatenate([bos, *tokens])


def render(
    turns: Sequence[Turn],
    chat: ChatConfig,
    tokenizer: Tokenizer,
    *,
    generation_prompt: bool = False,
) -> str:
    """The text that `chat.template` makes of `turns`, as a person sees it."""
    return _clean(_render(turns, chat, tokenizer, generation_prompt=generation_prompt))


def template_source(chat: ChatConfig, tokenizer: Tokenizer) -> str:
    """The Jinja source of `chat.template`, for an exported tokenizer to carry."""
    if chat.template == "tokenizer":
        if tokenizer.chat_template is None:
            raise ValueError(
                f"chat.template: tokenizer, but {tokenizer.path} ships no chat template; name one"
            )
        return tokenizer.chat_template
    return read_template(chat.template)


def _ends(tokenizer: Tokenizer, add_bos: bool, add_eos: bool) -> tuple[np.ndarray, np.ndarray]:
    """What is put before and behind: int32 arrays of one id or none."""
    if add_bos and tokenizer.bos_id is None:
        raise ValueError(
            f"add_bos: true, but {tokenizer.path} has no BOS token; set add_bos: false"
        )
    bos = [tokenizer.bos_id] if add_bos else []
    return np.array(bos, np.int32), np.array([tokenizer.eos_id] * add_eos, np.int32)


def _encoded(tokens: np.ndarray, supervised: np.ndarray) -> Encoded:
    supervised[:1] = False
    return Encoded(tokens, supervised)


def _conversation(
    turns: Sequence[Turn], chat: ChatConfig, tokenizer: Tokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and supervision of the rendered conversation, without BOS and EOS from outside."""
    rendered = _render(turns, chat, tokenizer)
    if chat.train_on == "assistant":
        rendered = _marked(rendered, turns, chat, tokenizer)
    parts = _split(rendered, tokenizer)
    tokens, supervised = [], []
    for (part, mask), (ids, spans) in zip(
        parts, tokenizer.encode_parts([part for part, _ in parts]), strict=True
    ):
        tokens.append(ids)
        if isinstance(part, int):
            supervised.append(mask)
        else:
            # A token without characters is the space put before a text: it goes with the first
            # character.
            until = np.concatenate([[0], np.cumsum(mask)])
            ends = np.minimum(np.maximum(spans[:, 1], spans[:, 0] + 1), len(mask))
            supervised.append(until[ends] > until[spans[:, 0]])
    tokens, supervised = np.concatenate(tokens), np.concatenate(supervised)
    return tokens, supervised if chat.train_on == "assistant" else np.ones(len(tokens), bool)


def _split(rendered: str, tokenizer: Tokenizer) -> list[tuple[str | int, np.ndarray]]:
    """A rendering with its marks as texts, a mask per character, and special ids, a mask of one."""
    parts: list[tuple[str | int, np.ndarray]] = []
    inside = False
    text: list[str] = []
    mask: list[np.ndarray] = []

    def flush() -> None:
        if joined := "".join(text):
            parts.append((joined, np.concatenate(mask)))
        text.clear()
        mask.clear()

    for piece in _special_pattern(tuple(tokenizer.special_ids)).split(rendered):
        if piece in (OPEN, CLOSE):
            inside = piece == OPEN
        elif piece in tokenizer.special_ids:
            flush()
            parts.append((tokenizer.special_ids[piece], np.array([inside])))
        elif piece := piece.replace(_ESCAPE, ""):
            text.append(piece)
            mask.append(np.full(len(piece), inside))
    flush()
    return parts


@functools.lru_cache(maxsize=16)
def _special_pattern(special: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(filter(None, special), key=len, reverse=True)
    return re.compile("(" + "|".join([*map(re.escape, longest_first), OPEN, CLOSE]) + ")")


# --- rendering ------------------------------------------------------------------------------------


def _render(
    turns: Sequence[Turn],
    chat: ChatConfig,
    tokenizer: Tokenizer,
    *,
    generation_prompt: bool = False,
    mark: bool = False,
) -> str:
    """The template's output: special strings of turns escaped, `{% generation %}` between marks.

    `mark` puts the marks around what the assistant's turns say, instead.
    """
    if chat.system is not None and all(turn.role != "system" for turn in turns):
        turns = [Turn("system", chat.system), *turns]
    for token in _NEEDED.get(chat.template, ()):
        if token not in tokenizer.special_ids:
            raise ValueError(
                f"chat.template: {chat.template} writes {token}, "
                f"which {tokenizer.path} does not have"
            )
    escape = _special_pattern(tuple(tokenizer.special_ids))
    messages = []
    for turn in turns:
        if turn.role == "text" and chat.template != "plain":
            raise ConversationError(
                f"chat.template {chat.template} has no place for running text beside turns"
            )
        if _ESCAPE in turn.text or OPEN in turn.text or CLOSE in turn.text:
            raise ConversationError(
                "a turn holds one of the noncharacters U+FDD2 to U+FDD4; remove it"
            )
        content = escape.sub(lambda match: match[0][0] + _ESCAPE + match[0][1:], turn.text)
        if mark and turn.role == "assistant":
            core = content.strip()
            # Space at both ends stays outside, so that a template that strips still finds it.
            content = (
                content.replace(core, OPEN + core + CLOSE, 1) if core else OPEN + CLOSE + content
            )
        messages.append({"role": turn.role, "content": content})
    from jinja2 import TemplateError

    template = compile_template(template_source(chat, tokenizer))
    try:
        return template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=generation_prompt,
            **tokenizer.special_names,
        )
    except (TemplateError, TypeError, IndexError) as error:
        raise ConversationError(
            f"chat.template {chat.template} refuses this conversation: {error}"
        ) from error


def _marked(rendered: str, turns: Sequence[Turn], chat: ChatConfig, tokenizer: Tokenizer) -> str:
    """The rendering with marks around what the assistant says, end of turn included.

    Templates with `{% generation %}` say it themselves. For others it is what each further
    assistant turn adds to the conversation rendered up to it; where a template renders earlier
    turns differently later on, what its turns say is marked instead, up to the special token right
    behind it.
    """
    if OPEN in rendered or re.search(r"{%-?\s*generation\b", template_source(chat, tokenizer)):
        return rendered
    special = _special_pattern(tuple(tokenizer.special_ids))
    spans = []
    for i, turn in enumerate(turns):
        if turn.role == "assistant":
            before = _prefix(turns[:i], chat, tokenizer, generation_prompt=True)
            after = _prefix(turns[: i + 1], chat, tokenizer, generation_prompt=False)
            if (
                before is None
                or after is None
                or not (after.startswith(before) and rendered.startswith(after))
            ):
                break
            # White space behind the end-of-turn token belongs to the next turn.
            spoken, *_, end = special.split(after[len(before) :])
            spans.append(
                (
                    len(before),
                    len(after) - (len(end) if spoken is not end and not end.strip() else 0),
                )
            )
    else:
        pieces, start = [], 0
        for begin, end in spans:
            pieces += [rendered[start:begin], OPEN, rendered[begin:end], CLOSE]
            start = end
        return "".join([*pieces, rendered[start:]])

    marked = _render(turns, chat, tokenizer, mark=True)
    count = sum(turn.role == "assistant" for turn in turns)
    if (
        _clean(marked) != _clean(rendered)
        or marked.count(OPEN) != count
        or marked.count(CLOSE) != count
    ):
        raise ValueError(
            f"chat.template {chat.template}: cannot tell which part of its output the assistant "
            "says; put {% generation %} ... {% endgeneration %} around it in the template, "
            "or set chat.train_on: all"
        )
    behind = re.compile(f"{CLOSE}(\\s*(?:{special.pattern[1:-1]}))")
    return behind.sub(lambda match: match[1] + CLOSE, marked)


def _prefix(
    turns: Sequence[Turn], chat: ChatConfig, tokenizer: Tokenizer, *, generation_prompt: bool
) -> str | None:
    try:
        return _render(turns, chat, tokenizer, generation_prompt=generation_prompt)
    except ConversationError:  # a template may refuse half a conversation
        return None


def _clean(rendered: str) -> str:
    return rendered.replace(_ESCAPE, "").replace(OPEN, "").replace(CLOSE, "")
