"""What a config's `init_from` names: weights, and with them the tokenizer that they were trained on. No torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.checkpoint.format import MANIFEST, folder_name, steps_in
from trainer.config import WRITING_STAGES, Config, TrainingStage
from trainer.config_loading import load_config
from trainer.errors import CheckpointError, ConfigError, TokenizerError
from trainer.files import new_folder, record_of, write_file
from trainer.run_folder import RunFolder
from trainer.tokens.tokenizer import TOKENIZER_FILE


class _Origin(BaseModel):
    """Of a checkpoint's manifest, what tells where its tokenizer is."""

    model_config = ConfigDict(extra="ignore")

    tokenizer_sha256: str
    config: dict[str, Any]


def newest_stage(folder: RunFolder) -> TrainingStage | None:
    """The last stage of this run that has saved weights which write text."""
    return next((stage for stage in reversed(WRITING_STAGES) if steps_in(folder.checkpoints_of(stage))), None)


def checkpoints_named(path: Path) -> tuple[Path, int | None]:
    """The folder of checkpoints that `init_from` names, and the step if it names one: a checkpoint, a folder of checkpoints, or
    a run folder, of which the last stage counts. Raises CheckpointError."""
    if (path / MANIFEST).exists() and path.name.startswith("step-"):
        return path.parent, int(path.name.removeprefix("step-"))
    if steps_in(path):
        return path, None
    stage = newest_stage(RunFolder(path, path))
    if stage is None:
        raise CheckpointError(f"init_from {path}: neither a checkpoint nor a run folder that holds one")
    return RunFolder(path, path).checkpoints_of(stage), None


def bring_tokenizer(config: Config, folder: RunFolder) -> Path | None:
    """Give a run that starts from another one's weights the tokenizer of these, if it has none yet.

    Returns where it was taken from; None: `init_from` is unset, or the tokenizer is here already. Raises CheckpointError, and
    TokenizerError if another tokenizer is here, or that one is nowhere.
    """
    if config.init_from is None:
        return None
    is_here = (folder.tokenizer / TOKENIZER_FILE).exists()
    try:
        origin, checkpoints = _origin(Path(config.init_from))
    except CheckpointError:
        if is_here:  # a run that is done, or has trained since, does without where it started
            return None
        raise
    wanted = origin.tokenizer_sha256
    if is_here:
        _check_is(wanted, config, folder)
        return None
    places = list(dict.fromkeys(_places(origin, checkpoints)))
    source = next((place for place in places if _sha256(place) == wanted), None)
    if source is None:
        raise TokenizerError(
            f"init_from {config.init_from}: its tokenizer ({wanted[:12]}) is not in {' or '.join(map(str, places))}; "
            f"copy that folder to {folder.tokenizer}"
        )
    with new_folder(folder.tokenizer) as partial:
        for file in sorted(path for path in source.iterdir() if path.is_file()):
            write_file(partial / file.name, file.read_bytes())
    return source


def _origin(path: Path) -> tuple[_Origin, Path]:
    """What the named checkpoint says, and the folder of checkpoints that it stands in. Raises CheckpointError."""
    checkpoints, step = checkpoints_named(path)
    manifest = checkpoints / folder_name(steps_in(checkpoints)[-1] if step is None else step) / MANIFEST
    try:
        return _Origin.model_validate_json(manifest.read_bytes()), checkpoints
    except (OSError, ValidationError):
        raise CheckpointError(f"init_from {path}: {manifest} cannot be read") from None


def _check_is(wanted: str, config: Config, folder: RunFolder) -> None:
    here = _sha256(folder.tokenizer)
    if here != wanted:
        raise TokenizerError(
            f"{folder.tokenizer}: is another tokenizer ({str(here)[:12]}) than that of init_from {config.init_from} "
            f"({wanted[:12]}), whose weights know only their own; choose another data_dir, or remove this folder and what was "
            "encoded with it"
        )


def _places(origin: _Origin, checkpoints: Path) -> Iterator[Path]:
    """Where a run may have its tokenizer: as its folder is now, as its config says, as its checkpoint says."""
    for run in (checkpoints.parent, checkpoints.parent.parent):
        yield RunFolder(run, run).tokenizer
        try:
            yield RunFolder.of(load_config(RunFolder(run, run).config)).tokenizer
        except ConfigError:
            continue
    try:
        yield RunFolder.of(Config.model_validate(origin.config)).tokenizer
    except ValidationError:
        return


def _sha256(tokenizer: Path) -> str | None:
    try:
        return record_of(tokenizer / TOKENIZER_FILE).sha256
    except OSError:
        return None
