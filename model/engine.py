"""Batch generation: continuous batching over a cache of slots.

- a prompt is read in one pass, padded to a bucket that its own length chooses, into a free slot; then
  every step writes one token of every slot, whatever mix of lengths and settings they hold
- a step always runs all slots at one compiled shape, so a sequence's numbers do not depend on what
  the other slots do: the same prompt gives the same tokens alone and in any company
- the prompt's last token is left to the first step, so that tokens are chosen in one place only
- several steps run between two looks at the host; they end early when a slot falls free and prompts
  are waiting, so a slot is refilled at once
- where devices work beside the host (not a CPU), the next steps are sent off before the last ones
  are looked at

Several processes run one engine each, on their own devices and their own share of the prompts: no
engine waits for another. An engine spans the devices of its mesh (`tensor`: heads, mlp, vocabulary).
"""

import functools
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from data.chat import ChatConfig, ConversationError, encode_prompt
from data.generator import Completion, Prompt
from data.literal import encode_literal
from data.tokenizer import Tokenizer
from model.cache import make_cache, padded
from model.config import GenerationConfig, LlamaConfig
from model.continuation import Continuation
from model.decode import cast, unstacked
from model.llama import Params
from model.sampling import check, settings_of
from model.slots import Program, Row, Slots, choose_attention, empty_slots

DEFAULT_WINDOW = 4096  # where nothing is said; a window of 128 k would fill any memory
_SMALLEST_BUCKET = 16


@dataclass(frozen=True)
class TokenPrompt(Prompt):
    """A prompt for an engine as token ids, BOS and special tokens included; it has no turns."""

    tokens: tuple[int, ...] = ()


@dataclass(eq=False)
class _Request:
    """A prompt in a slot, or on the way to one."""

    prompt: Prompt
    tokens: np.ndarray
    limit: int
    text: Continuation
    outbox: deque[Completion]
    written: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    dropped: bool = False


class Engine:
    """Continues prompts with a model; `generate` is a `data.generator.Generate`.

    Attributes:
        window: tokens of a prompt and its text together.
        counts: prompts, prompt_tokens, new_tokens, errors, cut (prompts that lost their beginning).
    """

    def __init__(
        self,
        params: Params,
        config: LlamaConfig,
        tokenizer: Tokenizer,
        generation: GenerationConfig = GenerationConfig(),  # noqa: B008 (frozen)
        *,
        chat: ChatConfig | None = None,
        add_bos: bool | None = None,
        stop_tokens: Iterable[int] = (),
        mesh: Mesh | None = None,
    ) -> None:
        """Places the weights for decoding.

        Args:
            params: the weights, in any float dtype; on the mesh where there is one.
            config: their shape.
            tokenizer: of the prompts.
            generation: how to run.
            chat: how conversations become prompts; default: the template shipped with the tokenizer,
                else plain.
            add_bos: whether a text begins with BOS; default: the tokenizer's.
            stop_tokens: ids that end a text, besides EOS.
            mesh: of the weights; its devices must be this process's own.

        Raises:
            ValueError: a window longer than the model's, a mesh that does not fit the model.
        """
        self.config, self.tokenizer, self.generation = config, tokenizer, generation
        window = generation.window or min(config.max_seq_len, DEFAULT_WINDOW)
        if window > config.max_seq_len:
            raise ValueError(
                f"window: {window} is more than the model's {config.max_seq_len} positions"
            )
        self.window = window
        self.counts: Counter[str] = Counter()
        shipped = tokenizer.chat_template is not None
        self._chat = chat or ChatConfig(template="tokenizer" if shipped else "plain")
        self._add_bos = tokenizer.add_bos if add_bos is None else add_bos
        named = (_token_id(tokenizer, token) for token in generation.stop_tokens)
        self._stop_ids = sorted({tokenizer.eos_id, *stop_tokens, *named})
        self._mesh = mesh
        leaf = jax.tree.leaves(params)[0]
        platform = next(iter(leaf.devices())).platform
        dtype = generation.compute_dtype
        if dtype == "auto":
            dtype = "float32" if platform == "cpu" else "bfloat16"
        self._dtype = jnp.dtype(dtype)
        params = cast(params, self._dtype)
        self._params = unstacked(params) if platform == "cpu" else params
        attend, access = choose_attention(platform, self._dtype, mesh)
        program = Program(
            config, tuple(self._stop_ids), generation.steps, generation.logprobs, attend, access
        )
        self._admit_jit, self._run_jit = program.jit(mesh)
        self._lag = 0 if platform == "cpu" else 1  # dispatches under way beside the one looked at
        place = next(iter(leaf.devices())) if mesh is None else NamedSharding(mesh, P())
        cache = make_cache(config, generation.slots, window, self._dtype, mesh)
        # Put where it already is, or the first call of each program would be compiled for arrays
        # that may go anywhere, and the second one anew.
        self._cache = jax.device_put(cache, place) if mesh is None else cache
        if mesh is None:
            self._params = jax.device_put(self._params, place)
        # Arrays of their own each: they are given away to every call and come back from it.
        slots = jax.tree.map(jnp.copy, empty_slots(generation.slots, config))
        self._slots: Slots = jax.device_put(slots, place)
        self._tenants: list[_Request | None] = [None] * generation.slots
        self._under_way: deque[tuple[list[_Request | None], Any]] = deque()

    # --- what is asked of it --------------------------------------------------------------------------

    def generate(self, prompts: Iterable[Prompt]) -> Iterator[Completion]:
        """Completions in the order in which they are finished.

        Takes a prompt when there is a slot for it and not before, so `prompts` may be endless.
        Several calls may be under way at once; they share the slots.
        """
        source, waiting = iter(prompts), True
        outbox: deque[Completion] = deque()
        mine: list[_Request] = []
        try:
            while True:
                while outbox:
                    yield outbox.popleft()
                mine = [request for request in mine if request in self._tenants]
                if waiting and None in self._tenants:
                    prompt = next(source, None)
                    if prompt is None:
                        waiting = False
                    elif request := self._request(prompt, outbox):
                        self._admit(request)
                        mine.append(request)
                elif mine:
                    self._advance(waiting)
                elif waiting:  # all slots are another call's
                    self._advance(True)
                else:
                    return
        finally:
            self._drop(mine)

    def stream(self, prompt: Prompt) -> Iterator[str]:
        """The text of one completion, piece by piece as it becomes certain.

        Raises:
            ValueError: the prompt cannot be continued.
        """
        outbox: deque[Completion] = deque()
        request = self._request(prompt, outbox)
        if request is None:
            raise ValueError(outbox[0].error)
        while None not in self._tenants:
            self._advance(True)
        self._admit(request)
        try:
            while not outbox:
                self._advance(False)
                if piece := request.text.new(last=bool(outbox)):
                    yield piece
        finally:
            self._drop([request])

    # --- prompts --------------------------------------------------------------------------------------

    def _request(self, prompt: Prompt, outbox: deque[Completion]) -> _Request | None:
        """A prompt ready for a slot; or None, and its error completion is in the outbox."""
        self.counts["prompts"] += 1
        try:
            tokens = self._encode(prompt)
            check(prompt.sampling)
            tokens = self._fit(tokens, prompt.sampling.max_new_tokens)
        except (ConversationError, ValueError) as error:
            self.counts["errors"] += 1
            outbox.append(Completion(prompt.id, "", "error", error=str(error)))
            return None
        self.counts["prompt_tokens"] += len(tokens)
        limit = min(prompt.sampling.max_new_tokens, self.window - len(tokens))
        text = Continuation(self.tokenizer, tokens, prompt.sampling.stop)
        return _Request(prompt, tokens, limit, text, outbox)

    def _encode(self, prompt: Prompt) -> np.ndarray:
        if isinstance(prompt, TokenPrompt):
            return np.array(prompt.tokens, np.int32)
        if prompt.literal_special:
            if any(turn.role != "text" for turn in prompt.turns):
                raise ValueError("literal_special: is for texts; a chat template speaks for itself")
            text = "\n\n".join(turn.text for turn in prompt.turns)
            return encode_literal(text, self.tokenizer)
        return encode_prompt(prompt.turns, self.tokenizer, self._chat, add_bos=self._add_bos)

    def _fit(self, tokens: np.ndarray, wanted: int) -> np.ndarray:
        """The prompt if it leaves room for a token, else its end, or an error."""
        if not len(tokens):
            raise ValueError("the prompt has no tokens, so there is nothing to continue")
        if len(tokens) < self.window:
            return tokens
        if self.generation.long_prompts == "error":
            raise ValueError(
                f"the prompt has {len(tokens)} tokens and leaves no room in the window of "
                f"{self.window}; shorten it, or set long_prompts=cut or a larger window"
            )
        self.counts["cut"] += 1
        room = max(1, self.window - wanted)
        bos = tokens[:1] if room > 1 and tokens[0] == self.tokenizer.bos_id else tokens[:0]
        return np.concatenate([bos, tokens[len(tokens) - room + len(bos) :]])

    # --- slots ----------------------------------------------------------------------------------------

    def _admit(self, request: _Request) -> None:
        """Reads the prompt into a free slot."""
        slot = self._tenants.index(None)
        before = len(request.tokens) - 1  # the last token is the first step's
        bucket = _bucket(before, padded(self.window))
        tokens = np.zeros((1, bucket), np.int32)
        tokens[0, :before] = request.tokens[:-1]
        row = Row(
            slot=np.int32(slot),
            before=np.int32(before),
            last=np.int32(request.tokens[-1]),
            limit=np.int32(request.limit),
            settings=settings_of(request.prompt.sampling),
        )
        self._cache, self._slots = self._admit_jit(
            self._params, cache=self._cache, slots=self._slots, tokens=tokens, row=row
        )
        self._tenants[slot] = request

    def _advance(self, waiting: bool) -> None:
        """Sends off the next steps, and looks at the ones before them."""
        if any(self._tenants):
            kept = np.array([tenant is not None for tenant in self._tenants])
            self._cache, self._slots, out = self._run_jit(
                self._params,
                cache=self._cache,
                slots=self._slots,
                kept=kept,
                waiting=np.bool_(waiting),
            )
            self._under_way.append((list(self._tenants), out))
        while len(self._under_way) > (self._lag if any(self._tenants) else 0):
            self._look(*self._under_way.popleft())

    def _look(self, tenants: list[_Request | None], out: dict[str, jax.Array]) -> None:
        """Hands the tokens of some steps to the sequences that were in the slots then."""
        out = jax.device_get(out)
        for slot, request in enumerate(tenants):
            if request is None or request.dropped or self._tenants[slot] is not request:
                continue
            tokens = out["tokens"][:, slot]
            for step in range(int((tokens >= 0).sum())):
                token = int(tokens[step])
                request.written.append(token)
                if self.generation.logprobs:
                    request.logprobs.append(float(out["logprobs"][step, slot]))
                ended = token in self._stop_ids
                if not ended:
                    ended = request.text.add(token)
                if ended or len(request.written) >= request.limit:
                    self._tenants[slot] = None
                    self._complete(request, "stop" if ended else "length")
                    break

    def _complete(self, request: _Request, finish: Any) -> None:
        text = request.text.finish()
        if request.text.stopped:  # the last characters were a stop string all along
            finish = "stop"
        self.counts["new_tokens"] += len(request.written)
        request.outbox.append(
            Completion(
                request.prompt.id,
                text,
                finish,
                num_prompt_tokens=len(request.tokens),
                num_tokens=len(request.written),
                logprobs=tuple(request.logprobs),
            )
        )

    def _drop(self, requests: list[_Request]) -> None:
        """Frees the slots of sequences that nobody waits for any more."""
        for request in requests:
            request.dropped = True
            if request in self._tenants:
                self._tenants[self._tenants.index(request)] = None


def _token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a stop token named by its string."""
    if token in tokenizer.special_ids:
        return tokenizer.special_ids[token]
    ids = tokenizer.encode(token)
    if len(ids) != 1:
        raise ValueError(
            f"stop_tokens: {token!r} is no special token and not one token of {tokenizer.path}; "
            "what may take several is a stop string"
        )
    return int(ids[0])


@functools.lru_cache(maxsize=4096)
def _bucket(length: int, most: int) -> int:
    """The length a prompt is padded to: powers of two and the halfway points between them."""
    size = _SMALLEST_BUCKET
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return min(size, most)
