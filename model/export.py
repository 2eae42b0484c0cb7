"""A run's weights as a Hugging Face folder: `python -m model.export RUN OUT`.

The folder is written layer by layer from the checkpoint into a place of its own, read back, compared with
the checkpoint and with transformers, and only then put where it was asked for (and on the Hub, with
`--push org/name`). One that differs is never published: it stays beside OUT, as OUT.failed, with a
parity.json that says what differs, and the exit code is 1.

A step that is damaged is named, with the array, and the next older good one is used; with `--step` it is
an error.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from data.chat import TEXT_TEMPLATES, ChatConfig, template_source
from data.tokenizer import Tokenizer, load_tokenizer
from model.config import LlamaConfig
from model.huggingface.adapter import export_adapter
from model.huggingface.card import model_card
from model.huggingface.config import to_huggingface
from model.huggingface.folder import (
    check_out,
    keep_failed,
    publish,
    push_to_hub,
    staging,
    write_json,
)
from model.huggingface.save import WORDS, DType, parse_size, plan, write_weights
from model.huggingface.tokenizer import write_tokenizer
from model.huggingface.verify import Material, verify
from model.lora import LayerSource, Merged, without

_TEXTS = 1_500  # documents whose ids are compared, at most
_CONVERSATIONS = 300


class VerificationError(ValueError):
    """The written folder does not say what the checkpoint says."""


def export_run(
    run_dir: str,
    out: str,
    *,
    step: int | None = None,
    dtype: DType = "bf16",
    max_shard_size: str = "5GB",
    push: str | None = None,
    adapter: bool = False,
) -> dict[str, Any]:
    """Export a run directory and verify what was written.

    Args:
        run_dir: with checkpoints; local or gs://.
        out: the folder to write; local or gs://. One that is there must be an earlier export, which is replaced.
        step: default: the newest that is not damaged.
        dtype: of the weights written.
        max_shard_size: of a safetensors file, such as 500MB. Memory stays within about two of them.
        push: a hub id to upload to, once verified.
        adapter: write the adapters alone, in PEFT's format; else they are added to their matrices.

    Returns:
        The report kept as parity.json.

    Raises:
        ValueError: bad arguments, no usable checkpoint, a model that Hugging Face's classes cannot express.
        VerificationError: the folder differs from the checkpoint; it is kept as OUT.failed.
    """
    from training.checkpoint import CorruptCheckpoint, LayerReader, bad_steps, good_steps

    steps = [step] if step is not None else good_steps(run_dir)[::-1]
    known = bad_steps(run_dir)
    if step is not None and step in known:
        raise ValueError(f"--step: step {step} of {run_dir} is damaged: {known[step]}")
    if not steps:
        damaged = f"; damaged: {', '.join(map(str, known))}" if known else ""
        what = "holds no checkpoint to export" if epath.Path(run_dir).exists() else "does not exist"
        raise ValueError(
            f"RUN: {run_dir} {what}{damaged}; name the run_dir of a training run that has saved a step"
        )
    if step is None and known and max(known) > steps[0]:
        newest = max(known)
        print(f"warning: step {newest} is damaged ({known[newest]}); using step {steps[0]}")
    for i, candidate in enumerate(steps):
        try:
            if adapter:
                return export_adapter(LayerReader(run_dir, candidate), out, push=push)
            return export(
                lambda: LayerReader(run_dir, candidate),  # noqa: B023 (called before the next round)
                out,
                run_dir=run_dir,
                dtype=dtype,
                max_shard_size=max_shard_size,
                push=push,
            )
        except CorruptCheckpoint as error:
            if step is not None or i + 1 == len(steps):
                raise ValueError(f"{error}; nothing was exported") from error
            print(
                f"warning: {error}\nwarning: what was written of it is deleted; using step {steps[i + 1]}"
            )
    raise AssertionError("every step returns or raises")


def export(
    open_reader: Callable[[], LayerSource],
    out: str,
    *,
    run_dir: str,
    dtype: DType = "bf16",
    max_shard_size: str = "5GB",
    push: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Export one step; what the reader raises passes through, after what was written is deleted.

    Args:
        open_reader: opens the step. It is opened twice: written from once, then compared with.
        out: as in export_run.
        run_dir: for its tokenizer, metrics and recipe.
        dtype: of the weights written.
        max_shard_size: as in export_run.
        push: as in export_run.
        say: takes progress lines.
    """
    shard_bytes = parse_size(max_shard_size)
    check_out(out)
    reader = Merged(open_reader())
    config = without(LlamaConfig(**reader.meta["model"]))
    tokenizer = _tokenizer_of(run_dir)
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{run_dir}/tokenizer: has {tokenizer.vocab_size} entries, the model {config.vocab_size}"
        )
    stated = (reader.meta.get("tokenizer") or {}).get("add_bos")
    add_bos = bool(tokenizer is not None and (tokenizer.add_bos if stated is None else stated))
    chat, template = chat_of(reader.meta, tokenizer, add_bos)
    planned = plan(config, dtype=dtype, max_shard_size=shard_bytes)
    staged = staging(out)
    try:
        begun = time.monotonic()
        write_weights(reader.read, planned, staged)
        reader.verify()
        seconds = time.monotonic() - begun
        say(
            f"step {reader.meta['step']}: {planned.num_bytes / 1e9:.2f} GB in {len(planned.files)} file(s) written, "
            f"digests of the checkpoint verified; {seconds:.1f} s, {planned.num_bytes / 1e6 / seconds:.0f} MB/s"
        )
        _write_configs(staged, config, tokenizer, dtype)
        if tokenizer is not None:
            write_tokenizer(
                tokenizer,
                epath.Path(staged),
                add_bos=add_bos,
                max_seq_len=config.max_seq_len,
                chat_template=template,
            )
        report = verify(
            str(staged),
            Merged(open_reader()).read,
            config,
            dtype=dtype,
            tokenizer=tokenizer,
            add_bos=add_bos,
            material=_material(reader.meta, chat),
            max_bytes=2 * shard_bytes,
        )
        report = {"step": reader.meta["step"], **report, "pushed": None}
        write_json(staged / "parity.json", report)
        if not report["passed"]:
            failed = keep_failed(staged, out)
            differs = "\n  ".join(report["problems"])
            raise VerificationError(
                f"{out}: not written, the export differs from the checkpoint:\n  {differs}\n"
                f"The folder is kept as {failed}, with a parity.json; nothing was pushed. Delete it when done."
            )
        title = push.split("/")[-1] if push else os.path.basename(out.rstrip("/"))
        facts = {"run_dir": run_dir, "meta": reader.meta, "parity": report, "add_bos": add_bos}
        (staged / "README.md").write_text(model_card(title, config, planned, **facts))
        if push is not None:
            push_to_hub(staged, push)
            report["pushed"] = push
            write_json(staged / "parity.json", report)
            say(f"pushed to {push}")
        publish(staged, out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    logits = report["logits"]
    say(
        f"{out}: verified against {report['against']}, {report['how']}: logits differ by at most "
        f"{logits['max_abs_difference']:.2g} (tolerance {logits['tolerance']:.2g}); {report['seconds']:.1f} s"
    )
    return report


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    from configs.load import user_errors

    parser = argparse.ArgumentParser(
        prog="python -m model.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="run directory; local or gs://")
    parser.add_argument("out", metavar="OUT", help="folder to write; an earlier export is replaced")
    parser.add_argument("--step", type=int, help="default: the newest that is not damaged")
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16", help="default: bf16")
    parser.add_argument("--max_shard_size", default="5GB", help="of a file; default: 5GB")
    parser.add_argument(
        "--adapter", action="store_true", help="the adapters alone, in PEFT's format, float32"
    )
    parser.add_argument("--push", metavar="ORG/NAME", help="upload to the Hub once verified")
    options = parser.parse_args(argv)
    with user_errors():
        export_run(
            options.run,
            options.out,
            step=options.step,
            dtype=options.dtype,
            max_shard_size=options.max_shard_size,
            push=options.push,
            adapter=options.adapter,
        )
    return 0


# --- what the run says -----------------------------------------------------------------------------------


def _tokenizer_of(run_dir: str) -> Tokenizer | None:
    folder = epath.Path(run_dir) / "tokenizer"
    return load_tokenizer(str(folder)) if folder.exists() else None


def chat_of(
    meta: dict[str, Any], tokenizer: Tokenizer | None, add_bos: bool
) -> tuple[ChatConfig, str | None]:
    """How the run's conversations were rendered, and the template for transformers to do the same.

    Where streams differ, the one with most rows counts.
    """
    streams = (meta.get("recipe") or {}).get("streams") or {}
    counts = meta.get("counts") or {}
    for name in sorted(streams, key=lambda n: -counts.get(n, 0)):
        path = epath.Path(streams[name]["path"]) / "run.json"
        settings = json.loads(path.read_text()).get("settings", {}) if path.exists() else {}
        if tokenizer is None or settings.get("convert", "raw") == "raw" or "chat" not in settings:
            continue
        chat = ChatConfig(**settings["chat"])
        return chat, chat_template(chat, tokenizer, add_bos)
    shipped = tokenizer is not None and tokenizer.chat_template is not None
    return ChatConfig(template="tokenizer" if shipped else "plain"), None


def chat_template(chat: ChatConfig, tokenizer: Tokenizer, add_bos: bool) -> str:
    """The Jinja source with which transformers renders a chat to the ids of training.

    Text templates leave BOS to the tokenizer, which transformers does not ask for it when it renders a chat: here the
    template writes it.
    """
    source = template_source(chat, tokenizer)
    return "{{- bos_token -}}\n" + source if chat.template in TEXT_TEMPLATES and add_bos else source


def _material(meta: dict[str, Any], chat: ChatConfig) -> Material:
    """Held-out documents of the run's streams first, then documents it was trained on."""
    streams = [s["path"] for s in ((meta.get("recipe") or {}).get("streams") or {}).values()]
    texts: list[str] = []
    conversations: list[Sequence[Any]] = []
    share = max(1, _TEXTS // max(1, len(streams)))
    for pattern in ("heldout/documents.jsonl.zst", "documents/*.jsonl.zst"):
        for path in streams:
            for taken, turns in enumerate(_documents(epath.Path(path), pattern)):
                if taken == share or len(texts) >= _TEXTS:
                    break
                texts += [turn.text for turn in turns]
                if turns[0].role != "text" and len(conversations) < _CONVERSATIONS:
                    last = max((i for i, t in enumerate(turns) if t.role == "user"), default=-1)
                    if last >= 0:
                        conversations.append(turns[: last + 1])
    return Material(texts[:_TEXTS], conversations, chat)


def _documents(stream: epath.Path, pattern: str) -> Iterator[Sequence[Any]]:
    """The turns of converted documents; nothing where the stream has moved away."""
    import io

    import zstandard

    from data.chat import Turn

    for path in sorted(stream.glob(pattern)):
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as data:
            for line in io.TextIOWrapper(data, encoding="utf-8"):
                yield [Turn(t["role"], t["text"]) for t in json.loads(line)["turns"]]


# --- files -------------------------------------------------------------------------------------------------


def _write_configs(
    folder: Path, config: LlamaConfig, tokenizer: Tokenizer | None, dtype: DType
) -> None:
    ids = {"bos_id": None, "eos_id": None, "pad_id": None}
    if tokenizer is not None:
        ids = {name: getattr(tokenizer, name) for name in ids}
    write_json(folder / "config.json", to_huggingface(config, dtype=WORDS[dtype], **ids))
    generation = {
        "bos_token_id": ids["bos_id"],
        "do_sample": False,
        "eos_token_id": ids["eos_id"],
        "pad_token_id": ids["pad_id"],
    }
    write_json(
        folder / "generation_config.json", {k: v for k, v in generation.items() if v is not None}
    )


if __name__ == "__main__":
    sys.exit(main())
