"""Data sets of Hugging Face by name: `hf:OWNER/NAME`, `hf:OWNER/NAME@REVISION`, `hf:OWNER/NAME/GLOB`.

The one place that imports huggingface_hub. What the hub's cache holds is used without a network; the revision is then the one
that was downloaded last.
"""

import re
from pathlib import Path

from trainer.errors import CorpusError, MissingDependencyError

HUB = "hf:"
"""Begins the name of a data set."""

_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<pattern>.+))?")


def dataset_files(path: str, owner: str) -> list[Path]:
    """The files of a data set, downloaded unless the cache holds them. Raises CorpusError, MissingDependencyError."""
    parts = _NAME.fullmatch(path.removeprefix(HUB))
    if parts is None:
        raise CorpusError(f"{owner}: {path} is no data set; write hf:OWNER/NAME, hf:OWNER/NAME@REVISION or hf:OWNER/NAME/GLOB")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"{error.name} is not installed: pip install 'pretrain-run[hub]'") from None
    name, pattern = parts["name"], parts["pattern"]
    try:
        folder = Path(snapshot_download(name, repo_type="dataset", revision=parts["revision"], allow_patterns=pattern))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CorpusError(
            f"{owner}: data set {name} cannot be had from the Hugging Face hub, nor is it in the hub's cache ({reason}); where "
            f"there is a network, `hf download --repo-type dataset {name} --local-dir FOLDER`, then give path: FOLDER"
        ) from None
    return sorted(folder.glob(pattern) if pattern else folder.rglob("*"))
