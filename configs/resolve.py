"""What a training recipe means here: its streams, its tokenizer and the shape of its model.

A run that has begun finds tokenizer and shape in its own directory, so a restart, on whatever host,
never goes back to where they came from.
"""

from typing import TYPE_CHECKING

from etils import epath

from configs.load import load_recipe, recipe_yaml
from configs.recipe import PrepareRecipe, TrainRecipe

if TYPE_CHECKING:
    from data.tokenizer import Tokenizer
    from model.config import LlamaConfig


def prepare_streams(recipe: TrainRecipe) -> None:
    """Makes the streams that are not there, where the recipe says how.

    Raises:
      ValueError: several processes would have to; one must do it before.
    """
    missing = [
        stream.path
        for stream in recipe.streams.values()
        if not (epath.Path(stream.path) / "stream.json").exists()
    ]
    if recipe.prepare is None or not missing:
        return
    import jax

    from data.prepare import prepare

    if jax.process_count() > 1:
        raise ValueError(
            f"streams: {', '.join(missing)} not there, and several processes do not prepare data; "
            f"run python -m data.prepare {recipe.prepare} first"
        )
    prepare(load_recipe(PrepareRecipe, recipe.prepare))


def keep_copies(recipe: TrainRecipe, tokenizer: "Tokenizer | None") -> None:
    """The resolved recipe and the tokenizer in the run directory, so that it stands by itself."""
    folder = epath.Path(recipe.run_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(recipe_yaml(recipe))
    except OSError as error:
        # Object storage makes no folders: a bucket that cannot be written shows here first.
        raise ValueError(f"run_dir: {folder} cannot be written: {error}") from error
    if tokenizer is not None:
        tokenizer.save(folder / "tokenizer")


def locate_weights(recipe: TrainRecipe) -> TrainRecipe:
    """The recipe with the initial weights where every process can read them; all processes call it.

    Of a hub id, on several hosts, the first process alone downloads, into the run directory: as many
    downloads as hosts would be turned away by the hub, and a run could not begin where one of them was.
    Step 0 of the run then holds the weights, so no restart goes back to the hub.
    """
    from model.huggingface.config import is_hub_id
    from training.steps import newest_meta

    source, revision = recipe.model.init_from, recipe.model.revision
    if source is None or epath.Path(source).is_dir() or not is_hub_id(source):
        return recipe
    if newest_meta(recipe.run_dir) is not None:
        return recipe
    from model.huggingface.load import fetch
    from tpu.startup import share_folder

    try:
        place = share_folder(lambda: fetch(source, revision), _initial(recipe.run_dir))
    except ValueError as error:
        raise ValueError(f"model.init_from: {error}") from error
    model = recipe.model.model_copy(update={"init_from": str(place), "revision": None})
    return recipe.model_copy(update={"model": model})


def drop_copy(run_dir: str) -> None:
    """Deletes the copy of the initial weights, once step 0 holds them."""
    import jax

    if jax.process_index() == 0 and _initial(run_dir).exists():
        _initial(run_dir).rmtree()


def _initial(run_dir: str) -> epath.Path:
    return epath.Path(run_dir) / "initial"


def find_tokenizer(recipe: TrainRecipe) -> "Tokenizer | None":
    """The run's tokenizer, or None where a preparation has still to make it.

    In this order: a tokenizer that the recipe names and that is there, the copy in the run directory,
    the one beside the initial weights.
    """
    from data.tokenizer import load_tokenizer
    from training.steps import newest_meta

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
    try:
        return load_tokenizer(f"{source}/tokenizer" if newest_meta(source) else source)
    except ValueError as error:
        raise ValueError(
            f"{error} (the recipe names no tokenizer, so it is taken from model.init_from)"
        ) from error


def find_model(recipe: TrainRecipe, tokenizer: "Tokenizer | None") -> "LlamaConfig":
    """The shape of the run's model: the preset's, or that of the weights it starts from.

    Raises:
      ValueError: the recipe contradicts the weights, or the vocabulary is too small for the tokenizer.
    """
    from model.config import LlamaConfig, resolve
    from training.steps import newest_meta

    base = None
    source = recipe.model.init_from
    if source is not None:
        meta = newest_meta(recipe.run_dir) or newest_meta(source)
        if meta is not None:
            base = LlamaConfig.model_validate(meta["model"])
        else:
            from model.huggingface.config import read_config

            try:
                base = read_config(
                    source, revision=recipe.model.revision, max_seq_len=recipe.train.seq_len
                )
            except ValueError as error:
                raise ValueError(f"model.init_from: {error}") from error
    vocabulary = tokenizer.vocab_size if tokenizer is not None else None
    return resolve(recipe.model, tokenizer_vocab=vocabulary, base=base)
