"""Continues the prompts of a file with a model.

MODEL is a Hugging Face folder, a hub id or a run directory. Every line of --prompts is a JSON object
with `prompt` (a text, taken as it is) or `messages` (a conversation, [{"role", "content"}]), if you
like an `id` of its own, and any of the sampling settings below for this row alone. --out gets one
line for each, in the order of the prompts: id, text, finish (stop, length, error), num_prompt_tokens,
num_tokens, with --logprobs also logprobs, and error where there was one.

A job that was stopped goes on where it was when it is given again: what is done is not done anew, and
the file is the one an unbroken job would have written. Without --prompts the texts of --prompt are
continued on the screen, as they come.

Several processes (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID; on a TPU pod they find
each other) take a share of the prompts each, with the weights on the devices of each; --out must be a
folder that all of them see.
"""

import argparse
import sys
import time
from typing import Any

from data.document import Turn
from data.generator import Prompt, Sampling
from model.config import GenerationConfig, shape_problems
from model.engine import DEFAULT_WINDOW, Engine
from model.job import Job, Share
from model.sampling import check

__all__ = ["Engine", "main", "open_engine"]

_SAMPLING = {  # flag -> (type, meaning)
    "temperature": (float, "0 takes the likeliest token"),
    "top_k": (int, "only the k likeliest; 0: all"),
    "top_p": (float, "only the likeliest that hold this much probability together"),
    "min_p": (float, "only those at least this share of the likeliest one's probability"),
    "repetition_penalty": (float, "divides the logits of tokens seen before; 1: none"),
    "max_new_tokens": (int, "at most so many"),
    "seed": (int, "same prompt, same seed, same text"),
}


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    from configs.load import user_errors
    from training.steps import CorruptCheckpoint

    options = _parser().parse_args(argv)
    with user_errors():
        try:
            return _run(options)
        except CorruptCheckpoint as error:
            raise ValueError(str(error)) from error


def open_engine(
    source: str,
    generation: GenerationConfig,
    *,
    step: int | None = None,
    tensor: int = 1,
    chat: str | None = None,
    add_bos: bool | None = None,
) -> Engine:
    """An engine on this process's devices, for `main()`s: it opens run directories too.

    Args:
        source: a Hugging Face folder, a hub id or a run directory.
        generation: how to run.
        step: of a run; default: the newest good one.
        tensor: devices that share the weights' heads, mlp and vocabulary.
        chat: template for conversations; default: the run's own, else the tokenizer's, else plain.
        add_bos: whether a text begins with BOS; default: as the model was trained.
    """
    import jax

    from data.chat import ChatConfig
    from evaluation.source import open_model
    from tpu.config import MeshConfig
    from tpu.mesh import make_mesh

    devices = jax.local_devices()
    if tensor > len(devices):
        raise ValueError(f"tensor: {tensor}, but this process has {len(devices)} devices")
    mesh = make_mesh(MeshConfig(fsdp=1, tensor=tensor), devices[:tensor])
    model = open_model(
        source,
        mesh,
        step=step,
        max_seq_len=generation.window or DEFAULT_WINDOW,
        vocab_multiple=tensor,
    )
    return Engine(
        model.params,
        model.config,
        model.tokenizer,
        generation,
        chat=ChatConfig(template=chat) if chat else model.chat,
        add_bos=model.add_bos if add_bos is None else add_bos,
        stop_tokens=model.stop_tokens,
        mesh=mesh if tensor > 1 else None,
    )


def _run(options: argparse.Namespace) -> int:
    sampling = Sampling(
        **{name: getattr(options, name) for name in _SAMPLING}, stop=tuple(options.stop)
    )
    check(sampling)
    if bool(options.prompts) == bool(options.prompt):
        raise ValueError("--prompts: name a file of prompts, or give a text with --prompt")
    if bool(options.prompts) != bool(options.out):
        raise ValueError("--out: goes with --prompts, and names the file that gets the texts")
    settings = {name: getattr(options, name) for name in GenerationConfig.model_fields}
    generation = _generation(settings)
    job = None
    if options.prompts:
        job = _job(options, sampling, settings)
        if job.is_done():
            print(f"{options.out}: all {job.total} texts are there")
            return 0
    begun = time.monotonic()
    engine = open_engine(
        options.model,
        generation,
        step=options.step,
        tensor=options.tensor,
        chat=options.chat,
        add_bos=options.add_bos,
    )
    print(f"{options.model}: ready in {time.monotonic() - begun:.1f} s", file=sys.stderr)
    if job is not None:
        job.run(engine)
        return 0
    for i, text in enumerate(options.prompt):
        turns = (Turn("user" if options.chat else "text", text),)
        literal = options.literal_special and not options.chat
        for piece in engine.stream(Prompt(str(i), turns, sampling, literal)):
            print(piece, end="", flush=True)
        print()
    return 0


def _job(options: argparse.Namespace, sampling: Sampling, settings: dict[str, Any]) -> Job:
    """The file of prompts as a job, of which this process has a share."""
    import jax

    from tpu.runtime import start

    start()
    count = jax.process_count()

    def barrier(name: str) -> None:
        if count > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(name)

    asked = {name: getattr(options, name) for name in ("model", "step", "chat", "add_bos")}
    return Job(
        options.prompts,
        options.out,
        sampling,
        asked=asked | {"tensor": options.tensor, "engine": settings},
        literal_special=options.literal_special,
        share=Share(jax.process_index(), count, barrier),
    )


def _generation(settings: dict[str, Any]) -> GenerationConfig:
    from pydantic import ValidationError

    try:
        return GenerationConfig(**settings)
    except ValidationError as error:
        raise ValueError("; ".join(f"--{line}" for line in shape_problems(error))) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="Hugging Face folder, hub id, run directory")
    parser.add_argument("--prompts", metavar="FILE", help="JSONL, a prompt a line")
    parser.add_argument("--out", metavar="FILE", help="JSONL, a text a line")
    parser.add_argument("--prompt", action="append", default=[], help="a text; may be repeated")
    sampling = parser.add_argument_group("sampling, where a row says nothing else")
    for name, (kind, meaning) in _SAMPLING.items():
        default = getattr(Sampling(), name)
        shown = f"{meaning}; default: {default:g}"
        sampling.add_argument(f"--{name}", type=kind, default=default, metavar="N", help=shown)
    sampling.add_argument(
        "--stop", action="append", default=[], help="a string that ends a text; may be repeated"
    )
    sampling.add_argument(
        "--literal_special",
        action="store_true",
        help="special-token strings in a text become their ids, and BOS is not added",
    )
    reading = parser.add_argument_group("the model")
    reading.add_argument(
        "--step", type=int, help="checkpoint of a run; default: the newest good one"
    )
    reading.add_argument("--chat", help="template of conversations; default: the model's own")
    reading.add_argument(
        "--add_bos",
        type={"auto": None, "true": True, "false": False}.__getitem__,
        default=None,
        metavar="auto|true|false",
        help="begin a text with BOS; auto: as the model was trained",
    )
    reading.add_argument("--tensor", type=int, default=1, help="devices that share the weights")
    running = parser.add_argument_group("the engine")
    for name, field in GenerationConfig.model_fields.items():
        meaning = field.description
        if field.annotation is bool:
            running.add_argument(f"--{name}", action="store_true", help=meaning)
        elif name == "stop_tokens":
            running.add_argument(
                "--stop_token", dest=name, action="append", default=[], help=meaning
            )
        else:
            kind = str if isinstance(field.default, str) else int
            shown = meaning if field.default is None else f"{meaning}; default: {field.default}"
            running.add_argument(
                f"--{name}", type=kind, default=field.default, metavar="N", help=shown
            )
    return parser


if __name__ == "__main__":
    sys.exit(main())
