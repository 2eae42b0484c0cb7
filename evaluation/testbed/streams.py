"""What each variant trains on: packed streams in memory and their shares of the tokens.

Every variant reads the same articles in the same number of wordings, the held-out entities' among
them, and the same general text; all but `raw` the same general questions. What a variant makes, it
makes of the taught entities alone. Streams of unlimited wordings are as long as the longest run, so
that no text comes twice.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data.chat import ChatConfig, encode_documents
from data.document import Document
from data.tokenizer import Tokenizer
from evaluation.testbed.articles import write_articles
from evaluation.testbed.config import TestbedConfig, Variant, Wordings
from evaluation.testbed.domain import Domain, Entity, load_wording, make_domain
from evaluation.testbed.questions import question_documents

if TYPE_CHECKING:
    from data.stream import Stream

# A run's streams in this order; those that a variant does not have give no rows.
NAMES = ("articles", "general_text", "general_questions", "comprehension", "questions", "synthesis")
MADE: dict[Variant, tuple[str, ...]] = {
    "raw": (),
    "raw_general_qa": (),
    "comprehension": ("comprehension",),
    "instructions": ("questions",),
    "mixed": ("comprehension", "questions"),
    "synthesizer": ("synthesis",),
}
CHAT = ChatConfig()  # question, one space, answer
_BATCH = 256
_SPARE = 1.1  # more than a run takes of a stream, since rows are dealt by average fill

Convert = Callable[[Iterable[Document]], Iterable[Document]]


@dataclass(frozen=True)
class World:
    """The domain to learn, and the general one beside it."""

    domain: Domain
    general: Domain


@dataclass(frozen=True)
class Packed:
    """A stream in memory: its description as `data.mixture` wants it, and its rows [n, T]."""

    stream: "Stream"
    tokens: np.ndarray
    segment_ids: np.ndarray
    loss_mask: np.ndarray


def make_world(config: TestbedConfig) -> World:
    """Both domains of a recipe. Of the general one nothing is held out but what has to be."""
    domain, general = config.domain, config.general
    return World(
        make_domain(
            load_wording(domain.wording),
            num_entities=domain.entities,
            held_out=domain.held_out,
            seed=domain.seed,
        ),
        make_domain(
            load_wording(general.wording),
            num_entities=general.entities,
            held_out=1 / general.entities,
            seed=domain.seed,
        ),
    )


def shares(config: TestbedConfig, variant: Variant) -> dict[str, float]:
    """Share of the tokens of every stream that a variant reads; they add up to 1."""
    told, made = config.shares, MADE[variant]
    parts = {"general_text": told.general_text, "general_questions": told.general_questions}
    if variant == "raw":
        parts = {"general_text": sum(parts.values())}
    parts |= {name: told.made / len(made) for name in made}
    return {"articles": 1 - sum(parts.values())} | parts


def documents(
    config: TestbedConfig, world: World, name: str, wordings: Wordings, convert: Convert | None
) -> Iterator[Document]:
    """The documents of a stream, without end for articles in unlimited wordings."""
    domain, general, seed = world.domain, world.general, config.domain.seed
    if name == "questions":
        yield from question_documents(domain, domain.taught)
    elif name == "general_questions":
        yield from question_documents(general, general.entities)
    else:
        place, entities = domain, list(domain.entities)
        if name == "general_text":
            place, entities = general, list(general.entities)
        elif name != "articles":
            entities = domain.taught
        yield from _articles(place, entities, wordings, seed, convert)


def pack_stream(
    name: str,
    found: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    seq_len: int,
    max_tokens: int,
) -> Packed:
    """The documents up to `max_tokens`, tokenized and packed as data.prepare does it."""
    from data.pack import pack
    from data.stream import Stream

    rows = list(pack(_encoded(found, tokenizer, max_tokens), seq_len))
    if not rows:
        raise ValueError(f"stream {name}: no documents; this variant has nothing to train on")
    arrays = {
        part: np.stack([getattr(row, part) for row in rows])
        for part in ("tokens", "segment_ids", "loss_mask")
    }
    info: dict[str, Any] = {
        "num_rows": len(rows),
        "tokens": int((arrays["segment_ids"] > 0).sum()),
        "supervised": int(arrays["loss_mask"].sum()),
        "seq_len": seq_len,
    }
    return Packed(Stream(name, f"memory:{name}", info), **arrays)


def make_stream(
    config: TestbedConfig,
    world: World,
    tokenizer: Tokenizer,
    name: str,
    wordings: Wordings,
    synthesize: Convert | None = None,
) -> Packed:
    """One stream, packed; whichever variants read it, it is the same."""
    seq_len, most = config.run.seq_len, config.run.budgets[-1]
    share = max(shares(config, variant).get(name, 0) for variant in config.variants)
    convert = None
    if name == "comprehension":
        convert = comprehension(tokenizer, seq_len)
    elif name == "synthesis":
        convert = synthesize
    found = documents(config, world, name, wordings, convert)
    limit = round(most * share * _SPARE) + config.run.batch_rows * seq_len
    return pack_stream(name, found, tokenizer, seq_len=seq_len, max_tokens=limit)


def comprehension(tokenizer: Tokenizer, seq_len: int) -> Convert:
    """Our own miner and composer, with their defaults, for English texts with a title.

    There are no keyword tasks: they need a general tokenizer to compare the domain's words with,
    and the testbed's only tokenizer is the domain's.
    """
    from data.comprehension.config import ComprehensionConfig
    from data.comprehension.convert import converter
    from data.tally import Tally

    return converter(
        ComprehensionConfig(language="en", domain_vocab=None),
        tokenizer=tokenizer,
        vocabulary=None,
        seq_len=seq_len,
        chat=CHAT,
        tally=Tally("testbed"),
    )


def _articles(
    place: Domain,
    entities: Sequence[Entity],
    wordings: Wordings,
    seed: int,
    convert: Convert | None,
) -> Iterator[Document]:
    numbers = itertools.count() if wordings == "unlimited" else range(wordings)
    for number in numbers:
        found = (article.document() for article in write_articles(place, entities, [number], seed))
        yield from (found if convert is None else convert(found))


def _encoded(found: Iterable[Document], tokenizer: Tokenizer, max_tokens: int) -> Iterator[Any]:
    """Documents as tokens, BOS and EOS by the tokenizer's way, up to so many of them."""
    taken, rest = 0, iter(found)
    while batch := list(itertools.islice(rest, _BATCH)):
        for encoded in encode_documents(
            batch, tokenizer, CHAT, add_bos=tokenizer.add_bos, add_eos=True
        ):
            yield encoded
            taken += len(encoded.tokens)
            if taken >= max_tokens:
                return
