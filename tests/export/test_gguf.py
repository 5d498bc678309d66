"""The GGUF file, read back by llama.cpp's own reader."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from tests.support.data import write_config
from tests.support.models import SMALL, model_of, save_run
from trainer.config_loading import load_config
from trainer.export.exporting import export
from trainer.inference.loading import load_model
from trainer.model.gpt import RotaryPositions, rotate
from trainer.run_folder import RunFolder
from trainer.tokens.tokenizer import SPECIAL_TOKENS, TOKENIZER_FILE, TextEncoder, _byte_alphabet, chat_template


def read(run: Path, out: Path, dtype: Any = "float32") -> gguf.GGUFReader:
    config = load_config(run)
    export(config, RunFolder.of(config), out, "gguf", dtype)
    return gguf.GGUFReader(out / f"small-{dtype}.gguf")


def values(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items()}


def test_the_keys_tell_the_models_shape(run: Path, tmp_path: Path) -> None:
    found = values(read(run, tmp_path / "out"))
    model = load_config(run).model
    arch = found["general.architecture"]
    assert arch == ("qwen3" if model.qk_norm else "llama")
    for key, wanted in (
        ("block_count", 2),
        ("context_length", 64),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("attention.key_length", 8),
        ("rope.dimension_count", 8),
        ("rope.freq_base", 1e6),
        ("vocab_size", 520),
    ):
        assert found[f"{arch}.{key}"] == wanted, key
    assert found[f"{arch}.attention.layer_norm_rms_epsilon"] == pytest.approx(model.norm_eps)


def test_every_tensor_is_there_and_holds_the_models_numbers(run: Path, tmp_path: Path) -> None:
    config = load_config(run)
    model = load_model(config, RunFolder.of(config), torch.device("cpu"), 1).model
    found = {tensor.name: tensor for tensor in read(run, tmp_path / "out").tensors}
    assert len(found) == len(list(model.parameters()))
    pairs = [("token_embd", "embed_tokens"), ("output_norm", "norm"), ("blk.1.ffn_down", "layers.1.mlp.down_proj")]
    pairs += [("blk.0.attn_norm", "layers.0.input_layernorm"), ("blk.0.ffn_norm", "layers.0.post_attention_layernorm")]
    pairs += [("blk.0.attn_v", "layers.0.self_attn.v_proj"), ("blk.0.attn_output", "layers.0.self_attn.o_proj")]
    if config.model.qk_norm:
        pairs += [("blk.1.attn_q", "layers.1.self_attn.q_proj"), ("blk.1.attn_q_norm", "layers.1.self_attn.q_norm")]
    parameters = dict(model.named_parameters())
    for theirs, ours in pairs:
        assert np.array_equal(found[f"{theirs}.weight"].data, parameters[f"{ours}.weight"].detach().numpy()), theirs


def test_queries_and_keys_meet_at_the_same_angles_in_llama_cpps_way_of_turning(run: Path, tmp_path: Path) -> None:
    """llama.cpp's llama turns neighbours (x[2i], x[2i+1]), its qwen3 the halves (x[i], x[i + D/2]) that we turn."""
    config = load_config(run)
    model = load_model(config, RunFolder.of(config), torch.device("cpu"), 1).model
    found = {tensor.name: torch.tensor(tensor.data) for tensor in read(run, tmp_path / "out").tensors}
    heads, size, positions = config.model.num_kv_heads, config.model.head_size, 9
    x_TC = torch.randn(positions, config.model.hidden_size, generator=torch.Generator().manual_seed(0))
    attention = next(iter(model.blocks)).self_attn
    cos_TD, sin_TD = RotaryPositions(size, config.model.rope_theta, positions)(positions)

    def halves(weight: torch.Tensor) -> torch.Tensor:
        return rotate((x_TC @ weight.T).view(positions, -1, size).transpose(0, 1), cos_TD, sin_TD)

    def neighbours(weight: torch.Tensor) -> torch.Tensor:
        pairs_HTDP = (x_TC @ weight.T).view(positions, -1, size // 2, 2).transpose(0, 1)
        cos, sin = cos_TD[:, : size // 2], sin_TD[:, : size // 2]
        first, second = pairs_HTDP[..., 0], pairs_HTDP[..., 1]
        return torch.stack((first * cos - second * sin, first * sin + second * cos), -1).flatten(-2)

    def scores(q_HTD: torch.Tensor, k_HTD: torch.Tensor) -> torch.Tensor:
        return q_HTD[::2][:heads] @ k_HTD.transpose(1, 2)

    ours = scores(halves(attention.q_proj.weight.detach()), halves(attention.k_proj.weight.detach()))
    turned = halves if config.model.qk_norm else neighbours
    theirs = scores(turned(found["blk.0.attn_q.weight"]), turned(found["blk.0.attn_k.weight"]))
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


def test_the_vocabulary_is_the_tokenizers(run: Path, tmp_path: Path) -> None:
    config = load_config(run)
    encoder = TextEncoder(RunFolder.of(config).tokenizer / TOKENIZER_FILE)
    found = values(read(run, tmp_path / "out"))
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    tokens, kinds = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert tokens[: len(SPECIAL_TOKENS)] == list(SPECIAL_TOKENS)
    to_byte = {char: byte for byte, char in enumerate(_byte_alphabet())}
    plain = range(len(SPECIAL_TOKENS), encoder.vocab_size)
    assert [bytes(to_byte[char] for char in tokens[n]) for n in plain] == [encoder.decode_bytes([n]) for n in plain]
    assert kinds[: encoder.vocab_size] == [gguf.TokenType.CONTROL] * len(SPECIAL_TOKENS) + [gguf.TokenType.NORMAL] * len(plain)
    assert kinds[encoder.vocab_size :] == [gguf.TokenType.UNUSED] * (520 - encoder.vocab_size)
    merged = [merge.replace(" ", "") for merge in found["tokenizer.ggml.merges"]]
    assert merged == tokens[len(SPECIAL_TOKENS) + 256 : encoder.vocab_size]
    ids = [found[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")]
    assert (ids, found["tokenizer.ggml.add_bos_token"]) == ([1, 2, 0], False)


def test_a_chat_template_that_an_older_version_left_in_the_run_is_renewed(small_data: Path, tmp_path: Path) -> None:
    """llama.cpp's template reader knows no escapes like \\u200b."""
    shutil.copytree(small_data / "tokenizer", tmp_path / "data" / "tokenizer")
    stored = tmp_path / "data" / "tokenizer" / "tokenizer_config.json"
    stored.write_text(json.dumps(json.loads(stored.read_bytes()) | {"chat_template": "{{- '\\\\u200b' -}}"}), encoding="utf-8")
    config = load_config(write_config(tmp_path / "config.yaml", tmp_path / "data", model=SMALL.model_dump()))
    save_run(config, model_of(SMALL, 16))
    export(config, RunFolder.of(config), tmp_path / "hf", "hf", "float32")
    whole = (tmp_path / "hf" / "chat_template.jinja").read_text(encoding="utf-8")
    export(config, RunFolder.of(config), tmp_path / "gguf", "gguf", "float32")
    in_file = values(gguf.GGUFReader(tmp_path / "gguf" / "small-float32.gguf"))["tokenizer.chat_template"]
    assert (whole, in_file) == (chat_template(), chat_template(marks_answers=False))
    for text in (whole, in_file):
        assert "\u200b" in text
        assert not re.search(r"\\(?!n)", text)  # line ends are the only escapes
    assert "generation -" not in in_file


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_rounds_matrices_and_keeps_vectors(run: Path, tmp_path: Path, dtype: Any) -> None:
    whole = {tensor.name: tensor.data for tensor in read(run, tmp_path / "whole").tensors}
    for tensor in read(run, tmp_path / dtype, dtype).tensors:
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        wanted = torch.tensor(whole[tensor.name])
        if wanted.ndim > 1:
            wanted = wanted.to(getattr(torch, dtype)).float()
        assert np.array_equal(array, wanted.numpy()), tensor.name
