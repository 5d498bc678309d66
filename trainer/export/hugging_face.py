"""A Hugging Face folder: what transformers, vLLM and lm-evaluation-harness read without any code of ours.

The model is Llama's, or Qwen3's with `qk_norm`; its parameters already have Hugging Face's names, less the leading `model.`.
The output matrix is the embedding's transpose, so it is not written again (`tie_word_embeddings`).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trainer.checkpoint.format import safetensors_header
from trainer.config import ModelSection
from trainer.errors import TokenizerError
from trainer.files import FileRecord, HashingWriter, write_file, write_json
from trainer.tokens.tokenizer import (
    CHAT_TEMPLATE_FILE,
    CONFIG_FILE,
    END_OF_TEXT,
    IM_END,
    IM_START,
    TOKENIZER_FILE,
    chat_template,
)

Dtype = Literal["float32", "bfloat16", "float16"]
_STORED: Mapping[Dtype, tuple[Literal["F32", "F16", "BF16"], torch.dtype]] = {
    "float32": ("F32", torch.float32),
    "bfloat16": ("BF16", torch.bfloat16),
    "float16": ("F16", torch.float16),
}


def model_config(model: ModelSection, dtype: Dtype, trained_tokens: int) -> dict[str, Any]:
    """What stands in config.json. Its longest context is what was trained: the model knows nothing of positions beyond.

    The base of the rotary positions is written twice: transformers 5 reads `rope_parameters`, what is older and converters read
    `rope_theta`.
    """
    kind = ("Qwen3ForCausalLM", "qwen3") if model.qk_norm else ("LlamaForCausalLM", "llama")
    values: dict[str, Any] = {
        "architectures": [kind[0]],
        "model_type": kind[1],
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "max_position_embeddings": trained_tokens,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
        "bos_token_id": IM_START,
        "eos_token_id": IM_END,
        "pad_token_id": END_OF_TEXT,
    }
    if not model.qk_norm:
        values["mlp_bias"] = False
    return values


def generation_config() -> dict[str, Any]:
    """What stands in generation_config.json: a text ends with the end of a document or of a turn."""
    return {"bos_token_id": IM_START, "eos_token_id": [IM_END, END_OF_TEXT], "pad_token_id": END_OF_TEXT}


def write_weights(file: Path, parameters: Iterable[tuple[str, Tensor]], dtype: Dtype) -> FileRecord:
    """Write model.safetensors tensor by tensor; in float32 the very bytes of the checkpoint's numbers."""
    tensors = {f"model.{name}": tensor for name, tensor in parameters}
    stored, kind = _STORED[dtype]
    writer = HashingWriter(file)
    try:
        writer.write(safetensors_header({name: tuple(tensor.shape) for name, tensor in tensors.items()}, stored))
        for tensor in tensors.values():
            data = tensor.detach().to("cpu", kind).contiguous()
            writer.write(data.flatten().view(torch.uint8).numpy().data)
    except BaseException:
        writer.abandon()
        raise
    return writer.close()


def write_tokenizer(source: Path, target: Path, trained_tokens: int) -> dict[str, FileRecord]:
    """Copy the tokenizer's files; its config says the longest text that was trained.

    The chat template is this version's own, by which the trainer renders conversations, and stands in two places: transformers
    5 reads the file, what is older the config.
    """
    template = chat_template()
    records = {CHAT_TEMPLATE_FILE: write_file(target / CHAT_TEMPLATE_FILE, template.encode())}
    for file in sorted(path for path in source.iterdir() if path.is_file() and path.name != CHAT_TEMPLATE_FILE):
        if file.name == CONFIG_FILE:
            config = read_tokenizer_config(source) | {"model_max_length": trained_tokens, "chat_template": template}
            records[file.name] = write_json(target / file.name, config)
        else:
            records[file.name] = write_file(target / file.name, file.read_bytes())
    for name in (TOKENIZER_FILE, CONFIG_FILE):
        if name not in records:
            raise TokenizerError(f"{source / name}: missing; run `trainer tokenizer` in a new folder")
    return records


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json of a tokenizer folder. Raises TokenizerError."""
    file = folder / CONFIG_FILE
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{file}: cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise TokenizerError(f"{file}: holds no JSON object")
    return values
