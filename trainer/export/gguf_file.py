"""One GGUF file for llama.cpp, with that project's own names: architecture `llama`, or `qwen3` with `qk_norm`.

Key names come from the `gguf` package; what they mean: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
In its llama architecture llama.cpp turns pairs of neighbours, where we and Hugging Face turn the halves of a head: rows of the
query and key matrices change places. Its qwen3 turns halves, so nothing moves there.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainer.config import Config, ModelSection
from trainer.errors import MissingDependencyError, TokenizerError
from trainer.export.hugging_face import Dtype
from trainer.files import DISK, FileRecord, record_of
from trainer.model.gpt import GPT
from trainer.tokens.tokenizer import END_OF_TEXT, IM_END, IM_START, TOKENIZER_FILE, chat_template

if TYPE_CHECKING:
    from gguf import GGUFWriter


def write_gguf(file: Path, config: Config, model: GPT, tokenizer: Path, dtype: Dtype, trained_tokens: int) -> FileRecord:
    """Write the file and flush it. Vectors stay float32, as llama.cpp wants them. Raises MissingDependencyError."""
    try:
        import gguf
    except ImportError:
        raise MissingDependencyError("export --format gguf needs gguf: pip install 'pretrain-run[gguf]'") from None
    arch = gguf.MODEL_ARCH.QWEN3 if config.model.qk_norm else gguf.MODEL_ARCH.LLAMA
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_name(config.name)
    kinds = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16"}
    writer.add_file_type(gguf.LlamaFileType[kinds[dtype]])
    _add_shape(writer, config.model, trained_tokens)
    _add_tokenizer(writer, tokenizer, config.model.vocab_size)
    names = gguf.get_tensor_name_map(arch, config.model.num_layers)
    for name, parameter in model.named_parameters():
        known = names.get_name(f"model.{name}", try_suffixes=(".weight",))
        assert known is not None, name
        array = stored_rows(name, parameter.detach().to("cpu", torch.float32).numpy(), config.model)
        if array.ndim == 1 or dtype == "float32":
            writer.add_tensor(known, array)
        elif dtype == "float16":
            writer.add_tensor(known, array.astype(np.float16))
        else:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(known, gguf.quants.quantize(array, kind), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    with file.open("rb+") as written:
        DISK.flush(written)
    return record_of(file)


def stored_rows(name: str, array: np.ndarray, model: ModelSection) -> np.ndarray:
    """A parameter in GGUF's order: in llama's query and key matrices, row i of a head's first half stands before row i of its
    second half."""
    if model.qk_norm or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return array
    halves = array.reshape(-1, 2, model.head_size // 2, array.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)


def _add_shape(writer: "GGUFWriter", model: ModelSection, trained_tokens: int) -> None:
    writer.add_vocab_size(model.vocab_size)
    writer.add_context_length(trained_tokens)
    writer.add_embedding_length(model.hidden_size)
    writer.add_block_count(model.num_layers)
    writer.add_feed_forward_length(model.ffn_size)
    writer.add_head_count(model.num_heads)
    writer.add_head_count_kv(model.num_kv_heads)
    writer.add_key_length(model.head_size)
    writer.add_value_length(model.head_size)
    writer.add_layer_norm_rms_eps(model.norm_eps)
    writer.add_rope_dimension_count(model.head_size)
    writer.add_rope_freq_base(model.rope_theta)


def _add_tokenizer(writer: "GGUFWriter", folder: Path, vocab_size: int) -> None:
    """The vocabulary as GPT-2's byte-level BPE. Ids that the model has and the tokenizer has not are marked as unused."""
    import gguf

    content = _tokenizer(folder)
    specials = {token["id"]: token for token in content["added_tokens"]}
    pieces = {number: piece for piece, number in content["model"]["vocab"].items()}
    tokens, kinds = [], []
    for number in range(vocab_size):
        if number in specials:
            tokens.append(specials[number]["content"])
            kinds.append(gguf.TokenType.CONTROL if specials[number]["special"] else gguf.TokenType.USER_DEFINED)
        elif number in pieces:
            tokens.append(pieces[number])
            kinds.append(gguf.TokenType.NORMAL)
        else:
            tokens.append(f"[PAD{number}]")
            kinds.append(gguf.TokenType.UNUSED)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # the split pattern: GPT-2's own
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(IM_START)
    writer.add_eos_token_id(IM_END)
    writer.add_pad_token_id(END_OF_TEXT)
    writer.add_unk_token_id(END_OF_TEXT)
    writer.add_add_bos_token(False)
    writer.add_chat_template(chat_template(marks_answers=False))


def _tokenizer(folder: Path) -> dict[str, Any]:
    file = folder / TOKENIZER_FILE
    try:
        content: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{file}: cannot be read: {error}") from None
    return content
