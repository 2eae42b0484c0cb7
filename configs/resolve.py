"""What a training recipe means here: its tokenizer and the shape of its model.

A run that has begun finds both in its own directory, so a restart, on whatever host, never goes back
to where they came from.
"""

from typing import TYPE_CHECKING, Any

from etils import epath

from configs.recipe import TrainRecipe

if TYPE_CHECKING:
    from data.tokenizer import Tokenizer
    from model.config import LlamaConfig


def find_tokenizer(recipe: TrainRecipe) -> "Tokenizer | None":
    """The run's tokenizer, or None where a preparation has still to make it.

    In this order: a tokenizer that the recipe names and that is there, the copy in the run directory,
    the one beside the initial weights.
    """
    from data.tokenizer import load_tokenizer

    own = f"{recipe.run_dir}/tokenizer"
    if recipe.tokenizer is not None and epath.Path(recipe.tokenizer).exists():
        return load_tokenizer(recipe.tokenizer)
    if epath.Path(own).exists():
        return load_tokenizer(own)
    if recipe.tokenizer is not None:
        return None if recipe.prepare is not None else load_tokenizer(recipe.tokenizer)
    source = recipe.model.init_from
    if source is None:
        return None
    return load_tokenizer(f"{source}/tokenizer" if newest_meta(source) else source)


def find_model(recipe: TrainRecipe, tokenizer: "Tokenizer | None") -> "LlamaConfig":
    """The shape of the run's model: the preset's, or that of the weights it starts from.

    Raises:
      ValueError: the recipe contradicts the weights, or the vocabulary is too small for the tokenizer.
    """
    from model.config import LlamaConfig, resolve

    base = None
    source = recipe.model.init_from
    if source is not None:
        meta = newest_meta(recipe.run_dir) or newest_meta(source)
        if meta is not None:
            base = LlamaConfig.model_validate(meta["model"])
        else:
            from model.huggingface.config import read_config

            base = read_config(
                source, revision=recipe.model.revision, max_seq_len=recipe.train.seq_len
            )
    vocabulary = tokenizer.vocab_size if tokenizer is not None else None
    return resolve(recipe.model, tokenizer_vocab=vocabulary, base=base)


def newest_meta(run_dir: str) -> dict[str, Any] | None:
    """What the newest readable checkpoint of a run directory says about itself; None: no checkpoint there."""
    from training.steps import CorruptCheckpoint, good_steps, read_meta

    for step in reversed(good_steps(run_dir)):
        try:
            return read_meta(run_dir, step)
        except CorruptCheckpoint:
            continue  # the restore will say what is wrong with it
    return None
