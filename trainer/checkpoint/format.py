"""What a checkpoint is. Pure.

    RUN/checkpoints/step-00000100/
        model.safetensors        fp32 weights by parameter name; where adapters are trained, these alone
        optimizer.safetensors    fp32 moments: exp_avg.NAME and exp_avg_sq.NAME
        behaviour.safetensors    grpo, amid the steps that share their answers: the weights that write them
        manifest.json            step, identity, size and SHA-256 of the other files; written last

Nothing in it depends on how many processes wrote it. The cursor in the data is the step.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from trainer.config_section import canonical_json
from trainer.config_tuning import LoraSection

MANIFEST = "manifest.json"
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"

_NAME = re.compile(r"step-(\d{8,})")


class StoredFile(BaseModel):
    """A file of a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size_bytes: int
    sha256: str


class TrainingState(BaseModel):
    """The numbers that a training run carries from step to step besides its tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: NonNegativeInt
    """Finished optimizer steps: the cursor of order, schedule and noise."""
    tokens_seen: NonNegativeInt = 0
    """Target tokens of all finished steps."""
    skipped_steps: NonNegativeInt = 0
    """Finished steps that were not applied, for a loss or gradient that was not finite."""
    skipped_in_a_row: NonNegativeInt = 0
    """Of those, the ones just before this state."""

    @property
    def applied_steps(self) -> int:
        """Updates of the weights: AdamW's own step count."""
        return self.step - self.skipped_steps


class StartedFrom(BaseModel):
    """The checkpoint whose weights a stage started from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Relative to the folder of checkpoints that this stands in."""
    own_sha256: str
    """Of its manifest."""


class CheckpointManifest(BaseModel):
    """What a checkpoint holds, whose it is, and how to tell that it is whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    stage: str
    state: TrainingState
    run: str
    """The config's identity hash."""
    data_sha256: str
    """SHA-256 of the token manifest."""
    tokenizer_sha256: str
    precision: str
    """Precision of matrix products, as resolved."""
    versions: dict[str, str]
    config: dict[str, Any]
    """The resolved config."""
    files: dict[str, StoredFile]
    start: StartedFrom | None = None
    """What the stage started from; None: from drawn weights."""
    adapters: LoraSection | None = None
    """The file of weights holds adapters, which rest on `start`."""
    own_sha256: str = ""
    """SHA-256 of all the other fields in canonical JSON."""

    def computed_sha256(self) -> str:
        """What `own_sha256` has to be."""
        # fields that came later stay out where they say nothing, so that older checkpoints keep their hash
        silent = {name for name in ("start", "adapters") if getattr(self, name) is None}
        return hashlib.sha256(canonical_json(self.model_dump(mode="json", exclude={"own_sha256", *silent}))).hexdigest()


def folder_name(step: int) -> str:
    """Name of a step's checkpoint folder."""
    return f"step-{step:08d}"


def steps_in(folder: Path) -> list[int]:
    """Steps that have a committed folder, ascending."""
    if not folder.is_dir():
        return []
    matches = (_NAME.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def safetensors_header(shapes: dict[str, tuple[int, ...]], dtype: Literal["F32", "F16", "BF16"] = "F32") -> bytes:
    """The head of a safetensors file of tensors of one type: 8 bytes of length, then JSON padded to a multiple of 8.

    Written by hand so that the file can be streamed and hashed tensor by tensor; it is read by the library.
    Format: https://github.com/huggingface/safetensors#format
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        size_bytes = 4 if dtype == "F32" else 2
        for length in shape:
            size_bytes *= length
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size_bytes]}
        offset += size_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
