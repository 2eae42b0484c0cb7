"""A model by its name: a run directory, a Hugging Face folder or a hub id, with its weights on a mesh.

What evaluation, generation and the preparation of data all begin with.
"""

import json
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from data.chat import ChatConfig, encode_document
from data.document import Document, Turn
from data.tokenizer import Tokenizer, load_tokenizer
from model.config import LlamaConfig
from model.export import chat_of
from model.huggingface.config import read_config
from model.huggingface.load import fetch, load_params
from model.llama import Params
from model.lora import merge, without
from training.checkpoint import Checkpointer
from training.config import CheckpointConfig
from training.state import Layout, is_run, layout
from training.steps import good_steps, newest_meta, read_meta


@dataclass(frozen=True)
class Model:
    """Weights on a mesh, and all that must be known to use them.

    Attributes:
        name: as given.
        step: of the checkpoint, None for a Hugging Face model.
        config: the network's shape.
        plan: how the weights lie on the mesh.
        params: the weights, float32.
        tokenizer: the one they were trained with.
        add_bos: whether a text begins with BOS, as it was trained.
        stop_tokens: ids that end a text: EOS, what its generation_config.json names, and what its
            chat template ends a reply with.
        chat: how it renders conversations.
        meta: of the checkpoint, `{}` for a Hugging Face model.
    """

    name: str
    step: int | None
    config: LlamaConfig
    plan: Layout
    params: Params
    tokenizer: Tokenizer
    add_bos: bool
    stop_tokens: tuple[int, ...]
    chat: ChatConfig
    meta: dict[str, Any]


def open_model(
    source: str,
    mesh: Mesh,
    *,
    step: int | None = None,
    max_seq_len: int | None = None,
    vocab_multiple: int | None = None,
    tokenizer: str | None = None,
) -> Model:
    """Loads a run directory's newest good checkpoint (or `step`), or a Hugging Face model.

    Args:
        source: a run directory, a Hugging Face folder or a hub id.
        mesh: where the weights go.
        step: of a run.
        max_seq_len: the longest row that will be used; see `read_config`.
        vocab_multiple: pads the vocabulary of a Hugging Face model, for sharding.
        tokenizer: of a Hugging Face model that has none beside it; default: the one beside it.

    Raises:
        ValueError: it is none of them, or cannot be read; the message begins with MODEL.
        CorruptCheckpoint: the step asked for is damaged.
    """
    if is_run(source):
        return _open_run(source, mesh, step)
    if step is not None:
        raise ValueError(f"--step: {source} is not a run directory, so it has no steps")
    try:
        config = read_config(source, max_seq_len=max_seq_len)
    except ValueError as error:
        raise ValueError(f"MODEL: {error}") from error
    loaded = load_tokenizer(tokenizer or source)
    if vocab_multiple:
        config = config.model_copy(update={"vocab_multiple": vocab_multiple})
    plan = layout(config, optax.identity(), mesh)
    params = load_params(source, config, plan.specs, mesh)
    chat, _ = chat_of({}, loaded, loaded.add_bos)
    stops = {*_said_to_end(source), *ends_of_reply(chat, loaded)}
    return Model(
        source,
        None,
        config,
        plan,
        params,
        loaded,
        loaded.add_bos,
        tuple(sorted(stops)),
        chat,
        {},
    )


def _open_run(run_dir: str, mesh: Mesh, step: int | None) -> Model:
    tokenizer = load_tokenizer(f"{run_dir}/tokenizer")
    with Checkpointer(run_dir, CheckpointConfig(), read_only=True) as checkpointer:
        steps = good_steps(run_dir) if step is None else [step]
        if not steps:
            raise ValueError(f"MODEL: {run_dir} is a run directory without a good checkpoint")
        # The shape is the same at every step, so any readable one tells it.
        meta = (newest_meta(run_dir) if step is None else None) or read_meta(run_dir, steps[0])
        config = LlamaConfig.model_validate(meta["model"])
        saved = layout(config, optax.identity(), mesh)
        if step is None:
            found = checkpointer.restore_newest(saved.abstract.params, None)
        else:
            found = checkpointer.restore(step, saved.abstract.params, None)
    assert found is not None, "there are good steps"
    plan, params = saved, found.params
    if config.lora is not None:
        plan = layout(without(config), optax.identity(), mesh)
        add = jax.jit(lambda p: merge(p, config), out_shardings=plan.shardings.params)
        config, params = plan.config, add(params)
    add_bos = found.meta["tokenizer"]["add_bos"]
    chat, _ = chat_of(found.meta, tokenizer, add_bos)
    for bad, reason in found.rejected.items():
        print(f"warning: checkpoint step {bad} is damaged ({reason}); using step {found.step}")
    return Model(
        run_dir,
        found.step,
        config,
        plan,
        params,
        tokenizer,
        add_bos,
        ends_of_reply(chat, tokenizer),
        chat,
        found.meta,
    )


def ends_of_reply(chat: ChatConfig, tokenizer: Tokenizer) -> tuple[int, ...]:
    """EOS, and the special token that the chat template puts behind a reply (`<|eot_id|>`)."""
    turns = (Turn("user", "a"), Turn("assistant", "b"))
    whole = ChatConfig(template=chat.template, train_on="assistant")
    try:
        reply = encode_document(
            Document("", turns, "a reply"), tokenizer, whole, add_bos=False, add_eos=True
        )
    except ValueError:  # a template that cannot say where its replies end: EOS alone it is
        return (tokenizer.eos_id,)
    special = set(tokenizer.special_ids.values())
    ends = [int(t) for t in reply.tokens[reply.supervised] if int(t) in special]
    return tuple(sorted({tokenizer.eos_id, *ends[-1:]}))


def _said_to_end(source: str) -> list[int]:
    """The `eos_token_id` of a folder's generation_config.json: one, several or none."""
    path = fetch(source) / "generation_config.json"
    said = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
    return said if isinstance(said, list) else [] if said is None else [said]
