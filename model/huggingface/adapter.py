"""A run's adapters as a folder that PEFT loads onto the model they were trained beside.

Theirs are `lora_A` [r, in] and `lora_B` [out, r] for each matrix, heads flattened as in the matrix itself.
"""

import shutil
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from model.config import LlamaConfig, LoraConfig
from model.huggingface.folder import check_out, publish, push_to_hub, staging, write_json
from model.huggingface.names import HF_NAMES
from model.lora import SUFFIX, LayerSource

_FILE = "adapter_model.safetensors"


class KeyedSource(LayerSource, Protocol):
    """A step that also says which arrays it has."""

    def keys(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and type of every array, by flat key."""
        ...


def export_adapter(
    reader: KeyedSource,
    out: str,
    *,
    push: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Writes the adapters of a checkpoint step, float32, and reads them back.

    Args:
        reader: of the step. All of it is read, so that its digests say whether it is what was saved.
        out: the folder to write; local or gs://. One that is there must be an earlier export.
        push: a hub id to upload to, once verified.
        say: takes progress lines.

    Returns:
        The report kept as parity.json.

    Raises:
        ValueError: the run has no adapters, one is not finite, or what was read back differs.
    """
    from safetensors.numpy import load_file, save_file

    config = LlamaConfig(**reader.meta["model"])
    if config.lora is None:
        raise ValueError("--adapter: this run trained the weights themselves; export it without")
    check_out(out)
    base = ((reader.meta.get("recipe") or {}).get("model") or {}).get("init_from")
    staged = staging(out)
    try:
        tensors = dict(_tensors(reader))
        reader.verify()
        save_file(tensors, staged / _FILE, metadata={"format": "pt"})
        (staged / _FILE).chmod(0o644)  # safetensors leaves it to its owner alone
        write_json(staged / "adapter_config.json", _config(config.lora, base))
        found = load_file(staged / _FILE)
        wrong = [name for name in tensors if found[name].tobytes() != tensors[name].tobytes()]
        if wrong or found.keys() != tensors.keys():
            raise ValueError(
                f"{out}: not written, {len(wrong)} tensors read back otherwise: {wrong[:3]}"
            )
        report = {
            "step": reader.meta["step"],
            "passed": True,
            "adapter_of": base,
            "tensors": len(tensors),
            "pushed": push,
        }
        write_json(staged / "parity.json", report)
        (staged / "README.md").write_text(_card(config.lora, base, reader.meta["step"]))
        if push is not None:
            push_to_hub(staged, push)
        publish(staged, out)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    size = sum(t.nbytes for t in tensors.values()) / 1e6
    say(
        f"{out}: {len(tensors)} tensors, {size:.1f} MB, read back; digests of the checkpoint verified"
    )
    return report


def _tensors(reader: KeyedSource) -> Iterator[tuple[str, np.ndarray]]:
    """Theirs by name. The frozen weights are read on the way, for their digests alone."""
    for key, (shape, _) in reader.keys().items():
        if not key.startswith("blocks/"):
            reader.read(key)
            continue
        adapted, _, part = key.rpartition("/")
        theirs = HF_NAMES.get(adapted.removesuffix(SUFFIX)) if part in ("a", "b") else None
        for layer in range(shape[0]):
            value = reader.read(key, layer)
            if theirs is None:
                continue
            if not np.isfinite(value).all():
                raise ValueError(f"{key}, layer {layer}: holds a value that is not finite")
            flat = (
                value.reshape(-1, value.shape[-1])
                if part == "a"
                else value.reshape(value.shape[0], -1)
            )
            module = theirs[0].replace("*", str(layer)).removesuffix(".weight")
            name = f"base_model.model.{module}.lora_{part.upper()}.weight"
            yield name, np.ascontiguousarray(flat.T)


def _config(lora: LoraConfig, base: str | None) -> dict[str, Any]:
    """PEFT's adapter_config.json."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": [f"{name}_proj" for name in lora.targets],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _card(lora: LoraConfig, base: str | None, step: int) -> str:
    named = base or "the model it was trained beside"
    return (
        "---\nlibrary_name: peft\ntags:\n- domain-adaptation\n- lectern\n---\n\n"
        f"# Adapters of {named}\n\n"
        f"Rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.targets)} of every layer; step {step:,} of the run.\n\n"
        "```python\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{base or "BASE"}")\n'
        'model = PeftModel.from_pretrained(base, ".")  # this folder, or its name on the Hub\n'
        "```\n"
    )
