"""What the devices run for the engine: reading a prompt into a slot, and steps over all slots.

Pure functions of (weights, cache, slots), so that they can be compiled for a machine that is not here.

Shapes: B slots, V padded vocabulary, T prompt bucket.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from model import attention
from model.cache import IN_BLOCKS, Access, Cache, cache_sharding, write_prompt
from model.config import LlamaConfig
from model.decode import prompt_pass, token_pass
from model.flash_decode import append, flash_decode
from model.llama import Params
from model.sampling import Settings, next_tokens


class Slots(NamedTuple):
    """What the devices know of every slot, arrays [B, ...]."""

    token: jax.Array  # int32, read and not yet in the cache
    length: jax.Array  # int32, tokens in the cache
    written: jax.Array  # int32, tokens written
    limit: jax.Array  # int32, tokens to write at most
    active: jax.Array  # bool
    settings: Settings
    seen: jax.Array  # bool[B, V]


class Row(NamedTuple):
    """A prompt on its way into a slot; scalars."""

    slot: Any
    before: Any  # tokens that are read now: all but the last
    last: Any  # the last one, which is left to the first step
    limit: Any
    settings: Settings


@dataclass(frozen=True)
class Program:
    """The device side of an engine.

    Attributes:
        config: the network's shape.
        stop_ids: tokens that end a text.
        steps: most steps of one `run`.
        logprobs: whether a token's log-probability is computed too.
        attend: attention within a prompt.
        access: how a step reads and writes the cache.
    """

    config: LlamaConfig
    stop_ids: tuple[int, ...]
    steps: int
    logprobs: bool
    attend: attention.Attend
    access: Access

    def admit(
        self, params: Params, cache: Cache, slots: Slots, tokens: jax.Array, row: Row
    ) -> tuple[Cache, Slots]:
        """Reads the prompt in `tokens` [1, T] into a slot and says there how to go on."""
        keys, values = prompt_pass(params, self.config, tokens, self.attend)
        cache = write_prompt(cache, row.slot, keys, values)
        size = slots.seen.shape[1]
        inside = jnp.arange(tokens.shape[1]) < row.before
        seen = jnp.zeros(size, bool).at[jnp.where(inside, tokens[0], size)].set(True, mode="drop")
        new = Slots(
            token=row.last,
            length=row.before,
            written=jnp.int32(0),
            limit=row.limit,
            active=jnp.bool_(True),
            settings=row.settings,
            seen=seen.at[row.last].set(True),
        )
        return cache, jax.tree.map(lambda whole, one: whole.at[row.slot].set(one), slots, new)

    def run(
        self, params: Params, cache: Cache, slots: Slots, kept: jax.Array, waiting: jax.Array
    ) -> tuple[Cache, Slots, dict[str, jax.Array]]:
        """Some steps: tokens int32[steps, B], -1 where a slot wrote none.

        They end when no slot is left at work, and with `waiting` as soon as one of them has ended.
        `kept` says of which slots the host has not ended the text itself.
        """
        slots = slots._replace(active=slots.active & kept)
        begun = slots.active
        shape = (self.steps, begun.shape[0])
        out = {"tokens": jnp.full(shape, -1, jnp.int32)}
        if self.logprobs:
            out["logprobs"] = jnp.zeros(shape, jnp.float32)

        def goes_on(carry: tuple) -> jax.Array:
            step, _, slots, _ = carry
            ended = waiting & jnp.any(begun & ~slots.active)
            return (step < self.steps) & jnp.any(slots.active) & ~ended

        def one(carry: tuple) -> tuple:
            step, cache, slots, out = carry
            cache, slots, given = self.step(params, cache, slots)
            out = {name: out[name].at[step].set(given[name]) for name in out}
            return step + 1, cache, slots, out

        _, cache, slots, out = jax.lax.while_loop(goes_on, one, (jnp.int32(0), cache, slots, out))
        return cache, slots, out

    def step(
        self, params: Params, cache: Cache, slots: Slots
    ) -> tuple[Cache, Slots, dict[str, jax.Array]]:
        """One token of every slot, [B]; -1 for a slot that is not at work."""
        active = slots.active
        logits, cache = token_pass(
            params, self.config, cache, slots.token, slots.length, self.access
        )
        token = next_tokens(logits, slots.settings, slots.seen, slots.written, active)
        given = {"tokens": jnp.where(active, token, -1)}
        if self.logprobs:
            taken = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
            given["logprobs"] = taken - jax.nn.logsumexp(logits, axis=-1)
        written = slots.written + active
        ended = jnp.isin(token, jnp.array(self.stop_ids, jnp.int32)) | (written >= slots.limit)
        slots = slots._replace(
            token=jnp.where(active, token, slots.token),
            length=slots.length + active,
            written=written,
            active=active & ~ended,
            seen=slots.seen.at[jnp.arange(token.shape[0]), token].max(active),
        )
        return cache, slots, given

    def jit(self, mesh: Mesh | None) -> tuple[Any, Any]:
        """`admit` and `run`, compiled; both take cache and slots over and give them back."""
        admitted = given = None
        if mesh is not None:
            whole, heads = NamedSharding(mesh, P()), cache_sharding(self.config, mesh)
            admitted = (heads, whole)
            given = (heads, whole, whole)
        donated = ("cache", "slots")
        return (
            jax.jit(self.admit, donate_argnames=donated, out_shardings=admitted),
            jax.jit(self.run, donate_argnames=donated, out_shardings=given),
        )


def choose_attention(
    platform: str, dtype: jnp.dtype, mesh: Mesh | None
) -> tuple[attention.Attend, Access]:
    """Attention within a prompt, and the use of the cache, as they run best on a platform."""
    _, attend = attention.select("auto", platform, dtype)
    heads, cached = P(None, "tensor"), P(None, None, "tensor")

    def dealt(kernel: Any, inputs: tuple[P, ...], output: P) -> Any:
        """A kernel is never partitioned by the compiler: heads are dealt out by hand."""
        if mesh is None:
            return kernel
        return jax.shard_map(kernel, mesh=mesh, in_specs=inputs, out_specs=output, check_vma=False)

    if attend is not attention.xla:
        within = P(None, None, "tensor", None)
        attend = dealt(attend, (within, within, within, P()), within)
    if platform != "tpu":
        return attend, IN_BLOCKS
    inputs = (cached, cached, P(), heads, heads, heads, P())
    decode = dealt(flash_decode, inputs, heads)
    put = dealt(append, (cached, cached, P()), cached)

    # All layers are read before any is written: inside the scan over them the cache stays as it is.
    def read(cache: Cache, layer: Any, *rest: jax.Array) -> tuple[jax.Array, Cache]:
        return decode(cache.keys, cache.values, jnp.asarray(layer), *rest), cache

    def write(cache: Cache, keys: jax.Array, values: jax.Array, length: jax.Array) -> Cache:
        return Cache(put(cache.keys, keys, length), put(cache.values, values, length))

    return attend, Access(read, write)


def empty_slots(slots: int, config: LlamaConfig) -> Slots:
    """Slots without a text."""
    ints, floats = jnp.zeros(slots, jnp.int32), jnp.zeros(slots, jnp.float32)
    ones = jnp.ones(slots, jnp.float32)
    settings = Settings(floats, ints, ones, floats, ones, jnp.zeros((slots, 2), jnp.uint32))
    seen = jnp.zeros((slots, config.padded_vocab_size), bool)
    return Slots(ints, ints, ints, ints, jnp.zeros(slots, bool), settings, seen)
