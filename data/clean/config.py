"""What a recipe may say about cleaning, under `clean`.

The defaults lose nothing sound: encyclopedia pages, abstracts, court opinions, code, Chinese text and
short conversations all pass. What is thrown away by default is what cannot teach: empty texts, texts of
which hardly a sign is a letter, one line repeated without end, and copies of what is there already.
"""

from pydantic import Field, field_validator, model_validator

from data.strict import Config

Share = float


class NormalizeConfig(Config):
    """How texts are put in order. Words, paragraphs and indentation stay."""

    enabled: bool = True
    unicode: bool = Field(
        default=True,
        description="NFC, ordinary spaces for odd ones, ligatures of typesetting spelled out; "
        "control, zero-width and private characters go (joiners inside words of other scripts stay)",
    )
    whitespace: bool = Field(
        default=True,
        description="one kind of line end, no spaces at line ends, at most max_blank_lines between "
        "paragraphs; indentation and columns inside a line stay",
    )
    max_blank_lines: int = Field(default=2, ge=1)
    boilerplate: bool = Field(
        default=True,
        description="take away lines that are nothing but navigation, cookie notices, share buttons or "
        "page numbers (the lists of boilerplate.yaml); running text keeps every line",
    )
    boilerplate_lines: tuple[str, ...] = Field(
        default=(), description="further lines to take away, as they are but for case and spacing"
    )
    hyphenation: bool = Field(
        default=True,
        description="join words that typesetting cut at a line end, where the text shows both halves "
        "belong together (the joined word occurs elsewhere in it, or whole lines are of one width)",
    )


class LanguageConfig(Config):
    """Language id, kept as `meta.language`; filters only when asked."""

    enabled: bool = True
    characters: int = Field(
        default=500,
        ge=50,
        description="looked at, from the beginning; a third of them where that leaves no doubt",
    )
    keep: tuple[str, ...] = Field(
        default=(), description="codes (en, zh, ...) of languages to keep; none named: all are kept"
    )
    min_probability: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="with keep: a text goes only if another language is this likely; others stay",
    )


class QualityConfig(Config):
    """Thresholds of the quality rules (Gopher, C4); a document goes by the first rule it breaks.

    The defaults are lenient; the published values are in the descriptions. `null` turns a rule off.
    Rules that count words or lines judge documents of at least `judge_from_words` words, so short
    answers and single sentences are not measured by shares of almost nothing; conversations are judged
    by their turns joined.
    """

    enabled: bool = True
    min_words: int = Field(default=1, ge=0, description="fewer words (Gopher: 50)")
    max_words: int | None = Field(default=None, ge=1, description="more words (Gopher: 100,000)")
    judge_from_words: int = Field(
        default=30, ge=1, description="the rules below judge documents of at least so many words"
    )
    min_word_length: float | None = Field(
        default=2.0,
        description="mean letters of a word, less; texts in Chinese, Japanese, Korean or Thai are not "
        "judged by it (Gopher: 3)",
    )
    max_word_length: float | None = Field(
        default=15.0, description="mean letters of a word, more (Gopher: 10)"
    )
    min_letters: Share | None = Field(
        default=0.1,
        description="less of what is no space is letters (Gopher: 0.8 of words have one)",
    )
    max_symbols: Share | None = Field(
        default=0.3, description="more of # and ... for each word (Gopher: 0.1)"
    )
    max_bullets: Share | None = Field(
        default=None,
        description="more lines begin with a bullet (Gopher: 0.9); lists are sound text",
    )
    max_ellipses: Share | None = Field(
        default=0.8, description="more lines end in an ellipsis (Gopher: 0.3)"
    )
    max_duplicate_lines: Share | None = Field(
        default=0.7, description="more of the characters are in repeated lines (Gopher: 0.2)"
    )
    max_duplicate_paragraphs: Share | None = Field(
        default=0.7, description="more of the characters are in repeated paragraphs (Gopher: 0.2)"
    )
    max_top_gram: Share | None = Field(
        default=0.75,
        description="more of the words are one repeated sequence of 2 to 4 (Gopher: 0.2 to 0.16)",
    )
    max_repeated_grams: Share | None = Field(
        default=0.9,
        description="more of the words are in repeated sequences of 10 (Gopher: 0.1 for sequences of 10)",
    )
    min_stop_words: int | None = Field(
        default=None,
        description="fewer of the, be, to, of, and, that, have, with; English only (Gopher: 2)",
    )
    min_end_marks: Share | None = Field(
        default=None,
        description="fewer lines end in a mark that closes a sentence (C4: all of them)",
    )
    forbidden: tuple[str, ...] = Field(
        default=(),
        description="a document that contains one of these goes, whatever the case (C4: `lorem ipsum`, `{`)",
    )


class DedupConfig(Config):
    """Exact and near duplicates over all corpora; texts against texts, conversations against them."""

    enabled: bool = True
    threshold: float = Field(
        default=0.8,
        ge=0.5,
        le=1,
        description="share of common word 3-grams (exact Jaccard) from which a document is a near "
        "duplicate; 1 removes equal texts only",
    )
    priority: tuple[str, ...] = Field(
        default=(),
        description="names of corpora whose copy is kept first; the others follow as the recipe has them",
    )


class PersonalConfig(Config):
    """Personal data to mask. Off unless asked: addresses and numbers are often public facts."""

    emails: bool = Field(default=False, description="e-mail addresses become [EMAIL]")
    phones: bool = Field(default=False, description="telephone numbers become [PHONE]")
    ids: bool = Field(
        default=False,
        description="numbers of persons and accounts become [ID]: US social security, Chinese resident "
        "identity, cards (check digits hold), IBAN, IP addresses",
    )


class BenchmarkConfig(Config):
    """A task to decontaminate against, whose data lies elsewhere than its file says."""

    task: str = Field(description="a file of evaluation/tasks, without .yaml, or a path to one")
    path: str | None = Field(default=None, description="read the items from this file instead")
    source: str | None = Field(
        default=None, description="which of the task's sources the data is shaped like"
    )


class ContaminationConfig(Config):
    """What counts as a copy of a test item."""

    ngram: int = Field(
        default=13, ge=5, description="items of so many words are found by any sequence of so many"
    )
    max_documents: int = Field(
        default=10,
        ge=1,
        description="sequences in more documents of the corpora are common phrases: ignored, and "
        "listed in the card",
    )
    min_words: int = Field(
        default=5,
        ge=1,
        description="items of fewer words count only where one of their answers is there too",
    )


class CleanConfig(Config):
    """What is done to documents before they are converted, and which of them go."""

    normalize: NormalizeConfig = NormalizeConfig()
    language: LanguageConfig = LanguageConfig()
    quality: QualityConfig = QualityConfig()
    dedup: DedupConfig = DedupConfig()
    personal: PersonalConfig = PersonalConfig()
    decontaminate: tuple[BenchmarkConfig, ...] = Field(
        default=(),
        description="tasks of evaluation/tasks whose items must not be trained on: names, or "
        "{task, path}; a task whose data cannot be read is an error",
    )
    contamination: ContaminationConfig = ContaminationConfig()

    @field_validator("decontaminate", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        if isinstance(value, list | tuple):
            return tuple({"task": item} if isinstance(item, str) else item for item in value)
        return value

    @model_validator(mode="after")
    def _each_task_once(self) -> "CleanConfig":
        names = [item.task for item in self.decontaminate]
        if len(set(names)) < len(names):
            raise ValueError(f"decontaminate: {', '.join(names)} names a task twice")
        return self
