"""The run file: read, checked, and known by what it trains."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from k8s.errors import RunFileError
from k8s.value_parts import LARGEST_EXACT
from k8s.values import RunFile
from trainer.config import Config
from trainer.config_loading import config_of, load_config, merged, override_document, parse_override, set_value
from trainer.config_text import Document, explain, parse_text, read_config_text
from trainer.errors import ConfigError

CHART_DECIDES = ("run_dir", "data_dir")
"""Keys of the trainer's config that follow from where the chart mounts volumes."""


@dataclass(frozen=True)
class Run:
    """One run file, valid."""

    given: Mapping[str, Any]
    """The values as written, which the chart gets."""
    values: RunFile
    """The same with all defaults."""
    config: Config
    """The trainer's part."""


def load_run(file: Path, overrides: Sequence[str] = ()) -> Run:
    """Read and validate; `overrides` are `key.key=value` with YAML values. Raises RunFileError naming file and line."""
    try:
        document = _read(file)
        given: dict[str, Any] = merged({}, document.values)
        for text in overrides:
            path, value = parse_override(text)
            set_value(given, path, value, text)
        documents = [override_document(overrides), document]
        trainer = given.get("trainer")
        if not isinstance(trainer, dict):
            where = document.where(("trainer",)) or str(file)
            raise RunFileError(f"{where}: a run file needs a mapping `trainer`: the trainer's config (trainer config --show)")
        if isinstance(seed := trainer.get("seed"), int) and abs(seed) > LARGEST_EXACT:
            raise RunFileError(
                f"{document.where(('trainer', 'seed')) or '--set'}: trainer.seed is above 2^53, where Helm rounds: lower it"
            )
        for key in CHART_DECIDES:
            if key in trainer:
                where = document.where(("trainer", key)) or "--set"
                raise RunFileError(f"{where}: trainer.{key} follows from `storage`; remove it")
        try:
            values = RunFile.model_validate(given)
        except ValidationError as error:
            lines = [explain(item, documents, RunFile) for item in error.errors()[:5]]
            raise RunFileError(
                "; ".join(line if "--set" in line or str(file) in line else f"{file}: {line}" for line in lines)
            ) from None
        if not any(text.partition("=")[0] in ("trainer", "trainer.preset") for text in overrides):
            # reads the file once more, for errors that name its lines
            load_config(file, [text.removeprefix("trainer.") for text in overrides if text.startswith("trainer.")])
        config = config_of(trainer, str(file))
    except ConfigError as error:
        raise RunFileError(str(error)) from None
    _check_together(values, config, document, file)
    try:
        return Run(json.loads(json.dumps(given)), values, config)
    except TypeError as error:
        raise RunFileError(f"{file}: holds a value that is none of JSON's ({error}); quote dates") from None


def _read(file: Path) -> Document:
    try:
        return parse_text(read_config_text(file), str(file))
    except FileNotFoundError:
        raise RunFileError(f"{file}: no such run file") from None


def _check_together(values: RunFile, config: Config, document: Document, file: Path) -> None:
    """What neither part can know alone."""
    world = values.most_nodes * values.processes_per_node
    most = config.num_micro_batches
    if world > most:
        where = document.where(("nodes",)) or document.where(("elastic",)) or str(file)
        raise RunFileError(
            f"{where}: {values.most_nodes} nodes of {values.processes_per_node} processes are {world} processes; a step has "
            f"only {most} micro-batches (trainer.pretrain.global_batch / micro_batch); lower one of them or raise global_batch"
        )
