"""Functions that grpo takes rewards from, good ones and bad ones."""

import math
import os


def share_of_vowels(prompt: str, answer: str, expected: str) -> float:
    """Of an answer's characters."""
    return sum(answer.count(vowel) for vowel in "aeiou") / max(1, len(answer))


def constant(prompt: str, answer: str, expected: str) -> int:
    return 3


def raises(prompt: str, answer: str, expected: str) -> float:
    raise KeyError("no such word")


def gives_text(prompt: str, answer: str, expected: str) -> str:
    return "good"


def gives_nan(prompt: str, answer: str, expected: str) -> float:
    return math.nan


def takes_two(prompt: str, answer: str) -> float:
    return 0.0


def breaks_in_the_second_process(prompt: str, answer: str, expected: str) -> float:
    """Works in the first process only."""
    if os.environ.get("RANK") == "1":
        raise RuntimeError("broken")
    return 0.0
