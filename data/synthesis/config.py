"""What a recipe says about instruction-augmented text. Defaults are the published ones, where any."""

from typing import Any, Literal

from pydantic import Field, model_validator

from data.strict import Config


class FiltersConfig(Config):
    """Which pairs are let through. The first four are published, the rest are ours."""

    duplicate_overlap: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="two questions of a text are one when they share this part of their words "
        "(1: only equal ones, upper and lower case aside)",
    )
    # At 0.5 pass, against their own text and against another one: 97 and 26 % of the first sentences of
    # MedQuAD's answers (pages resemble each other), 37 and 0.3 % of PubMedQA's conclusions.
    min_answer_overlap: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="part of an answer's content words that the text or the question must hold; "
        "answers such as yes and no, and options, are judged by their question instead",
    )
    min_question_overlap: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="part of a question's content words that the text must hold, where the answer "
        "cannot be looked for",
    )
    min_rationale_overlap: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="part of a chain of thought's content words in the text",
    )
    min_question_chars: int = Field(default=8, ge=1)
    max_question_chars: int = Field(default=1500, ge=1, description="options included")
    min_answer_chars: int = Field(default=1, ge=1)
    max_answer_chars: int = Field(default=2000, ge=1, description="chain of thought included")
    min_distinct_words: float = Field(
        default=0.3,
        ge=0,
        le=1,
        description="distinct words over words, in an answer of 20 words or more: a loop is below",
    )
    language: Literal["auto", "off"] | str = Field(
        default="auto",
        description="language of the pairs: the text's (auto), one by its code (en), or not "
        "looked at (off)",
    )
    language_min_chars: int = Field(
        default=60, ge=1, description="shorter pairs are judged by their script alone"
    )


class ModesConfig(Config):
    """Chances of the five ways to set out pairs, where every text of the lane has two or more.

    A text with a single pair cannot be numbered, cannot show an example and has no next turn: those
    chances go to `classic`.
    """

    classic: float = Field(default=0.8, ge=0, description="pair after pair")
    dialog: float = Field(default=0.05, ge=0, description="two speakers")
    numbered: float = Field(
        default=0.05, ge=0, description="all questions, then all answers, by number"
    )
    inline: float = Field(
        default=0.05, ge=0, description="all but the last pair shown as examples of it"
    )
    next_turn: float = Field(
        default=0.05, ge=0, description="a dialogue whose last reply is asked for"
    )

    @model_validator(mode="after")
    def _sum_is_one(self) -> "ModesConfig":
        total = sum(chance for _, chance in self)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"modes: the chances add up to {total:g}; make them add up to 1")
        return self


class TemplatesConfig(Config):
    """How pairs are set out behind their text."""

    file: str | None = Field(
        default=None, description="a YAML like templates.yaml, to use instead of it"
    )
    modes: ModesConfig = ModesConfig()
    invert: float = Field(default=0.05, ge=0, le=1, description="chance that the pairs come first")
    label_answers: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="chance that the answer is the option's label (B), where options have labels "
        "of their own and are shown",
    )


class SynthesisConfig(Config):
    """How the documents of a corpus become instruction-augmented text."""

    augment: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the documents that get pairs; the rest stays raw (1: a domain; "
        "0.2: the published mix from scratch)",
    )
    rounds: int = Field(
        default=3,
        ge=1,
        le=64,
        description="M: texts of a lane, each shown the ones before it (scratch: 2)",
    )
    window: int = Field(
        default=4096,
        ge=64,
        description="tokens of the generator's window: prompt and reply together",
    )
    max_new_tokens: int = Field(default=400, ge=8, description="tokens of a reply at most")
    temperature: float = Field(default=0.0, ge=0, description="0: the likeliest token")
    top_p: float = Field(default=1.0, gt=0, le=1)
    text_tokens: int | None = Field(
        default=None,
        ge=16,
        description="longer documents are cut into chunks of so many tokens at most, at the ends "
        "of paragraphs or sentences; default: what leaves a reply its room in the window and in a "
        "row",
    )
    min_text_chars: int = Field(default=100, ge=1, description="shorter texts are left raw")
    block_documents: int = Field(
        default=8192,
        ge=1,
        description="lanes are formed inside so many documents of a partition, in the order of "
        "their ids; what is held in memory",
    )
    max_failed: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="the job stops where a larger share of a block's requests failed for good",
    )
    filters: FiltersConfig = FiltersConfig()
    templates: TemplatesConfig = TemplatesConfig()

    def identity(self) -> dict[str, Any]:
        """What the texts depend on: all but how many failures end the job."""
        return self.model_dump(exclude={"max_failed"})

    @model_validator(mode="after")
    def _room_for_a_text(self) -> "SynthesisConfig":
        if self.window < self.max_new_tokens + 48:
            raise ValueError(
                f"window: {self.window} tokens leave no room for a text beside a reply of "
                f"max_new_tokens: {self.max_new_tokens}; raise window or lower max_new_tokens"
            )
        return self
