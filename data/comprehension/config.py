"""What a recipe says about turning documents into reading comprehension.

The defaults are the published ones of AdaptLLM (ICLR 2024) where it published any.
"""

from typing import Literal

from pydantic import Field, model_validator

from data.strict import Config

FAMILIES = (
    "nli",
    "cause",
    "paraphrase",
    "keyword",
    "definition",
    "topic",
    "question",
    "section",
    "title",
    "completion",
)


class FamiliesConfig(Config):
    """Which families of tasks are made. Each can be turned off, as an ablation does."""

    nli: bool = Field(default=True, description="entailed, contradicted or neutral (two sentences)")
    cause: bool = Field(
        default=True, description="a cause and its effect, asked in both directions"
    )
    paraphrase: bool = Field(default=True, description="the same or the opposite said again")
    keyword: bool = Field(
        default=True, description="a sentence from domain words, or words from it"
    )
    definition: bool = Field(default=True, description="what a term means")
    topic: bool = Field(default=True, description="what a text or a part of it is about")
    question: bool = Field(
        default=True, description="questions from definitions and numbers (ours)"
    )
    section: bool = Field(
        default=True, description="a section's title from its text, and back (ours)"
    )
    title: bool = Field(default=True, description="the document's title from its text, and back")
    completion: bool = Field(default=True, description="the rest of the text from its beginning")


class LayoutConfig(Config):
    """Chances of what stands around the mined tasks of a text with a title and two sentences.

    They are divided by their sum. A text that has a title or an ending to ask for, but not both,
    is asked for it with the chance `one`.
    """

    title: float = Field(
        default=0.4, ge=0, description="the title is asked for, or the text from it"
    )
    completion: float = Field(default=0.1, ge=0, description="the ending of the text is asked for")
    both: float = Field(default=0.4, ge=0, description="both")
    neither: float = Field(default=0.1, ge=0, description="mined tasks only")
    one: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="the only one of title and ending that the text can have",
    )

    @model_validator(mode="after")
    def _some_layout(self) -> "LayoutConfig":
        if not self.title + self.completion + self.both + self.neither:
            raise ValueError("layout: all chances are 0; give at least one of them a share")
        return self


class ComprehensionConfig(Config):
    """How the documents of a corpus become reading comprehension."""

    language: str = Field(
        default="auto",
        description="code of the texts' language (en, zh, de, ... : a file in connectives/), or "
        "`auto`: told document by document; a text in a language without files stays raw",
    )
    domain: str | dict[str, str] | None = Field(
        default=None,
        description="name of the domain as the templates say it (`biomedicine`), or one for each "
        "language ({en: law, zh: 法律}); null: only templates that do not name it are used",
    )
    families: FamiliesConfig = FamiliesConfig()
    domain_vocab: str | None = Field(
        default="auto",
        description="SentencePiece model file of the domain, whose words are the keywords; `auto`: "
        "trained once per corpus and language; null: no keyword tasks",
    )
    vocab_size: int = Field(
        default=32000, ge=100, description="pieces of a vocabulary that `auto` trains"
    )
    vocab_sample_mb: int = Field(
        default=200, ge=1, le=200, description="megabytes of text at most that `auto` trains it on"
    )
    max_per_label: int = Field(
        default=2,
        ge=0,
        description="tasks at most of one sub-category (entail, contradict, definition, ...) in a "
        "finished text; 0: no limit",
    )
    layout: LayoutConfig = LayoutConfig()
    classify: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="share of documents whose inference tasks ask for the relation; the others ask "
        "for the second sentence",
    )
    negatives: float = Field(
        default=0.0,
        ge=0,
        description="for each mined inference or paraphrase pair, so many pairs of sentences of "
        "the same text that no connective relates, as neutral ones (the published way: none)",
    )
    balance: bool = Field(
        default=False,
        description="keep at most as many tasks of any inference label as the rarest label that "
        "occurs in the text has (the published way: no)",
    )
    intro: bool = Field(default=True, description="a sentence between the text and its tasks")
    form: Literal["text", "chat"] = Field(
        default="text",
        description="text: the text and its tasks as running text; chat: one conversation per "
        "text, one turn per task, in the corpus' chat.template, trained on as chat.train_on says",
    )
    system: str | None = Field(
        default=None,
        description="system prompt of the conversations: a name in system_prompts.yaml (llama2: "
        "the published one), or the prompt itself; null: chat.system",
    )
    title: Literal["meta", "first_line"] = Field(
        default="meta",
        description="where a document's title is from: fields.title, or its first line",
    )
    sections: Literal["long", "always", "never"] = Field(
        default="long",
        description="always: one text of every section, under its title; long: documents too long "
        "for one text are divided between sections; never: sections are not looked for",
    )
    read_share: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="a document too long for one text is divided into parts that fill about this "
        "share of seq_len, so that their tasks fit behind them",
    )

    @model_validator(mode="after")
    def _known_language(self) -> "ComprehensionConfig":
        from data.comprehension.language import languages

        if self.language != "auto" and self.language not in languages():
            raise ValueError(
                f"language: {self.language!r} has no file in data/comprehension/connectives "
                f"(there are {', '.join(languages())}); write one, or say auto"
            )
        return self
