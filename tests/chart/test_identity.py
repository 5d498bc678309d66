"""A run's hash: made by Helm's templates, equal to the trainer's own identity, and moved by training inputs alone."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from k8s.helm import HelmPackage
from k8s.identity import verify
from k8s.render import CHART, LOADER, run_object
from k8s.values import RunFile
from tests.chart.scenarios import FILES, NAMESPACE, chart_hash, rendered, scenario
from trainer.config import Config
from trainer.config_loading import config_of
from trainer.config_section import Section, canonical_json
from trainer.errors import ConfigError

BASE: dict[str, Any] = {
    "name": "base",
    "trainer": {"preset": "tiny", "corpus": {"sources": [{"name": "a", "path": "/data/a"}]}, "pretrain": {"steps": 100}},
}


@pytest.mark.parametrize("name", FILES)
def test_the_charts_identity_is_the_trainers(name: str) -> None:
    objects = rendered(name)
    identity = json.loads(run_object(objects)["metadata"]["annotations"]["pretrain-run/identity"])
    assert identity["trainer"] == json.loads(canonical_json(scenario(name).config.identity()))


@pytest.mark.parametrize("name", FILES)
def test_a_rendered_run_is_what_its_name_says(name: str) -> None:
    objects = rendered(name)
    run = run_object(objects)
    config_map = next(
        item for item in objects if item["metadata"]["name"] == run["metadata"]["annotations"]["pretrain-run/config"]
    )
    assert verify(run, config_map) == []


def test_verify_names_an_edited_image_config_and_identity() -> None:
    objects = rendered("job-elastic")
    run = run_object(objects)
    config_map = next(item for item in objects if item["kind"] == "ConfigMap")
    run["spec"]["template"]["spec"]["containers"][0]["image"] = "other:1"
    config_map["data"]["run.json"] = config_map["data"]["run.json"].replace('"steps":800', '"steps":900')
    troubles = verify(run, config_map)
    assert any("image other:1" in line for line in troubles)
    assert any("trainer.pretrain.steps is 900" in line for line in troubles)
    run["metadata"]["annotations"]["pretrain-run/identity"] = "{}"
    assert any("its identity is not one that this chart writes" in line for line in verify(run, config_map))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda pod: pod["containers"][0]["args"].extend(["--set", "pretrain.optimizer.lr=0.5"]),
            "overrides pretrain.optimizer.lr=0.5",
        ),
        (lambda pod: pod["volumes"][0]["configMap"].update(name="other"), "reads config map other"),
        (lambda pod: pod["containers"][0].update(command=["python", "-m", "evil"]), "starts python -m evil"),
        (lambda pod: pod["containers"][0]["args"].__setitem__(0, "pretrain"), "runs stage pretrain"),
    ],
)
def test_verify_finds_what_would_train_something_else(change: Callable[[dict[str, Any]], None], words: str) -> None:
    objects = rendered("job-elastic")
    run = run_object(objects)
    config_map = next(item for item in objects if item["kind"] == "ConfigMap")
    change(run["spec"]["template"]["spec"])
    assert any(words in line for line in verify(run, config_map))


def shuffled(value: Any, source: random.Random) -> Any:
    """The same mapping with its keys in another order."""
    if isinstance(value, dict):
        keys = list(value)
        source.shuffle(keys)
        return {key: shuffled(value[key], source) for key in keys}
    return [shuffled(item, source) for item in value] if isinstance(value, list) else value


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_keys_never_changes_the_hash(source: random.Random) -> None:
    assert chart_hash(shuffled(BASE, source)) == chart_hash(BASE)


WHERE_IT_RUNS: list[dict[str, Any]] = [
    {"backend": "pytorchjob"},
    {"nodes": 3},
    {"processesPerNode": 2},
    {"nodes": 2, "elastic": {"enabled": True, "min": 1, "max": 4}},
    {"resources": {"requests": {"cpu": "7"}}},
    {"gpusPerNode": 1, "gpuResource": "amd.com/gpu"},
    {"maxRestarts": 99},
    {"attempt": 4},
    {"deadlineSeconds": 5000},
    {"scheduling": {"kueue": {"queueName": "q"}, "priorityClassName": "p", "nodeSelector": {"a": "b"}}},
    {"storage": {"runs": {"kind": "existing", "claimName": "c"}}},
    {"network": {"interface": "ib0"}},
    {"wandb": {"enabled": True}},
    {"monitor": {"enabled": True}},
    {"extra": {"podLabels": {"team": "x"}}},
    {"gracePeriodSeconds": 60},
    {"security": {"runAsUser": 2000}},
]


@pytest.mark.parametrize("change", WHERE_IT_RUNS, ids=lambda change: next(iter(change)))
def test_where_a_run_runs_never_changes_the_hash(change: dict[str, Any]) -> None:
    assert chart_hash(BASE | change) == chart_hash(BASE)


def test_a_field_of_a_later_release_changes_the_hash_where_it_is_set_away_from_its_default() -> None:
    def with_kl(value: bool) -> dict[str, Any]:
        return BASE | {"trainer": BASE["trainer"] | {"grpo": {"kl_by_ratio": value}}}

    assert chart_hash(with_kl(False)) == chart_hash(BASE)
    assert chart_hash(with_kl(True)) != chart_hash(BASE)
    config = config_of(with_kl(True)["trainer"], "test")
    assert config.identity()["grpo"]["kl_by_ratio"] is True


def test_every_other_value_has_been_thought_of() -> None:
    """A new key of the run file must be listed above as no part of the identity, or below as a part."""
    known = {key for change in WHERE_IT_RUNS for key in change}
    identified = {"stage", "trainer", "fingerprints", "image"}
    left_out = {
        "name",
        "watchdogSeconds",
        "rendezvous",
        "mpi",
        "shm",
        "disruption",
        "gitops",
        "keepOnUninstall",
        "testImagePod",
    }
    assert {field.alias for field in RunFile.model_fields.values()} == known | identified | left_out


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "pretrain"},
        {"image": {"repository": "other"}},
        {"image": {"tag": "9.9.9"}},
        {"image": {"digest": "sha256:" + "a" * 64}},
        {"fingerprints": {"data": "b" * 64}},
        {"fingerprints": {"tokenizer": "b" * 64}},
        {"fingerprints": {"checkpoint": "b" * 64}},
    ],
    ids=str,
)
def test_what_is_trained_by_what_changes_the_hash(change: dict[str, Any]) -> None:
    assert chart_hash(BASE | change) != chart_hash(BASE)


def leaves(section: type[Section], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found += leaves(kind, (*path, name))
        else:
            found.append((*path, name))
    return found


OTHER = {
    bool: lambda value: not value,
    int: lambda value: value * 2 or 1,
    float: lambda value: value / 2 or 0.25,
    str: lambda value: {"muon": "adamw", "wsd": "constant", "constant": "linear", "fp32": "bf16", "best_fit": "concat"}.get(
        value, "fp32"
    ),
    type(None): lambda _: 7,
}
"""Another valid value of each kind."""


def config_with(path: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The base's trainer values and the same with another value at the path, if such a config is valid."""
    base = BASE["trainer"]
    value: Any = config_of(base, "base")
    for name in path:
        value = getattr(value, name)
    if isinstance(value, tuple) and path[-1] == "betas":
        other: Any = [0.8, 0.9]
    elif isinstance(value, tuple | dict):
        return None
    else:
        other = OTHER[type(value)](value) if type(value) in OTHER else None
    changed = json.loads(json.dumps(base))
    inner = changed
    for name in path[:-1]:
        inner = inner.setdefault(name, {})
    inner[path[-1]] = other
    try:
        config_of(changed, "changed")
    except ConfigError:  # not every other value is valid; the test below counts those that are
        return None
    return base, changed


@pytest.mark.timeout(600)  # a render for each of some two hundred fields
def test_each_field_of_the_trainer_changes_both_hashes_or_neither() -> None:
    tried = 0
    in_chart, in_trainer = chart_hash({"trainer": BASE["trainer"]}), config_of(BASE["trainer"], "base").hash()
    for path in leaves(Config):
        pair = config_with(path)
        if pair is None:
            continue
        tried += 1
        moves = config_of(pair[1], "b").hash() != in_trainer
        assert (chart_hash({"trainer": pair[1]}) != in_chart) == moves, path
    assert tried > 60


def test_a_default_that_is_written_out_is_the_same_run() -> None:
    full = json.loads(json.dumps(config_of(BASE["trainer"], "base").model_dump(mode="json")))
    for key in ("run_dir", "data_dir"):
        del full[key]
    assert chart_hash(BASE | {"trainer": full}) == chart_hash(BASE)


def test_false_zero_and_null_of_a_file_win_over_a_preset() -> None:
    trainer = {"preset": "tiny", "pretrain": {"clip_norm": None, "optimizer": {"weight_decay": 0, "momentum": 0.0}}}
    identity = json.loads(_identity({"trainer": trainer}))["trainer"]["pretrain"]
    assert identity["clip_norm"] is None
    assert identity["optimizer"]["weight_decay"] == 0
    assert identity["optimizer"]["lr"] == 0.008


def _identity(values: dict[str, Any]) -> str:
    documents = [each for each in yaml.load_all(HelmPackage().render(CHART, values, NAMESPACE), LOADER) if each]
    return str(run_object(documents)["metadata"]["annotations"]["pretrain-run/identity"])


def test_a_section_that_may_be_absent_is_in_the_identity_as_it_is_given() -> None:
    trainer = BASE["trainer"] | {"sft": {"lora": {"rank": 4}, "optimizer": {"lr": 0.002}}}
    identity = json.loads(_identity(BASE | {"trainer": trainer}))
    assert identity["trainer"] == json.loads(canonical_json(config_of(trainer, "base").identity()))
    assert identity["trainer"]["sft"]["lora"]["rank"] == 4
