"""What a recipe may say about data: corpora, their preparation, a run's streams, their mixture."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data.clean.config import CleanConfig
from data.comprehension.config import ComprehensionConfig
from data.generator import GeneratorConfig
from data.strict import Config
from data.synthesis.config import SynthesisConfig

Path = str
Paths = str | tuple[str, ...]


class SectionsConfig(Config):
    """A text in sections: a list of objects, or of texts beside a list of their titles."""

    each: str = Field(description="the list, by its path in the row")
    title: str = Field(
        default="title",
        description="path of a section's title in it; or in the row, where each lists plain texts",
    )
    text: str = Field(default="text", description="path of a section's text in it")


class FieldsConfig(Config):
    """Which fields of a source row hold what.

    Dotted paths reach into objects, lists are joined by a blank line.
    """

    text: str | SectionsConfig | tuple[str | SectionsConfig, ...] | None = Field(
        default=None, description="running text; sections keep their titles"
    )
    title: Paths | None = Field(
        default=None, description="put before the text, on a line of its own"
    )
    prompt: Paths | None = Field(default=None, description="the user's side of a single exchange")
    input: Paths | None = Field(
        default=None, description="further input, put after the prompt on a new line (Alpaca)"
    )
    response: Paths | None = Field(
        default=None, description="the assistant's side of a single exchange"
    )
    system: Paths | None = Field(default=None, description="a system prompt")
    turns: str | None = Field(
        default=None,
        description="a list of turns: {role, content}, {from, value} or {Q, A}, or plain strings",
    )
    id: str | None = Field(default=None, description="the user's own id, kept as meta.source_id")
    group: str | None = Field(
        default=None, description="rows of one group are held out together or not at all"
    )
    dataset: str | None = Field(
        default=None, description="the data set a row is of, kept as meta.dataset"
    )


class ChatConfig(Config):
    """How a conversation becomes text, and which of it is supervised."""

    template: str = Field(
        default="plain",
        description="plain, llama2, llama3, huatuo, tokenizer (the template shipped with it), "
        "or a path to a Jinja chat template",
    )
    train_on: Literal["all", "assistant"] = Field(
        default="all", description="which turns are supervised"
    )
    system: str | None = Field(
        default=None, description="system prompt for conversations that bring none"
    )


class CorpusConfig(Config):
    """One corpus: where it is, how it is read, what it is turned into."""

    path: Paths = Field(
        description="file, folder, glob, hub id or TFDS name; local, gs:// or s3://"
    )
    format: Literal[
        "auto", "text", "jsonl", "json", "csv", "parquet", "pubmed", "jats", "html",
        "huggingface", "tfds",
    ] = Field(default="auto", description="auto: by the file's name")  # fmt: skip
    name: str | None = Field(
        default=None, description="configuration name of a Hugging Face data set"
    )
    split: str = Field(default="train", description="split of a Hugging Face or TFDS data set")
    revision: str | None = Field(default=None, description="revision of a Hugging Face data set")
    fields: FieldsConfig = FieldsConfig()
    convert: Literal["raw", "conversation", "comprehension", "synthesis", "tuning"] = Field(
        default="raw",
        description="raw: the text as it is; conversation: the turns, through chat.template; "
        "comprehension: texts with tasks about them; synthesis: texts with pairs that a model wrote; "
        "tuning: few-shot windows of texts with their pairs, to tune a synthesizer on",
    )
    chat: ChatConfig = ChatConfig()
    comprehension: ComprehensionConfig = ComprehensionConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    clean: CleanConfig | None = Field(
        default=None,
        description="how this corpus is cleaned, instead of the recipe's clean; what is decided "
        "over all corpora (dedup, decontaminate, contamination) stays there",
    )
    limit: int | None = Field(default=None, ge=1, description="read at most so many documents")
    licence: str | None = Field(default=None, description="its licence, kept in the card")

    @model_validator(mode="after")
    def _clean_is_local(self) -> "CorpusConfig":
        for field in ("dedup", "decontaminate", "contamination"):
            if self.clean is not None and field in self.clean.model_fields_set:
                raise ValueError(
                    f"clean.{field}: is decided over all corpora; say it in the recipe's clean"
                )
        return self


class SentencePieceConfig(Config):
    """Train a SentencePiece model on the corpora of the recipe."""

    vocab_size: int = Field(default=4096, ge=300)
    model_type: Literal["bpe", "unigram"] = "bpe"
    sample_mb: float = Field(
        default=200.0, gt=0, description="text to train on, at most; drawn by document id"
    )
    symbols: tuple[str, ...] = Field(
        default=(), description="strings that are always one token: the marks of a format"
    )


class HeldOutConfig(Config):
    """Which documents are kept from training, to measure on. Decided once, over all corpora."""

    fraction: float = Field(default=0.02, ge=0, lt=1, description="share of groups held out")
    max_documents: int = Field(
        default=2000,
        ge=1,
        description="keep at most so many held-out documents per corpus to measure on",
    )
    converted: bool = Field(
        default=False,
        description="also pack them converted, as heldout_converted beside heldout; heldout itself "
        "is raw text, so that measurements compare",
    )


class PrepareConfig(Config):
    """A preparation recipe: raw corpora into converted documents and packed streams."""

    out_dir: Path
    tokenizer: Path | None = Field(
        default=None, description="a SentencePiece .model or a Hugging Face tokenizer folder"
    )
    train_tokenizer: SentencePieceConfig | None = Field(
        default=None, description="train one instead"
    )
    seq_len: int = Field(default=2048, ge=8)
    add_bos: Literal["auto"] | bool = Field(
        default="auto", description="begin every document with BOS; auto: the tokenizer's default"
    )
    add_eos: bool = Field(default=True, description="end every document with EOS")
    partitions: int | None = Field(
        default=None, ge=1, le=4096, description="default: 64, fewer for small corpora"
    )
    heldout: HeldOutConfig = HeldOutConfig()
    clean: CleanConfig | None = Field(
        default=CleanConfig(), description="what is done to documents first; null: nothing"
    )
    count_tokens_in: bool = Field(
        default=False,
        description="count the tokens of every document before conversion too, for the card; else "
        "those of a sample, where conversion writes another text",
    )
    generator: GeneratorConfig | None = Field(
        default=None, description="what writes the pairs of convert: synthesis"
    )
    corpora: dict[str, CorpusConfig] = Field(min_length=1)
    workers: int | None = Field(default=None, ge=1, description="processes; default: one per core")

    @model_validator(mode="after")
    def _one_tokenizer(self) -> "PrepareConfig":
        if (self.tokenizer is None) == (self.train_tokenizer is None):
            raise ValueError("tokenizer: name one, or set train_tokenizer to train one (not both)")
        return self

    @model_validator(mode="after")
    def _someone_writes(self) -> "PrepareConfig":
        asking = [name for name, c in self.corpora.items() if c.convert == "synthesis"]
        if asking and self.generator is None:
            raise ValueError(
                f"generator: missing, but corpora.{asking[0]}.convert is synthesis; name the model "
                "that writes the pairs (generator.kind, generator.model)"
            )
        return self

    @model_validator(mode="after")
    def _languages_are_told(self) -> "PrepareConfig":
        for name, corpus in self.corpora.items():
            clean = self.clean_of(name)
            if (
                corpus.convert == "comprehension"
                and corpus.comprehension.language == "auto"
                and not (clean and clean.language.enabled)
            ):
                raise ValueError(
                    f"corpora.{name}.comprehension.language: auto needs clean.language; name the "
                    "language, or enable it"
                )
        return self

    def clean_of(self, name: str) -> CleanConfig | None:
        """How the documents of a corpus are cleaned, each by itself."""
        return self.corpora[name].clean or self.clean


Points = tuple[tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0)]], ...]


class StreamConfig(Config):
    """A packed stream of a run and its weight in the mixture, counted in tokens."""

    path: Path = Field(description="a folder written by data.prepare")
    weight: Annotated[float, Field(ge=0)] | Points = Field(
        default=1.0,
        description="share of tokens; for mixture.schedule=piecewise also "
        "[[progress, weight], ...]",
    )
    priority: float | None = Field(default=None, gt=0, description="for mixture.schedule=priority")
    epochs: float | None = Field(
        default=None,
        gt=0,
        description="for mixture.schedule=priority: repeats of the stream, default 1",
    )


class MixtureConfig(Config):
    """How the streams' shares move over the run."""

    schedule: Literal["constant", "piecewise", "priority"] = "constant"
