"""Our models as lm-evaluation-harness asks models: log-likelihoods by our scorer, texts by our engine.

Made so that a run of lm-eval gives the figures that it gives for the exported folder (`--model hf`):

- context and continuation are tokenized together and parted by the context's number of tokens, in
  lm-eval's own code; BOS stands where the model was trained with it
- what is too long loses tokens on the left, as many as there; how many prompts did is in the results
- a text begins without the space that a SentencePiece tokenizer writes before its first word

With `--apply_chat_template` prompts go through the model's own template. Special tokens that the
template writes become special ids; the same strings inside a message stay text.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from data.chat import TEXT_TEMPLATES, ChatConfig, render, template_source
from data.document import Turn
from evaluation.harness_config import open_settings, read_settings, sampling_of
from model.config import GenerationConfig

if TYPE_CHECKING:
    from evaluation.options import Scorer
    from model.engine import Engine

NAME = "lectern"  # as --model calls it
CHUNK = 512  # contexts between two writes to lm-eval's cache of answers
_ESCAPE = "\ufdd5"  # a noncharacter, inside special-token strings that a message holds
Request = tuple[tuple[str, str] | None, list[int], list[int]]


class HarnessModel:
    """The answers to lm-eval's requests; `lm_class` makes an `LM` of it.

    Attributes:
        settings: as given.
        model: the weights and what belongs to them.
        max_length: tokens that the model reads at once.
        add_bos: whether a text begins with BOS.
        counts: prompts, and those that were cut on the left.
    """

    backend = "causal"

    def __init__(
        self,
        pretrained: str | None = None,
        *,
        batch_size: Any = None,
        max_batch_size: Any = None,
        device: Any = None,
        **settings: Any,
    ) -> None:
        """Opens the model.

        Args:
            pretrained: see `evaluation.harness_config.HarnessConfig`.
            batch_size: given by lm-eval, as the next two are; the scorer packs its own batches.
            max_batch_size: see `batch_size`.
            device: JAX says where it runs (`JAX_PLATFORMS`).
            settings: further fields of it.

        Raises:
            ValueError: a setting is wrong, or the model cannot be opened.
        """
        super().__init__()
        self.settings = read_settings({"pretrained": pretrained, **settings})
        self.model, self._mesh = open_settings(self.settings)
        self.tokenizer = self.model.tokenizer
        window = self.model.config.max_seq_len
        self.max_length = self.settings.max_length or window
        if self.max_length > window:
            raise ValueError(f"max_length: {self.max_length}, but the model's window is {window}")
        said = self.settings.add_bos_token
        self.add_bos = self.model.add_bos if said is None else said
        if self.add_bos and self.tokenizer.bos_id is None:
            raise ValueError(f"add_bos_token: true, but {self.tokenizer.path} has no BOS token")
        self._chat = self.model.chat
        if self.settings.chat:
            self._chat = ChatConfig(template=self.settings.chat)
        self._templated = False  # lm-eval sends all prompts of a run through the template, or none
        self.counts: Counter[str] = Counter()

    # --- tokens ---------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """EOS."""
        return self.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that nothing stands before."""
        return self.tokenizer.eos_id if self.tokenizer.bos_id is None else self.tokenizer.bos_id

    @property
    def tokenizer_name(self) -> str:
        """Names tokenizer and template, for lm-eval's cache of requests."""
        return f"{self.tokenizer.fingerprint[:16]}_{self._chat.template}".replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Ids of a prompt.

        Args:
            string: a text, or what `apply_chat_template` has made.
            add_special_tokens: whether BOS is put before it; None: as the model was trained.
        """
        bos = add_special_tokens
        if bos is None:
            bos = self.add_bos and (not self._templated or self._chat.template in TEXT_TEMPLATES)
        ids = self._encode_templated(string) if self._templated else self.tokenizer.encode(string)
        first = [self.prefix_token_id] if bos and self.tokenizer.bos_id is not None else []
        return [*first, *ids.tolist()]

    def _encode_templated(self, string: str) -> np.ndarray:
        special = self.tokenizer.special_ids
        pieces = [piece for piece in _pattern(tuple(special)).split(string) if piece]
        parts = [special.get(piece, piece.replace(_ESCAPE, "")) for piece in pieces]
        ids = [found for found, _ in self.tokenizer.encode_parts([p for p in parts if p != ""])]
        return np.concatenate([np.zeros(0, np.int32), *ids])

    # --- chat -----------------------------------------------------------------------------------------

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's source, for the results; a name chooses one of ours or of a file."""
        if not chat_template:
            return None
        if isinstance(chat_template, str):
            self._chat = ChatConfig(template=chat_template)
        return template_source(self._chat, self.tokenizer)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as the model's template renders it, up to the assistant's next reply.

        Without `add_generation_prompt` the last message is the beginning of that reply.
        """
        self._templated = True
        escape = _pattern(tuple(self.tokenizer.special_ids))
        turns = [
            Turn(m["role"], escape.sub(lambda s: s[0][0] + _ESCAPE + s[0][1:], m["content"]))
            for m in chat_history
        ]
        begun = "" if add_generation_prompt else turns.pop().text
        return render(turns, self._chat, self.tokenizer, generation_prompt=True) + begun

    # --- requests -------------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is the likeliest; the order kept.

        Continuations of one context are scored together.
        """
        from evaluation.options import Asked

        contexts: dict[tuple[int, ...], list[int]] = {}
        for i, (_texts, context, continuation) in enumerate(requests):
            contexts.setdefault(self._fit(context, continuation), []).append(i)
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for chunk in _chunks(sorted(contexts.items(), key=lambda c: -len(c[0])), not disable_tqdm):
            asked = [Asked(c, tuple(tuple(requests[i][2]) for i in them)) for c, them in chunk]
            scored = self._scorer.score(self.model.params, asked)
            for (_context, them), found in zip(chunk, scored, strict=True):
                for i, logprob, greedy in zip(them, found.logprobs, found.greedy, strict=True):
                    answers[i] = float(logprob), bool(greedy)
                    if (texts := requests[i][0]) is not None:
                        self._keep("loglikelihood", texts, answers[i])
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list:
        """Log-probability of whole texts, in windows that lm-eval cuts."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows: list[Request] = []
        owners: list[int] = []
        for i, request in enumerate(requests):
            cut = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1
            )
            for context, continuation in map(make_disjoint_window, cut):
                windows.append((None, context, continuation))
                owners.append(i)
        totals = [0.0] * len(requests)
        scored = self._loglikelihood_tokens(windows, disable_tqdm)
        for i, (logprob, _greedy) in zip(owners, scored, strict=True):
            totals[i] += logprob
        for request, total in zip(requests, totals, strict=True):
            self._keep("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts behind prompts; a request that stands there several times is sampled anew each time."""
        from model.engine import TokenPrompt

        asked: list[TokenPrompt] = []
        seen: Counter[str] = Counter()
        for i, request in enumerate(requests):
            context, arguments = request.args
            repeat = seen[context]
            seen[context] += 1
            sampling = sampling_of(arguments, self.settings.seed + repeat)
            room = self.max_length - sampling.max_new_tokens
            if room < 1:
                raise ValueError(
                    f"max_gen_toks: {sampling.max_new_tokens} leaves no room for a prompt in the "
                    f"{self.max_length} tokens that the model reads; set --gen_kwargs max_gen_toks=N"
                )
            tokens = self.tok_encode(context)
            self._count(len(tokens) > room)
            asked.append(TokenPrompt(str(i), (), sampling, tokens=tuple(tokens[-room:])))
        texts = [""] * len(requests)
        for completion in _shown(self._engine.generate(asked), len(asked), not disable_tqdm):
            if completion.finish == "error":
                raise ValueError(f"prompt {completion.id} cannot be continued: {completion.error}")
            i = int(completion.id)
            text = completion.text.removeprefix(" ") if self._drops_space else completion.text
            texts[i] = text
            self._keep("generate_until", requests[i].args, text)
        return texts

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into the results of a run about the model."""
        import jax

        params = jax.tree.leaves(self.model.params)
        return {
            "model_num_parameters": sum(int(x.size) for x in params),
            "model_dtype": self.dtype,
            "model_step": self.model.step,
            "add_bos_token": self.add_bos,
            "chat_template_name": self._chat.template if self._templated else None,
            "prompts": self.counts["prompts"],
            "prompts_cut": self.counts["cut"],
        }

    # --- the model ------------------------------------------------------------------------------------

    @property
    def dtype(self) -> Literal["float32", "bfloat16"]:
        """The dtype that is computed in."""
        if self.settings.dtype != "auto":
            return self.settings.dtype
        return "float32" if self._mesh.devices.flat[0].platform == "cpu" else "bfloat16"

    @functools.cached_property
    def _scorer(self) -> "Scorer":
        from evaluation.options import Scorer

        return Scorer(
            self.model.config,
            self._mesh,
            self.model.plan.specs,
            max_len=self.max_length,
            compute_dtype=self.dtype,
        )

    @functools.cached_property
    def _engine(self) -> "Engine":
        """The engine, on as many devices as share the weights; it copies them there."""
        from evaluation.writer import open_writer

        settings = GenerationConfig(
            window=self.max_length, slots=self.settings.slots, compute_dtype=self.dtype
        )
        devices = list(self._mesh.devices.flat)[: self.settings.tensor]
        return open_writer(self.model, devices, settings, chat=self._chat)

    @property
    def _drops_space(self) -> bool:
        return self.tokenizer.prefix_bytes > 0

    def _fit(self, context: list[int], continuation: list[int]) -> tuple[int, ...]:
        """The context without what does not fit; the continuation's last token is not read."""
        room = self.max_length + 1 - len(continuation)
        if room < 1:
            raise ValueError(
                f"max_length: {self.max_length} tokens, but a continuation has {len(continuation)}; "
                "take a longer window, or leave the task out"
            )
        self._count(len(context) > room)
        return tuple(context[-room:])

    def _count(self, cut: bool) -> None:
        self.counts["prompts"] += 1
        self.counts["cut"] += cut

    def _keep(self, kind: str, request: Any, answer: Any) -> None:
        """For `--use_cache`: a run that was stopped goes on where it was."""
        self.cache_hook.add_partial(kind, request, answer)  # pyright: ignore[reportAttributeAccessIssue]


@functools.cache
def lm_class() -> type:
    """`HarnessModel` as lm-eval's `LM`; made when asked for, since lm-eval is an extra."""
    from lm_eval.api.model import TemplateLM

    return type("Lectern", (HarnessModel, TemplateLM), {"__doc__": HarnessModel.__doc__})


@functools.lru_cache(16)
def _pattern(special: tuple[str, ...]) -> re.Pattern[str]:
    """Splits at special-token strings, the longest first; at nothing where there are none."""
    longest_first = sorted(filter(None, special), key=len, reverse=True)
    return re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")


def _chunks(items: list[Any], shown: bool) -> Iterator[list[Any]]:
    parts = [items[i : i + CHUNK] for i in range(0, len(items), CHUNK)]
    return iter(_shown(parts, len(parts), shown, unit=f" x {CHUNK} contexts"))


def _shown(items: Any, total: int, shown: bool, unit: str = " texts") -> Any:
    from tqdm import tqdm

    return tqdm(items, total=total, disable=not shown, unit=unit, desc=NAME)
