"""The model card: what a run can say of itself, in the README.md that the Hub shows."""

import json
from typing import Any

from etils import epath

from model.config import LlamaConfig
from model.huggingface.config import is_hub_id
from model.huggingface.save import Plan

_LICENCE = "To be filled in by the publisher."


def model_card(
    title: str,
    config: LlamaConfig,
    planned: Plan,
    *,
    run_dir: str,
    meta: dict[str, Any],
    parity: dict[str, Any],
    add_bos: bool,
) -> str:
    """Markdown with the Hub's front matter.

    Args:
        title: the model's name.
        config: its shape.
        planned: what was written.
        run_dir: for the metrics; streams are looked up where the recipe says, and named without figures when gone.
        meta: of the checkpoint.
        parity: what verification found.
        add_bos: whether a text begins with BOS.
    """
    recipe = meta.get("recipe") or {}
    base = (recipe.get("model") or {}).get("init_from")
    parts = [
        _front_matter(base),
        f"# {title}",
        _what(config, planned, base),
        _training(recipe, meta),
        _results(run_dir),
        _data(recipe),
        _how_to_load(parity, add_bos),
        _verification(parity),
        f"## Licence\n\n{_LICENCE} The weights carry the terms of the base model and of the data above.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(base: str | None) -> str:
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    if base is not None and not epath.Path(base).exists() and is_hub_id(base):
        lines.append(f"base_model: {base}")
    lines += ["license: other", "license_name: to-be-chosen  # fill in before publishing"]
    lines += ["tags:", "- domain-adaptation", "- lectern"]
    return "\n".join(["---", *lines, "---"])


def _what(config: LlamaConfig, planned: Plan, base: str | None) -> str:
    start = f"started from `{base}`" if base else "trained from random weights"
    return (
        f"A {config.family} model with {planned.num_params:,} parameters, {start}: {config.num_layers} layers, "
        f"embedding {config.embed_dim}, {config.num_heads} heads ({config.num_kv_heads} for keys and values) of "
        f"{config.head_dim}, vocabulary {config.vocab_size:,}, up to {config.max_seq_len:,} positions."
    )


def _training(recipe: dict[str, Any], meta: dict[str, Any]) -> str:
    train, optimizer = recipe.get("train") or {}, recipe.get("optimizer") or {}
    if not meta.get("step"):
        return "## Training\n\nThese are initial weights: no step was taken."
    if not train:
        return f"## Training\n\n{meta['step']:,} steps; the checkpoint keeps no recipe."
    rows, length = meta.get("rows", 0), train["seq_len"]
    text = (
        f"## Training\n\n{meta['step']:,} steps, {rows:,} rows of {length:,} tokens; AdamW, peak learning rate "
        f"{optimizer.get('peak_lr')}, schedule {optimizer.get('schedule')}, compute in {train.get('compute_dtype')}."
    )
    lora = (recipe.get("model") or {}).get("lora")
    if lora is not None:
        text += (
            f" What was trained are low-rank adapters (rank {lora['rank']}, alpha {lora['alpha']:g}, on "
            f"{', '.join(lora['targets'])}); here they are added to the weights."
        )
    counts = meta.get("counts") or {}
    lines = []
    for name, stream in (recipe.get("streams") or {}).items():
        info = _json(stream["path"], "stream.json")
        taken = counts.get(name)
        tokens = epochs = None
        if taken is not None and info and info.get("num_rows"):
            tokens = round(taken * info["tokens"] / info["num_rows"])
            epochs = taken / info["num_rows"]
        lines.append((name, stream.get("weight"), taken, tokens, epochs))
    if not lines:
        return text
    total = sum(tokens or 0 for *_, tokens, _ in lines)
    table = ["| stream | weight | rows | tokens | share | epochs |", "|---|---|---|---|---|---|"]
    for name, weight, taken, tokens, epochs in lines:
        share = "" if not tokens else f"{tokens / total:.1%}"
        seen = "" if epochs is None else f"{epochs:.2f}"
        table.append(
            f"| {name} | {weight} | {_number(taken)} | {_number(tokens)} | {share} | {seen} |"
        )
    return text + "\n\n" + "\n".join(table)


def _results(run_dir: str) -> str:
    """Held-out figures at the first and the last evaluation."""
    path = epath.Path(run_dir) / "metrics.jsonl"
    if not path.exists():
        return ""
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for line in path.read_text().splitlines():
        try:
            values = json.loads(line)
        except json.JSONDecodeError:  # a line cut short by a kill
            continue
        found = {k: v for k, v in values.items() if k.startswith("eval/") and v is not None}
        first = {**found, **first}
        last |= found
    names = sorted({key.split("/")[1] for key in last})
    if not names:
        return ""
    table = ["| stream | loss | bits per byte |", "|---|---|---|"]
    for name in names:
        cells = [
            f"{first[key]:.4f} → {last[key]:.4f}" if key in last else ""
            for key in (f"eval/{name}/loss", f"eval/{name}/bits_per_byte")
        ]
        table.append(f"| {name} | {' | '.join(cells)} |")
    return "## Results\n\nHeld-out text, before → after training.\n\n" + "\n".join(table)


def _data(recipe: dict[str, Any]) -> str:
    lines = []
    for name, stream in (recipe.get("streams") or {}).items():
        card = _json(stream["path"], "card.json")
        facts = [
            f"{_number(card[key])} {what}"
            for key, what in (
                ("documents_in", "documents read"),
                ("documents_out", "after preparation"),
                ("tokens_out", "tokens"),
            )
            if isinstance(card.get(key), int)
        ]
        for key in ("languages", "licences"):
            if card.get(key):
                said = card[key]
                facts.append(f"{key}: {', '.join(map(str, said))}")
        lines.append(f"- **{name}**: {'; '.join(facts) or 'no card beside the stream'}")
    return "## Data\n\n" + "\n".join(lines) if lines else ""


def _how_to_load(parity: dict[str, Any], add_bos: bool) -> str:
    code = (
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'folder = "."  # this folder, or its name on the Hub\n'
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        'model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")\n'
        "```"
    )
    if parity["tokenizer"] is None:
        return (
            f"## How to load\n\n{code}\n\nThe run had no tokenizer; token ids are not set either."
        )
    bos = "begins" if add_bos else "does not begin"
    return (
        f"## How to load\n\n{code}\n\nA text {bos} with BOS, as in training; `tokenizer(text)` does it. "
        "`tokenizer.json` gives the ids of the training tokenizer; keep `tokenizer_class` as it is."
    )


def _verification(parity: dict[str, Any]) -> str:
    logits, ids = parity["logits"], parity["tokenizer"]
    text = (
        f"## Verification\n\nWeights in {parity['dtype']}, bit for bit those of the checkpoint. Logits against "
        f"{parity['against']}, {parity['how']}, {logits['tokens']} tokens: largest difference "
        f"{logits['max_abs_difference']:.2g} (tolerance {logits['tolerance']:.2g}), same most likely token at "
        f"{logits.get('top1_agreement', 0):.2%}."
    )
    if ids is not None:
        total = ids["documents"] + ids["conversations"]
        text += f" Tokenizer: the same ids on {total - ids['different'] - ids['ties']:,} of {total:,} texts"
        text += f", {ids['ties']} ties between equal segmentations." if ids["ties"] else "."
    return text + " Details: `parity.json`."


def _json(folder: str, name: str) -> dict[str, Any]:
    path = epath.Path(folder) / name
    return json.loads(path.read_text()) if path.exists() else {}


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
