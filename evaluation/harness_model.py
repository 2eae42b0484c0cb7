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
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data.chat import TEXT_TEMPLATES, ChatConfig, render, template_source
from data.document import Turn
from data.generator import Sampling
from model.config import GenerationConfig, shape_problems

if TYPE_CHECKING:
    from evaluation.options import Scorer
    from evaluation.source import Model
    from model.engine import Engine

NAME = "lectern"  # as --model calls it
CHUNK = 512  # contexts between two writes to lm-eval's cache of answers
MAX_NEW_TOKENS = 256  # where a task says nothing; lm-eval's own default
_ESCAPE = "\ufdd5"  # a noncharacter, inside special-token strings that a message holds
# A task's generation_kwargs that are settings of ours; `until`, `do_sample` and the maximum are read apart.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")

Request = tuple[tuple[str, str] | None, list[int], list[int]]


class HarnessConfig(BaseModel):
    """What `--model_args` may say; names that lm-eval has for the same thing are lm-eval's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pretrained: str = Field(description="a run directory, a Hugging Face folder or a hub id")
    step: int | None = Field(default=None, description="of a run; default: the newest good one")
    max_length: int | None = Field(
        default=None, ge=2, description="tokens that the model reads at once; default: its window"
    )
    add_bos_token: bool | None = Field(
        default=None, description="begin a text with BOS; default: as the model was trained"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="compute dtype; auto: float32 on a CPU, bfloat16 elsewhere"
    )
    chat: str | None = Field(
        default=None, description="chat template for --apply_chat_template; default: the model's"
    )
    devices: int | None = Field(default=None, ge=1, description="use so many; default: all")
    tensor: int = Field(default=1, ge=1, description="devices that share heads, mlp, vocabulary")
    slots: int = Field(default=32, ge=1, description="texts that are written at once")
    seed: int = Field(default=0, description="of sampled texts")
    trust_remote_code: bool = Field(
        default=False, description="set by lm-eval's flag of that name; no code of a model is run"
    )


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
            pretrained: see `HarnessConfig`.
            batch_size: given by lm-eval, as the next two are; the scorer packs its own batches.
            max_batch_size: see `batch_size`.
            device: JAX says where it runs (`JAX_PLATFORMS`).
            settings: further fields of `HarnessConfig`.

        Raises:
            ValueError: a setting is wrong, or the model cannot be opened.
        """
        super().__init__()
        self.settings = _settings({"pretrained": pretrained, **settings})
        self.model, self._mesh = _open(self.settings)
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
            sampling = _sampling(arguments, self.settings.seed + repeat)
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
        import jax
        import optax
        from jax.sharding import NamedSharding

        from model.engine import Engine
        from tpu.config import MeshConfig
        from tpu.mesh import make_mesh
        from training.state import layout

        ways = self.settings.tensor
        mesh = make_mesh(MeshConfig(fsdp=1, tensor=ways), list(self._mesh.devices.flat)[:ways])
        specs = layout(self.model.config, optax.identity(), mesh).specs
        there = jax.tree.map(
            lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), self.model.params, specs
        )
        return Engine(
            there,
            self.model.config,
            self.tokenizer,
            GenerationConfig(
                window=self.max_length,
                slots=self.settings.slots,
                compute_dtype=self.dtype,
            ),
            chat=self._chat,
            add_bos=self.add_bos,
            stop_tokens=self.model.stop_tokens,
            mesh=mesh if ways > 1 else None,
        )

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


def _settings(given: dict[str, Any]) -> HarnessConfig:
    try:
        return HarnessConfig(**{k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        known = ", ".join(HarnessConfig.model_fields)
        raise ValueError(
            "; ".join(f"--model_args: {line}" for line in shape_problems(error))
            + f"; there are: {known}"
        ) from error


def _open(settings: HarnessConfig) -> "tuple[Model, Any]":
    import jax

    from evaluation.source import open_model
    from tpu.config import MeshConfig
    from tpu.mesh import make_mesh
    from tpu.runtime import start

    start()
    if jax.process_count() > 1:
        raise ValueError(
            f"{jax.process_count()} processes: lm-eval is run by one, on the devices of its machine"
        )
    devices = jax.devices()[: settings.devices]
    if settings.devices and settings.devices > len(devices):
        raise ValueError(f"devices: {settings.devices}, but there are {len(devices)}")
    mesh = make_mesh(MeshConfig(tensor=settings.tensor), devices)
    model = open_model(
        settings.pretrained,
        mesh,
        step=settings.step,
        max_seq_len=settings.max_length,
        vocab_multiple=settings.tensor,
    )
    return model, mesh


def _sampling(arguments: dict[str, Any], seed: int) -> Sampling:
    """A task's generation_kwargs as ours."""
    from lm_eval.models.utils import normalize_gen_kwargs

    said: dict[str, Any] = dict(normalize_gen_kwargs(arguments, MAX_NEW_TOKENS))
    until, limit = said.pop("until"), said.pop("max_gen_toks")
    sampled = said.pop("do_sample", False)
    if unknown := sorted(set(said) - set(_SAMPLING)):
        raise ValueError(
            f"generation_kwargs: {', '.join(unknown)}: not known; there are until, max_gen_toks, "
            f"do_sample, {', '.join(_SAMPLING)}"
        )
    said = {name: type(getattr(Sampling(), name))(value) for name, value in said.items()}
    said["temperature"] = said.get("temperature", 1.0) if sampled else 0.0
    stop = tuple(text for text in until if text)
    return Sampling(**said, max_new_tokens=limit, stop=stop, seed=seed)


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
