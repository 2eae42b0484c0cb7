"""What the documents of a corpus become: the stage that converts them, and their tokens."""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from data.chat import ConversationError, encode_documents
from data.clean.words import words_of
from data.config import ChatConfig, CorpusConfig
from data.document import Document, draw
from data.encoded import Encoded
from data.executor import Report
from data.generator import Generate
from data.tally import Stage, Tally
from data.tokenizer import Tokenizer
from data.vocabularies import load_vocabularies

BATCH_BYTES = 1 << 18
# Conversions whose texts are not those of the documents.
REWRITES = ("comprehension", "synthesis", "tuning")


@dataclass(frozen=True)
class Writer:
    """What writes text for `convert: synthesis`.

    Attributes:
        generate: continues prompts, on this machine's devices or on a server.
        model: names it in the journal, so that another model's texts are not taken for its own.
        tokenizer: counts the tokens of prompts; None: that of the stream.
        used: says what was asked of it and what that cost, where it knows.
    """

    generate: Generate
    model: str
    tokenizer: Tokenizer | None = None
    used: Callable[[], str] | None = None


@dataclass(frozen=True)
class Conversion:
    """All that converting and tokenizing one corpus needs; every process makes the same of it.

    Attributes:
        name: the corpus.
        corpus: what it is converted to.
        tokenizer: that of the stream.
        seq_len: tokens in a row.
        add_bos, add_eos: whether a text begins with BOS and ends with EOS.
        vocabularies: language and model file of each vocabulary of domain words.
        measured: share of the documents whose tokens before conversion are counted.
        writer: what writes text, for `convert: synthesis`. It stays in its process.
    """

    name: str
    corpus: CorpusConfig
    tokenizer: Tokenizer
    seq_len: int
    add_bos: bool
    add_eos: bool
    vocabularies: tuple[tuple[str, str], ...] = ()
    measured: float = 0.0
    writer: Writer | None = None

    def told(self) -> dict[str, str]:
        """Language to the fingerprint of each vocabulary, for the card."""
        loaded = load_vocabularies(self.vocabularies, self.tokenizer)
        return {code: vocabulary.fingerprint for code, vocabulary in loaded.items()}

    def measure(self, document: Document, tally: Tally) -> None:
        """Counts the tokens, words and bytes of a document that is drawn for it, as it is."""
        if self.measured < 1 and draw(document.id, "measured").random() >= self.measured:
            return
        text = "\n\n".join(turn.text for turn in document.turns)
        counts = {"tokens": len(self.tokenizer.encode(text)), "words": len(words_of(text))}
        tally.add({"measured": {"documents": 1, "bytes": document.num_bytes, **counts}})

    def stage(self, tally: Tally, work: str | None = None) -> Stage:
        """What documents go through between cleaning and tokenizing.

        Args:
            tally: gets what was counted.
            work: how the paths begin of what a killed run shall find again; None keeps nothing.
        """
        if self.corpus.convert == "raw":
            return lambda documents: documents
        if self.corpus.convert == "conversation":
            return self._require_turns
        ends = {"add_bos": self.add_bos, "add_eos": self.add_eos}
        if self.corpus.convert == "comprehension":
            from data.comprehension.convert import converter

            return converter(
                self.corpus.comprehension,
                tokenizer=self.tokenizer,
                vocabulary=load_vocabularies(self.vocabularies, self.tokenizer),
                seq_len=self.seq_len,
                chat=self.corpus.chat,
                tally=tally,
                **ends,
            )
        if self.corpus.convert == "tuning":
            from data.synthesis.tuning import few_shot

            return functools.partial(
                few_shot,
                tokenizer=self.tokenizer,
                chat=self.corpus.chat,
                seq_len=self.seq_len,
                tally=tally,
            )
        from data.synthesis.synthesize import synthesize

        assert self.writer is not None
        return functools.partial(
            synthesize,
            config=self.corpus.synthesis,
            generate=self.writer.generate,
            tokenizer=self.tokenizer,
            seq_len=self.seq_len,
            tally=tally,
            work=work,
            generator_tokenizer=self.writer.tokenizer,
            model=self.writer.model,
        )

    def encode(
        self,
        documents: Iterable[Document],
        chat: ChatConfig,
        tally: Tally,
        write: Callable[[Document], None],
        report: Report,
    ) -> Iterator[Encoded]:
        """Tokenizes documents, and hands those that could be to `write`.

        Args:
            documents: what to tokenize; those that bring their tokens keep them.
            chat: how conversations are written.
            tally: gets `documents_out`, `tokens_packed`, `lengths` (documents by the power of two
                that their tokens reach), and what could not be tokenized.
            write: is called with a document before its tokens are given.
            report: is called with the bytes done.
        """
        for batch, num_bytes in _batches(documents):
            for document, encoded in self._encode_batch(batch, chat):
                if isinstance(encoded, str):
                    tally.remove(document, "tokenize", encoded)
                    continue
                write(document)
                num_tokens = len(encoded.tokens)
                reached = str(1 << num_tokens.bit_length() - 1)
                tally.add(
                    {"documents_out": 1, "tokens_packed": num_tokens, "lengths": {reached: 1}}
                )
                yield encoded
            report(num_bytes)

    def _encode_batch(
        self, batch: list[Document], chat: ChatConfig
    ) -> Iterator[tuple[Document, Encoded | str]]:
        """Documents with their tokens, or with what keeps them from having any."""
        ends = {"add_bos": self.add_bos, "add_eos": self.add_eos}
        try:
            encoded: list[Encoded | str] = [*encode_documents(batch, self.tokenizer, chat, **ends)]
        except ConversationError as error:
            if len(batch) > 1:  # find the one
                for document in batch:
                    yield from self._encode_batch([document], chat)
                return
            encoded = [f"does not fit the chat template: {error.__cause__ or error}"]
        for document, item in zip(batch, encoded, strict=True):
            yield document, item if isinstance(item, str) or len(item.tokens) else "no tokens"

    def _require_turns(self, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            if document.is_text:
                raise ValueError(
                    f"corpora.{self.name}.convert: conversation, but the documents are running "
                    f"text; name corpora.{self.name}.fields.prompt and .response (or .turns), or "
                    "say convert: raw"
                )
            yield document


def _batches(documents: Iterable[Document]) -> Iterator[tuple[list[Document], int]]:
    batch: list[Document] = []
    num_bytes = 0
    for document in documents:
        batch.append(document)
        num_bytes += document.num_bytes
        if num_bytes >= BATCH_BYTES:
            yield batch, num_bytes
            batch, num_bytes = [], 0
    if batch:
        yield batch, num_bytes
