"""The function that grpo takes rewards from, by its name. No torch."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from trainer.errors import RewardError


def reward_function(name: str) -> Callable[[str, str, str], Any]:
    """By `module:function`. Raises RewardError if it is not there or does not take three texts."""
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise RewardError(
            f"grpo.reward {name}: cannot import {module_name}: {type(error).__name__}: {error}; put its folder into PYTHONPATH"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise RewardError(f"grpo.reward {name}: {module_name} has no function {function_name}")
    try:
        inspect.signature(function).bind("prompt", "answer", "expected")
    except TypeError as error:
        raise RewardError(f"grpo.reward {name}: must take (prompt, answer, expected): {error}") from None
    return function  # type: ignore[no-any-return]  # getattr knows no types
