"""Measures a model on held-out text.

MODEL is a run directory, a Hugging Face folder or a hub id. The streams whose held-out text is used are
those of the run's own recipe, or of a training recipe named after MODEL. Loss is nats per token of text;
bits per byte compares models with different tokenizers. Intervals are 95 % bootstrap over rows.
"""

import json
import sys
from typing import Any


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    from configs.load import Flag, command, user_errors
    from configs.recipe import TrainRecipe
    from training.steps import CorruptCheckpoint

    flags = (
        Flag("step", "measure this checkpoint of a run; default: the newest good one", "N"),
        Flag("json", "write the scores to this file", "FILE"),
    )
    words = list(sys.argv[1:] if argv is None else argv)
    with user_errors():
        words = _with_own_recipe(words)
    recipe, options = command(TrainRecipe, words, __doc__ or "", flags=flags, arguments=("MODEL",))
    with user_errors():
        step = _step(options.flags["step"])
        try:
            scores = measure(options.arguments[0], recipe, step=step)
        except CorruptCheckpoint as error:
            raise ValueError(str(error)) from error
        _print(scores)
        if options.flags["json"]:
            from etils import epath

            epath.Path(options.flags["json"]).write_text(json.dumps(scores, indent=2) + "\n")
    return 0


def measure(source: str, recipe: Any, *, step: int | None = None) -> dict[str, Any]:
    """Held-out loss and bits per byte of a model on a recipe's streams."""
    import jax
    import jax.numpy as jnp

    from data.loader import has_heldout, heldout_batches
    from data.stream import open_stream
    from evaluation.heldout import batches_of, encoded_anew
    from evaluation.scoring import score_heldout, spread_byte_lengths
    from evaluation.source import open_model
    from model.attention import select
    from tpu.mesh import BATCH, check_rows, make_mesh
    from tpu.runtime import start
    from training.step import make_eval_step

    start()
    mesh = make_mesh(recipe.mesh)
    run = recipe.train
    rows = recipe.eval.batch_rows or run.global_batch_rows // run.accumulate
    check_rows(rows, 1, mesh, field="eval.batch_rows")
    model = open_model(
        source,
        mesh,
        step=step,
        max_seq_len=run.seq_len,
        vocab_multiple=recipe.model.vocab_multiple,
    )
    platform = mesh.devices.flat[0].platform
    kernel, attend = select(run.attention, platform, jnp.dtype(run.compute_dtype), mesh)
    eval_step = jax.jit(make_eval_step(model.config, run, mesh, model.plan.specs, attend))
    byte_lengths = spread_byte_lengths(model.tokenizer.byte_lengths(), model.config, mesh)
    streams: dict[str, Any] = {}
    for name, stream in recipe.streams.items():
        info = open_stream(name, stream.path).info
        if not has_heldout(stream.path):
            print(f"{name}: no held-out text in {stream.path}; not measured")
            continue
        folder = f"{stream.path}/heldout"
        limits = {"batch_rows": rows, "mesh": mesh, "spec": BATCH}
        same = info["tokenizer"] == model.tokenizer.fingerprint
        if same:
            found = heldout_batches(folder, max_rows=recipe.eval.max_rows, **limits)
        else:
            packed = encoded_anew(
                folder,
                model.tokenizer,
                seq_len=run.seq_len,
                add_bos=model.add_bos,
                max_rows=recipe.eval.max_rows,
            )
            found = batches_of(packed, **limits)
        score = score_heldout(eval_step, model.params, found, byte_lengths)
        streams[name] = {
            "loss": score.loss,
            "bits_per_byte": score.bits_per_byte,
            "bits_per_byte_interval": list(score.interval()),
            "tokens": score.tokens,
            "bytes": score.num_bytes,
            "tokenized_anew": not same,
        }
    if not streams:
        raise ValueError(
            f"streams: no held-out text in {', '.join(recipe.streams) or 'any, there are none'}; name a "
            "recipe whose streams were prepared with a heldout.fraction above 0"
        )
    return {
        "model": model.name,
        "step": model.step,
        "add_bos": model.add_bos,
        "tokenizer": model.tokenizer.fingerprint,
        "compute_dtype": run.compute_dtype,
        "attention": kernel,
        "streams": streams,
    }


def _with_own_recipe(words: list[str]) -> list[str]:
    """MODEL alone means the recipe that the run was made with."""
    plain = [i for i, w in enumerate(words) if not w.startswith("-") and "=" not in w]
    if len(plain) == 1:
        from etils import epath

        model = words[plain[0]]
        own = epath.Path(model) / "recipe.yaml"
        if own.exists():
            words.insert(plain[0] + 1, str(own))
        elif not {"-h", "--help", "--schema"} & set(words):
            raise ValueError(
                f"RECIPE: missing; {model} has no recipe.yaml as a run directory has, so name the training "
                f"recipe whose held-out text is measured: python -m evaluation.run {model} RECIPE"
            )
    return words


def _step(text: str | None) -> int | None:
    if text is not None and not text.isdecimal():
        raise ValueError(f"--step: {text!r} is no step; write a whole number, as --step=500")
    return None if text is None else int(text)


def _print(scores: dict[str, Any]) -> None:
    print(f"{scores['model']}" + (f", step {scores['step']}" if scores["step"] is not None else ""))
    width = max((len(name) for name in scores["streams"]), default=6)
    print(
        f"{'stream':<{width}}  {'loss':>8}  {'bits/byte':>9}  {'95 % interval':>17}  {'tokens':>9}"
    )
    for name, s in scores["streams"].items():
        low, high = s["bits_per_byte_interval"]
        print(
            f"{name:<{width}}  {s['loss']:8.4f}  {s['bits_per_byte']:9.4f}  {low:8.4f}-{high:8.4f}  "
            f"{s['tokens']:9,}"
        )


if __name__ == "__main__":
    sys.exit(main())
