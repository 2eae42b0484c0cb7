"""The stage that turns documents into reading comprehension that fits the rows of a stream.

* A document is one text, or several where it is too long: parts at section or paragraph bounds
  (`chunk.py`), ids `<id>#<n>`, nothing left out between them. Tasks that do not fit behind the text
  are left out and counted.
* **Lengths are those of the real tokenizer**, BOS and EOS included, and each finished text is
  tokenized once: it is composed to an estimate made from a few slices of the document, tokenized,
  and handed on with its tokens (`data.encoded`), which `encode_documents` takes from it. Only a text
  that turns out too long is composed again with fewer tasks. All of it depends on the document
  alone, so neither batches nor partitions change what comes out.
* What has no templates in its language, or nothing to ask, passes as it is and is counted.

A converted document's `meta` has, beside what it had:

* `parent`: id of the document it was made of; `span`: the characters of that document's text that
  are read in it; `section`: the title of the section, if it is one; `layout`.
* `tasks`: `{family, label, question, answer, source_spans, filter, places}`. `source_spans` are
  character spans in the text read, that is, in the parent's text from `span[0]` on. `places` are
  `[turn, start, stop]` of the question and of the answer in this document.
* `read`: `[turn, start, stop, at]` for each piece of the text read: where it stands in this
  document, and where in the text read it begins. Joined, the pieces are the text read, but for a
  title line that is asked for instead (and white space between turns).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from data.chat import ConversationError, encode_documents, encoded_by
from data.comprehension.config import ComprehensionConfig
from data.comprehension.draft import MARGIN, Draft, Drafter, Source
from data.comprehension.language import Language, load_language
from data.comprehension.language import languages as mined_languages
from data.comprehension.system_prompts import system_prompt
from data.comprehension.templates import Templates, languages, load_templates
from data.comprehension.vocabulary import Vocabulary
from data.config import ChatConfig
from data.document import Document
from data.encoded import Encoded, with_tokens
from data.tally import Stage, Tally
from data.tokenizer import Tokenizer

BATCH_BYTES = 1 << 18
MAX_TITLE = 300


def converter(
    config: ComprehensionConfig,
    *,
    tokenizer: Tokenizer,
    vocabulary: Mapping[str, Vocabulary] | Vocabulary | None,
    seq_len: int,
    chat: ChatConfig,
    tally: Tally,
    add_bos: bool | None = None,
    add_eos: bool = True,
) -> Stage:
    """The stage for one corpus.

    Args:
        config: what is made.
        tokenizer: that of the stream.
        vocabulary: whose words are the keywords: one, or one for each language by its code.
        seq_len: tokens that a finished text has at most.
        chat: how conversations are written, for `form: chat`.
        tally: gets `tasks{family}`, `labels{family/label}`, `layouts{layout}`, `raw{reason}`
            (documents that passed as they were), `tasks_left_out{reason}` and `parts` (texts made
            of documents that were too long for one).
        add_bos: whether a text begins with BOS; by default the tokenizer's way.
        add_eos: whether it ends with EOS.

    Raises:
        ValueError: from the stage: at a document that is a conversation, or where `seq_len` is too
            short for any reading comprehension.
    """
    ends = {"add_bos": tokenizer.add_bos if add_bos is None else add_bos, "add_eos": add_eos}
    return _Converter(config, tokenizer, vocabulary, seq_len, chat, tally, ends)


class _Converter:
    def __init__(
        self,
        config: ComprehensionConfig,
        tokenizer: Tokenizer,
        vocabulary: Mapping[str, Vocabulary] | Vocabulary | None,
        seq_len: int,
        chat: ChatConfig,
        tally: Tally,
        ends: dict[str, bool],
    ) -> None:
        self._config, self._tokenizer, self._seq_len = config, tokenizer, seq_len
        self._vocabulary, self._chat, self._tally, self._ends = vocabulary, chat, tally, ends
        self._by = encoded_by(tokenizer, chat, **ends)
        system = system_prompt(config.system) if config.system else None
        self._drafter = Drafter(config, seq_len, self._count, system)
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._known: dict[str, tuple[Language, Templates, Vocabulary | None] | None] = {}

    def __call__(self, documents: Iterable[Document]) -> Iterator[Document]:
        for batch in _batches(documents):
            sources = [self._source(document) for document in batch]
            drafts = [
                [] if isinstance(source, str) else self._drafter.drafts(source)
                for source in sources
            ]
            encoded = iter(self._encode([draft for found in drafts for draft in found]))
            for document, source, found in zip(batch, sources, drafts, strict=True):
                if isinstance(source, str):
                    yield self._raw(document, source)
                elif not found:
                    yield self._raw(document, "nothing to ask")
                else:
                    yield from self._fitted(source, found, [next(encoded) for _ in found])
            self._tell()

    def _source(self, document: Document) -> Source | str:
        """The document with what composing it takes, or why it stays as it is."""
        if not document.is_text:
            raise ValueError(
                f"corpora.{self._tally.name}.convert: comprehension, but {document.source} is a "
                "conversation; say convert: conversation, or name fields.text"
            )
        text = "\n\n".join(turn.text for turn in document.turns)
        if not text.strip():
            return "empty"
        code = self._config.language
        if code == "auto":
            code = document.meta.get("language")
            if code is None:
                return "language not told"
        if code not in self._known:
            self._known[code] = self._language(code)
        if (known := self._known[code]) is None:
            return f"language: {code}"
        return Source(document, text, *self._title(document, text), *known)

    def _language(self, code: str) -> tuple[Language, Templates, Vocabulary | None] | None:
        """What composing takes in a language; None for one without templates or connectives."""
        if code not in languages() or code not in mined_languages():
            return None
        domain, words = self._config.domain, self._vocabulary
        domain = domain.get(code) if isinstance(domain, dict) else domain
        words = words.get(code) if isinstance(words, Mapping) else words
        return load_language(code), load_templates(code, domain), words

    def _title(self, document: Document, text: str) -> tuple[str | None, int]:
        """A document's title, and where the text under the title's line begins."""
        at = text.find("\n", len(text) - len(text.lstrip())) + 1
        line = " ".join(text[:at].split())
        if self._config.title == "meta":
            told = document.meta.get("title") or ""
            title = " ".join(told.split())
            if line != title:  # it has several lines, or is not in the text
                at = len(told) + 1 if told and text.startswith(told + "\n") else 0
        else:
            title = line if at <= MAX_TITLE else ""
        return (title, at) if title and text[at:].strip() else (None, 0)

    # --- fitting ----------------------------------------------------------------------------------

    def _fitted(
        self, source: Source, drafts: list[Draft], encoded: list[Encoded | None]
    ) -> Iterator[Document]:
        """The drafts as finished texts, those that are too long with fewer tasks or in parts."""
        finished: list[tuple[Draft, Encoded | None]] = []
        for draft, tokens in zip(drafts, encoded, strict=True):
            while tokens is not None and len(tokens.tokens) > self._seq_len:
                ratio = len(tokens.tokens) / draft.num_chars
                if not draft.kept:  # what is read is too long by itself
                    parts = [draft.part for draft in drafts]
                    longest = max(part.num_chars for part in parts)
                    limit = min(self._drafter.limit(ratio), longest * 4 // 5)
                    again = self._drafter.divided(source, parts, limit, ratio)
                    yield from self._fitted(source, again, self._encode(again))
                    return
                over = (len(tokens.tokens) - self._seq_len) / ratio * MARGIN
                draft = self._drafter.shorter(source, draft, over)
                [tokens] = self._encode([draft])
            finished.append((draft, tokens))
        if len(finished) > 1:
            self._tally.add({"parts": len(finished)})
        for draft, tokens in finished:
            yield self._out(draft, tokens)

    def _encode(self, drafts: Sequence[Draft]) -> list[Encoded | None]:
        """Tokens of the drafts' documents; None for those that the chat template refuses."""
        documents = [draft.document for draft in drafts]
        try:
            return [*encode_documents(documents, self._tokenizer, self._chat, **self._ends)]
        except ConversationError:
            if len(drafts) == 1:
                return [None]  # it is set aside where documents are tokenized
        return [encoded for draft in drafts for encoded in self._encode([draft])]

    def _count(self, texts: Sequence[str]) -> int:
        return sum(len(ids) for ids in self._tokenizer.encode_batch(texts))

    # --- what goes out ----------------------------------------------------------------------------

    def _raw(self, document: Document, reason: str) -> Document:
        self._counts["raw"][reason] += 1
        return document

    def _out(self, draft: Draft, tokens: Encoded | None) -> Document:
        counts = self._counts
        for task in draft.document.meta["tasks"]:
            counts["tasks"][task["family"]] += 1
            counts["labels"][f"{task['family']}/{task['label']}"] += 1
        for reason, number in draft.left_out.items():
            counts["tasks_left_out"][reason] += number
        counts["tasks_left_out"]["does not fit"] += len(draft.tasks) - draft.kept
        counts["layouts"][draft.document.meta["layout"]] += 1
        return with_tokens(draft.document, tokens, self._by) if tokens else draft.document

    def _tell(self) -> None:
        """Hands the counts of a batch on; one call for each document would take a tenth."""
        counts = {
            name: {key: number for key, number in found.items() if number}
            for name, found in self._counts.items()
        }
        self._counts.clear()
        self._tally.add({name: found for name, found in counts.items() if found})


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    num_bytes = 0
    for document in documents:
        batch.append(document)
        num_bytes += document.num_bytes
        if num_bytes >= BATCH_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch
