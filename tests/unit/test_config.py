"""A config is checked at birth; its errors say where, what, why and the way out; its hash is the run's identity."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from trainer.config import TRAINING_STAGES, Config
from trainer.config_loading import config_schema, dump_config, load_config, preset_names
from trainer.config_section import Section
from trainer.errors import ConfigError


def error_of(text: str, tmp_path: Path, *overrides: str) -> str:
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_config(file, overrides)
    return str(raised.value).replace(f"{file}", "c.yaml")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("pretrain:\n  micro_bach: 4", "c.yaml:2: pretrain.micro_bach: unknown key; did you mean micro_batch?"),
        ("nonsense: 1", "c.yaml:1: nonsense: unknown key; known here: name, run_dir, data_dir, stages, seed"),
        ("seed: 1\nseed: 2", "c.yaml:2: key 'seed' stands here a second time"),
        ("seed: -1", "c.yaml:1: seed: must be at least 0, not -1"),
        (
            "seed: 1\npretrain:\n  global_batch: 256\n  micro_batch: 12",
            "c.yaml:2: pretrain: micro_batch 12 does not divide global_batch 256; nearest: 8, 16",
        ),
        ("pretrain: {epochs: 1, steps: 2}", "c.yaml:1: pretrain: epochs and steps are both given; remove one of them"),
        (
            "pretrain: {steps: 50, schedule: {warmup_steps: 50}}",
            "c.yaml:1: pretrain: schedule.warmup_steps 50 must be below steps 50",
        ),
        (
            "model: {hidden_size: 100, num_heads: 8}",
            "c.yaml:1: model: num_heads 8 does not divide hidden_size 100; nearest: 5, 10",
        ),
        ("model: {num_kv_heads: 3}", "c.yaml:1: model: num_kv_heads 3 does not divide num_heads 8; nearest: 2, 4"),
        ("model: {vocab_size: 200}", "c.yaml:1: model: vocab_size 200 is below 292: 36 reserved ids and 256 bytes"),
        (
            "pretrain: {global_batch: 65536, micro_batch: 16}",
            "pretrain.global_batch 65536 x tokens.row_tokens 512 is 33554432 tokens a step; it must stay below 16777216",
        ),
        (
            "launch: {processes: 17}",
            "launch.processes 17 is above the 16 micro-batches of a step; lower it, or lower pretrain.micro_batch 16",
        ),
        ("stages: [sft]", "stages names sft, but chat.conversations is empty; name a source, or leave the stage out"),
        ("stages: [dpo]", "stages names dpo, but chat.pairs is empty; name a source, or leave the stage out"),
        (
            "stages: [sft]\nchat: {conversations: [{name: a, path: x}]}\nsft: {global_batch: 4}\nlaunch: {processes: 2}",
            "launch.processes 2 is above the 1 micro-batches of a step; lower it, or lower sft.micro_batch 4",
        ),
        (
            "dpo: {loss: ipo, label_smoothing: 0.1}",
            "c.yaml:1: dpo: label_smoothing is a setting of loss sigmoid; the loss is ipo",
        ),
        ("sft: {lora: {targets: []}}", "c.yaml:1: sft.lora.targets: must have at least 1 item"),
        ("chat: {row_tokens: 65536}", "chat.row_tokens 65536 is above model.max_positions 32768"),
        (
            "chat: {pairs: [{name: a, path: x}, {name: a, path: y}]}",
            "c.yaml:1: chat: pairs: source name 'a' is used twice; each source needs its own",
        ),
        (
            "launch: {kill: [{rank: 1, at_step: 3}]}",
            "launch.kill names rank 1, but with launch.processes 1 nobody is there to go on; raise it to 2 or more",
        ),
        (
            "corpus: {sources: [{name: a, path: x}, {name: a, path: y}]}",
            "c.yaml:1: corpus: source name 'a' is used twice; each source needs its own",
        ),
        (
            "corpus:\n  sources:\n    - {name: Bad Name, path: x}",
            "c.yaml:3: corpus.sources[0].name: must be lower-case letters, digits and dashes only, for example bad-name,",
        ),
        ("device: tpu", "c.yaml:1: device: must be 'auto', 'cuda', 'mps' or 'cpu', not 'tpu'"),
        ("checkpoint: {keep: 1}", "c.yaml:1: checkpoint.keep: must be at least 2, not 1"),
        ("model: 5", "c.yaml:1: model: must be a section of keys, not 5"),
        ("a: [1", "c.yaml:1: not YAML: expected ',' or ']'"),
        ("- 1", "c.yaml: holds a list; a config is a mapping of sections, such as"),
        ("trainer: 5", "c.yaml:1: trainer must be a section of keys: the trainer's config"),
        ("preset: huge", "c.yaml:1: preset 'huge' is not one of gpt-125m, gpt-1b, gpt-350m, minimind-26m, minimind-64m, tiny"),
        ("tokens: {row_tokens: 65536}", "tokens.row_tokens 65536 is above model.max_positions 32768"),
    ],
)
def test_a_mistake_gets_one_line_with_place_rule_and_way_out(text: str, wanted: str, tmp_path: Path) -> None:
    assert error_of(text, tmp_path).startswith(wanted)


def test_mistakes_on_the_command_line_say_so(tmp_path: Path) -> None:
    assert error_of("", tmp_path, "seed").startswith("--set seed: expected section.key=value")
    assert error_of("", tmp_path, "seed=[").startswith("--set seed=[: the value is not YAML")
    assert error_of("", tmp_path, "seed=x").startswith("--set: seed: must be a whole number, not 'x'")
    assert error_of("seed: 5", tmp_path, "seed.a=1") == "--set seed.a=1: seed is not a section"


def test_set_wins_over_file_and_file_over_preset(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("preset: tiny\nmodel: {num_layers: 3}\npretrain: {optimizer: {lr: 5e-4}}")
    config = load_config(file, ["model.ffn_size=256"])
    assert (config.model.hidden_size, config.model.num_layers, config.model.ffn_size) == (128, 3, 256)
    assert config.pretrain.optimizer.lr == 5e-4
    assert load_config(file, ["model.num_layers=2"]).model.num_layers == 2
    assert load_config(file, preset="minimind-26m").model.hidden_size == 512


def test_a_run_file_s_trainer_part_is_the_config(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("backend: job\nnodes: 2\ntrainer:\n  preset: tiny\n  seed: 9\n")
    assert load_config(file).seed == 9
    file.write_text("backend: job\ntrainer:\n  sed: 9\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:3: sed: unknown key; did you mean seed\?"):
        load_config(file)


def test_a_config_is_frozen() -> None:
    config = load_config(None)
    with pytest.raises(ValidationError):
        config.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("preset", preset_names())
def test_the_resolved_file_gives_the_same_config_again(preset: str, tmp_path: Path) -> None:
    config = load_config(None, ["corpus.sources=[{name: a, path: x}]", "run_dir=somewhere"], preset)
    file = tmp_path / "resolved.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config
    assert load_config(file).hash() == config.hash()


def test_key_order_and_comments_never_change_the_hash(tmp_path: Path) -> None:
    one, other = tmp_path / "1.yaml", tmp_path / "2.yaml"
    one.write_text("seed: 5\npretrain: {global_batch: 64, micro_batch: 8}\n")
    other.write_text("# a comment\npretrain:\n  micro_batch: 8\n  global_batch: 64\nseed: 5\n")
    assert load_config(one).hash() == load_config(other).hash()


NOT_IDENTITY = {
    "name", "run_dir", "data_dir", "stages", "device", "compile", "engine", "activation_checkpointing", "attention",
    "deterministic", "collective_timeout_s", "launch",
    "validation", "checkpoint", "tracking", "evaluate", "generate", "serve", "tokens.workers", "tokens.verify_hashes",
    "corpus.sources.path", "corpus.unit_bytes", "corpus.workers", "corpus.memory_bytes", "chat.conversations.path",
    *(f"{stage}.{field}" for stage in TRAINING_STAGES for field in ("max_skipped_in_a_row", "stop_after", "sample_log")),
}  # fmt: skip


ADDED_LATER = {"grpo.kl_by_ratio"}
"""In the hash only where they are not at their default, so that run files from before keep theirs."""


def other_value(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value * 2 or 1
        case float():
            return value / 2 or 0.25
        case "auto":
            return "fp32"
        case "best_fit":
            return "concat"
        case "cosine":
            return "wsd"
        case None:
            return 1
        case tuple() if all(isinstance(item, float) for item in value) and value:
            return [item / 2 for item in value]
        case tuple():
            return [*value, "x"]
        case _:
            return f"{value}x"


def test_the_hash_changes_with_each_field_that_determines_the_result_and_with_no_other() -> None:
    base = load_config(None, SAME)
    identity = base.identity()
    checked = set()

    def walk(section: Section, values: Any, path: tuple[str, ...]) -> None:
        for name in type(section).model_fields:
            dotted = ".".join((*path, name))
            value = getattr(section, name)
            if dotted in NOT_IDENTITY:
                assert name not in values, dotted
                checked.add(dotted)
            elif isinstance(value, Section):
                walk(value, values[name], (*path, name))
            elif dotted in ("corpus.sources", "chat.conversations"):
                walk(value[0], values[name][0], (*path, name))
            else:
                changed = section.model_copy(update={name: other_value(value)})
                assert Config.identity(changed) != Config.identity(section), dotted  # type: ignore[arg-type]
                assert (name in values) == (dotted not in ADDED_LATER), dotted

    walk(base, identity, ())
    assert checked == NOT_IDENTITY
    for setting in ("seed=7", "model.ffn_size=704", "pretrain.optimizer.lr=0.5", "corpus.held_out=0.1"):
        assert load_config(None, [*SAME, setting]).hash() != base.hash()
    for setting in ("name=other", "launch.processes=2", "checkpoint.every_steps=3", "corpus.sources=[{name: a, path: y}]"):
        assert load_config(None, [*SAME, setting]).hash() == base.hash()


SAME = [
    "corpus.sources=[{name: a, path: x}]",
    "chat.conversations=[{name: a, path: x}]",
    "pretrain.steps=1000",
    "pretrain.clip_norm=1.0",
]


def test_every_field_has_a_description_in_the_schema() -> None:
    schema = json.loads(config_schema())
    for name, section in {"Config": schema, **schema["$defs"]}.items():
        if section.get("type") == "object":
            assert section["additionalProperties"] is False, name
            for field, value in section["properties"].items():
                assert value.get("description") or "$ref" in value, f"{name}.{field}"  # a section describes itself


@pytest.mark.parametrize("text", ["? [a]\n: 1", "a: &a [*a]", "pretrain:\n  ? {a: 1}\n  : 2"])
def test_odd_yaml_is_an_error_line_not_a_traceback(text: str, tmp_path: Path) -> None:
    assert error_of(text, tmp_path).startswith("c.yaml:")


def test_an_unknown_key_in_a_list_gets_a_suggestion_too(tmp_path: Path) -> None:
    assert "did you mean path?" in error_of("corpus:\n  sources:\n    - {name: a, path: x, pth: y}", tmp_path)


def test_a_combination_that_set_broke_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    line = error_of("pretrain:\n  global_batch: 256", tmp_path, "pretrain.micro_batch=12")
    assert line.startswith("--set: pretrain: micro_batch 12 does not divide global_batch 256")


def test_numbers_are_finite(tmp_path: Path) -> None:
    assert "pretrain.optimizer.lr" in error_of("pretrain: {optimizer: {lr: .inf}}", tmp_path)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (["pretrain.batch_warmup_start=8"], "batch_warmup_start 8 needs batch_warmup_steps"),
        (
            ["pretrain.batch_warmup_steps=5", "pretrain.batch_warmup_start=24"],
            "batch_warmup_start 24 is not a multiple of micro_batch 16 up to global_batch 256",
        ),
        (["engine.kind=fsdp", "engine.bucket_mb=25"], "bucket_mb is a setting of kind ddp; the kind is fsdp"),
        (["engine.deepspeed={zero_stage: 0, offload_optimizer: true}"], "offload_optimizer needs zero_stage 1, 2 or 3"),
        (["engine.deepspeed={zero_stage: 2, offload_parameters: true}"], "offload_parameters needs zero_stage 3; it is 2"),
        (
            ["engine.deepspeed.extra={train_batch_size: 8}"],
            "extra.train_batch_size is decided by pretrain.global_batch; remove it from extra",
        ),
        (
            ["engine.deepspeed.extra={zero_optimization: {stage: 3}}"],
            "extra.zero_optimization.stage is decided by engine.deepspeed.zero_stage; remove it from extra",
        ),
        (
            ["engine.kind=deepspeed", "pretrain.optimizer.kind=muon"],
            "pretrain.optimizer.kind muon works with engine.kind ddp and fsdp",
        ),
    ],
)
def test_engines_and_optimizers_refuse_what_they_cannot_do_at_birth(settings: list[str], wanted: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(wanted)):
        load_config(None, settings, "minimind-26m")


def test_deepspeeds_other_settings_are_handed_on_beneath_ours() -> None:
    from trainer.config_engine import DeepSpeedSection
    from trainer.training.engines.zero import deepspeed_config

    extra = {"wall_clock_breakdown": True, "zero_optimization": {"reduce_bucket_size": 7, "overlap_comm": True}}
    section = DeepSpeedSection(zero_stage=3, offload_parameters=True, extra=extra)
    made = deepspeed_config(load_config(None, [], "minimind-26m").pretrain, section)
    assert made["wall_clock_breakdown"] is True
    assert made["zero_optimization"]["stage"] == 3
    assert made["zero_optimization"]["reduce_bucket_size"] == 7
    assert made["zero_optimization"]["overlap_comm"] is True
    assert made["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert made["gradient_clipping"] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chat": {}}, "stages names grpo, but chat.prompts is empty; name a source, or leave the stage out"),
        ({"engine": {"kind": "fsdp"}}, "stages names grpo, which works with engine.kind ddp"),
        ({"model": {"max_positions": 520}}, "grpo.max_tokens 64 behind chat.row_tokens 512 is above model.max_positions 520"),
        ({"grpo": {"group_size": 1 << 18}}, "grpo.global_batch x group_size x max_tokens is 268435456 tokens a step"),
    ],
)
def test_what_grpo_cannot_do_is_refused_at_birth(changes: dict[str, Any], message: str) -> None:
    values = {"stages": ["grpo"], "chat": {"prompts": [{"name": "a", "path": "a.jsonl"}]}}
    Config.model_validate(values)
    with pytest.raises(ValueError, match=re.escape(message)):
        Config.model_validate(values | changes)


def bomb_of(item: str, levels: str = "bcdefghij") -> str:
    """Ten aliases of ten aliases of ...: some hundred bytes that stand for billions of values."""
    lines, last = [f"a: &a {item}"], "a"
    for name in levels:
        aliases = ",".join([f"*{last}"] * 10)
        lines.append(f"{name}: &{name} [{aliases}]" if item.startswith("[") else f"{name}: &{name} {{<<: [{aliases}]}}")
        last = name
    return "\n".join(lines)


@pytest.mark.parametrize("text", [bomb_of("[x]"), bomb_of("{x: 1}")])
def test_a_bomb_of_aliases_is_refused_at_once(text: str, tmp_path: Path) -> None:
    assert "holds more than 100000 values, those of its aliases counted" in error_of(text, tmp_path)
    with pytest.raises(ConfigError, match="holds more than 100000 values"):
        load_config(None, ["corpus.sources=" + bomb_of("[x]").replace("\n", ", ").join("{}")])


def test_aliases_and_merge_keys_of_an_honest_config_are_read(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("sft: &small {global_batch: 8, micro_batch: 2}\ndpo: {<<: *small, micro_batch: 4}\n")
    config = load_config(file)
    assert (config.sft.micro_batch, config.dpo.global_batch, config.dpo.micro_batch) == (2, 8, 4)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a: " + "[" * 3000, "c.yaml:1: nested more than 32 deep"),
        ("seed: 1\nname: a\0b", "c.yaml:2: not YAML: holds the character U+0000, which YAML does not allow"),
        ('seed: 1\nrun_dir: "a\\0b"', "c.yaml:2: 'a\\x00b' holds the character NUL"),
        ('generate: {prompts: ["\\ud800"]}', "c.yaml:1: '\\ud800' holds half of a character"),
        ("seed: " + "9" * 5000, "c.yaml:1: '999"),
        ("seed: 0x" + "9" * 5000, "c.yaml:1: '0x999"),
        ("pretrain: {steps: " + "9" * 25 + "}", "c.yaml:1: pretrain.steps: is beyond 9223372036854775807"),
        ("seed: 2024-13-45", "c.yaml:1: seed: must be a whole number, not '2024-13-45'"),
        ("seed: 0x_", "c.yaml:1: '0x_' is no whole number (!!int); a text stands in quotes"),
        (
            "seed: !!int word",
            "c.yaml:1: 'word' is no whole number (!!int); a text stands in quotes and has no tag",
        ),
        (
            "deterministic: !!bool word",
            "c.yaml:1: 'word' is no truth value (!!bool); a text stands in quotes and has no tag",
        ),
        ("name: !!binary abc", "c.yaml:1: the tag '!!binary' is not read here; leave it out"),
        ("name: !!python/object:os.system x", "c.yaml:1: the tag '!!python/object:os.system' is not read here"),
        ("seed: 1\npretrain: {steps: 0100}", "c.yaml:2: 0100 is read differently by YAML 1.1 and 1.2; write 100"),
        ("pretrain: {steps: 1:30}", "c.yaml:1: 1:30 counts by sixties in YAML 1.1"),
        ("a: 1\n---\nb: 2", "c.yaml:2: not YAML: a second document begins here"),
        ("\tseed: 1", "c.yaml:1: not YAML: found character '\\t' that cannot start any token; indent with blanks"),
        ("stages: prepare", "c.yaml:1: stages: must be a list, not 'prepare', for example stages: [prepare]"),
        ("stages: [pretrian]", "c.yaml:1: stages[0]: must be 'prepare', 'tokenizer'"),
        ("stages: []", "c.yaml:1: stages: must have at least 1 item"),
        ("name: MyRun", "c.yaml:1: name: must be lower-case letters, digits and dashes only, for example myrun, not 'MyRun'"),
        ("name: 5", "c.yaml:1: name: must be a text, not 5; put it in quotes"),
        (
            "name: on",
            "c.yaml:1: name: is the truth value true (YAML reads yes, no, on and off so, too); for the word use quotes",
        ),
        ("corpus: {sources: [{name: a}]}", "c.yaml:1: corpus.sources[0].path: is missing"),
        ("device: cdua", "c.yaml:1: device: must be 'auto', 'cuda', 'mps' or 'cpu', not 'cdua'; did you mean cuda?"),
        (
            "corpus: {sources: [{name: a, path: x, encoding: latin-99}]}",
            "c.yaml:1: corpus.sources[0].encoding: 'latin-99' is no character encoding that Python knows",
        ),
        (
            "corpus: {sources: [{name: a, path: x, encoding: rot13}]}",
            "c.yaml:1: corpus.sources[0].encoding: 'rot13' is no character encoding that Python knows",
        ),
        (
            "preset: tiny\npretrain: {steps: 20}",
            "c.yaml:2: pretrain: schedule.warmup_steps 40 (from preset tiny) must be below steps 20; set it to 2",
        ),
        (
            "pretrain: {steps: 20}",
            "c.yaml:1: pretrain: schedule.warmup_steps 100 (the default) must be below steps 20; set it to 2",
        ),
    ],
)
def test_hostile_and_ambiguous_yaml_gets_one_short_line(text: str, wanted: str, tmp_path: Path) -> None:
    line = error_of(text, tmp_path)
    assert line.startswith(wanted)
    assert len(line) < 300
    assert "\n" not in line


def test_dates_are_the_texts_that_yaml_1_2_reads(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: 2024-13-45\nrun_dir: 2024-01-01")
    config = load_config(file)
    assert (config.name, str(config.run_dir)) == ("2024-13-45", "2024-01-01")
    file.write_text(dump_config(config))
    assert load_config(file) == config


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"seed": 1, "seed": 2}', "c.json: key 'seed' stands there a second time"),
        ('{"a": ' + "[" * 100_000, "c.json: nested more than 32 deep"),
        ('{"seed": ' + "9" * 5000 + "}", "c.json: '999"),
        ('{"seed": NaN}', "c.json: NaN is no number"),
        ('{"name": "\\u0000"}', "c.json: '\\x00' holds the character NUL"),
        ('{"name": 1,}', "c.json:1: not JSON: "),
    ],
)
def test_hostile_json_gets_one_short_line(text: str, wanted: str, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(file)
    assert str(raised.value).replace(f"{file}", "c.json").startswith(wanted)
    assert len(str(raised.value)) < 300 + len(str(file))


def test_what_is_no_text_file_is_told_by_name(tmp_path: Path) -> None:
    utf16 = tmp_path / "utf16.yaml"
    utf16.write_bytes("seed: 1".encode("utf-16"))
    for file, wanted in (
        (tmp_path, f"{tmp_path}: is a folder; give a YAML file"),
        (utf16, f"{utf16}: is not UTF-8 text (byte 0); save it as UTF-8"),
        (utf16 / "below", f"{utf16 / 'below'}: cannot be read: Not a directory"),
        (Path("/dev/zero"), "/dev/zero: is larger than 4194304 bytes, and no config; give a YAML file"),
        (Path("x" * 300), "'xxx"),
    ):
        with pytest.raises(ConfigError) as raised:
            load_config(file)
        assert str(raised.value).startswith(wanted)
