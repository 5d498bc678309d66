"""The exported folder in the hands of stock transformers: the same logits, the same text, no code of ours."""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from tests.support import ranks
from tests.support.data import write_config
from trainer.config_loading import load_config
from trainer.export.exporting import export
from trainer.inference.generation import generate_ids, prompt_ids
from trainer.inference.loading import load_model
from trainer.run_folder import RunFolder
from trainer.tokens.chat import Message, render_chat
from trainer.tokens.tokenizer import TOKENIZER_FILE, TextEncoder

CPU = torch.device("cpu")


def exported(run: Path, out: Path, **options: Any) -> Path:
    config = load_config(run)
    return export(config, RunFolder.of(config), out, options.get("form", "hf"), options.get("dtype", "float32"))


def test_stock_transformers_computes_the_same_logits_and_text(run: Path, tmp_path: Path) -> None:
    import transformers

    out = exported(run, tmp_path / "out")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True, trust_remote_code=False)
    theirs, loading = loaded
    assert not any(loading.values()), loading
    assert type(theirs).__name__ == json.loads((out / "config.json").read_bytes())["architectures"][0]
    config = load_config(run)
    folder = RunFolder.of(config)
    ours = load_model(config, folder, CPU, 256).model
    ids_BT = torch.arange(120).reshape(2, 60) * 37 % config.model.vocab_size
    with torch.no_grad():
        torch.testing.assert_close(ours.logits(ours(ids_BT)), theirs(ids_BT).logits, atol=1e-4, rtol=0)
    encoder = TextEncoder(folder.tokenizer / TOKENIZER_FILE)
    prompt = prompt_ids(encoder, "the")
    greedy = config.generate.model_copy(update={"temperature": 0, "max_tokens": 12})
    written = theirs.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12)[0, len(prompt) :].tolist()
    wanted = list(generate_ids(ours, prompt, greedy, 0))
    assert [each for each in written if each not in theirs.generation_config.eos_token_id] == wanted


def test_the_tokenizer_gives_the_same_ids_and_knows_the_longest_text_that_was_trained(run: Path, tmp_path: Path) -> None:
    import transformers

    out = exported(run, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    ours = TextEncoder(out / TOKENIZER_FILE)
    text = "A function, 床前明月光\n  x = 1"
    assert theirs(text)["input_ids"] == ours.encode(text)
    assert theirs("<|endoftext|>the")["input_ids"] == [0, *ours.encode("the")]
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 0)
    config = json.loads((out / "config.json").read_bytes())
    assert theirs.model_max_length == config["max_position_embeddings"] == load_config(run).tokens.row_tokens == 64


def test_the_chat_template_stands_in_a_file_and_says_which_tokens_counted(run: Path, tmp_path: Path) -> None:
    """TRL's `assistant_only_loss` asks for this mask."""
    import transformers

    out = exported(run, tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    template = (out / "chat_template.jinja").read_text(encoding="utf-8")
    older = json.loads((out / "tokenizer_config.json").read_bytes())["chat_template"]
    assert theirs.chat_template == template == older
    values = [{"role": role, "content": content} for role, content in (("user", "<|im_end|>?"), ("assistant", "Two.")) * 2]
    found = theirs.apply_chat_template(values, return_dict=True, return_assistant_tokens_mask=True)
    ours = render_chat([Message.model_validate(value) for value in values]).encode(TextEncoder(out / TOKENIZER_FILE))
    assert found["input_ids"] == ours.ids
    assert [bool(counts) for counts in found["assistant_masks"]] == ours.mask


def test_config_keys_are_those_of_the_model_class(run: Path, tmp_path: Path) -> None:
    """A key that the class does not know would be kept as it is and mean nothing: vLLM reads the same class."""
    import transformers

    out = exported(run, tmp_path / "out")
    stored = json.loads((out / "config.json").read_bytes())
    read = transformers.AutoConfig.from_pretrained(out)
    known = {*read.to_dict(), "torch_dtype", "rope_theta"}  # the two spellings of older versions
    assert set(stored) <= known
    assert stored["rope_theta"] == 1e6  # read by vLLM's older versions and by converters, with a silent default of 10,000
    assert read.rope_parameters == {"rope_type": "default", "rope_theta": 1e6}
    config = load_config(run).model
    assert (read.head_dim, read.num_key_value_heads, read.rms_norm_eps) == (config.head_size, config.num_kv_heads, 3e-6)


def test_half_precision_holds_the_rounded_weights(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    whole = load_file(exported(run, tmp_path / "whole") / "model.safetensors")
    for name, kind in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        out = exported(run, tmp_path / name, dtype=name)
        assert json.loads((out / "config.json").read_bytes())["dtype"] == name
        half = load_file(out / "model.safetensors")
        assert set(half) == set(whole)
        assert all(torch.equal(half[key], whole[key].to(kind)) for key in whole)


def test_the_manifest_names_every_file_with_its_hash(run: Path, tmp_path: Path) -> None:
    out = exported(run, tmp_path / "out")
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert set(manifest["files"]) == {path.name for path in out.iterdir()} - {"manifest.json"}
    for name, stored in manifest["files"].items():
        data = (out / name).read_bytes()
        assert (stored["size_bytes"], stored["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert (manifest["run"], manifest["step"]) == (load_config(run).hash(), 12)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert load_config(run).hash() in card
    assert "This checkpoint was not evaluated" in card


def test_export_refuses_to_replace_what_is_not_its_own(run: Path, tmp_path: Path) -> None:
    command = ("export", "--config", str(run), "--out", str(tmp_path / "out"))
    assert ranks.run_trainer(*command, folder=tmp_path).splitlines()[-1] == str(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    ranks.run_trainer(*command, folder=tmp_path)  # the same export again
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    for content, words in (
        ("mine", "holds something that is no export; choose a new folder, or remove it"),
        (
            '{"kind": "pretrain-run export", "format": "hf", "run": "0000"}',
            "holds an export of run 0000 as hf, not of this run",
        ),
    ):
        (tmp_path / "out" / "manifest.json").write_text(content)
        processes = ranks.trainer(*command, folder=tmp_path)
        assert processes.wait() == [2]
        assert words in processes.text()
        assert (tmp_path / "out" / "manifest.json").read_text() == content
    assert not list(tmp_path.glob("*.partial"))


def test_adapters_are_merged_and_the_last_stage_is_exported(small_data: Path, tmp_path: Path) -> None:
    import transformers

    config = write_config(tmp_path / "config.yaml", small_data, sft__lora={"rank": 4, "alpha": 8.0})
    for stage in ("pretrain", "sft"):
        ranks.run_trainer(stage, "--config", str(config), folder=tmp_path)
    out = exported(config, tmp_path / "out")
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert (manifest["stage"], manifest["step"]) == ("sft", 12)
    loaded = load_config(config)
    folder = RunFolder.of(loaded)
    tuned, base = (load_model(loaded, folder, CPU, 64, stage).model for stage in ("sft", "pretrain"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
    ids_BT = torch.arange(40)[None] * 37 % loaded.model.vocab_size
    with torch.no_grad():
        logits = theirs(ids_BT).logits
        torch.testing.assert_close(tuned.logits(tuned(ids_BT)), logits, atol=1e-4, rtol=0)
        assert (base.logits(base(ids_BT)) - logits).abs().max() > 0.01
    assert transformers.AutoTokenizer.from_pretrained(out).chat_template
