"""Known texts, and what the patterns must make of them on any Python. `prepare` asks before it touches a document.

`re` is compiled into the interpreter, and an interpreter's `re` can be wrong: Python 3.11.0 to 3.11.4 match possessive
quantifiers wrongly, so private keys stayed in a corpus that had passed redaction. A wrong interpreter says nothing by itself.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from platform import python_version
from types import ModuleType

from trainer.config_steps import RedactionSection
from trainer.corpus.steps import boilerplate, extract, find_numbers, find_secrets, quality_english, redaction
from trainer.errors import CorpusError

SUPPORTED = "3.11, 3.12 or 3.13"


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """What a pattern finds first in a text: its match, or what it looks ahead at; None for nothing."""

    name: str
    pattern: re.Pattern[str]
    text: str
    expected: str | None

    @property
    def found(self) -> str | None:
        match = self.pattern.search(self.text)
        return (match[0] or match[1]) if match else None


def _of(module: ModuleType, name: str, text: str, expected: str | None) -> KnownAnswer:
    return KnownAnswer(f"{module.__name__.rpartition('.')[2]}.{name}", getattr(module, name), text, expected)


_JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTYifQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
_GITHUB = "ghp_0123456789abcdefghijklmnopqrstuvwxyz"


def known_answers() -> tuple[KnownAnswer, ...]:
    """One or two texts for each pattern that may give characters back."""
    secrets, numbers = find_secrets, find_numbers
    return (
        _of(secrets, "TOKEN", f"{_GITHUB}_ sk-proj-too-short {_GITHUB}-{_JWT}", _GITHUB),
        _of(secrets, "TOKEN", f"sk-proj-0123456789abcde {_JWT}.", _JWT),
        _of(secrets, "PEM_BEGIN", "-----BEGIN RSA PRIVATE KEY-----", "-----BEGIN RSA PRIVATE KEY-----"),
        _of(secrets, "PEM_BEGIN", "-----BEGIN PRIVATE RSA KEY-----", None),
        _of(secrets, "PEM_END", "-----END PGP PRIVATE KEY BLOCK-----", "-----END PGP PRIVATE KEY BLOCK-----"),
        _of(secrets, "ASSIGNED", "= parse_everything_2(x), key: 'k8Jq2mXv9RtZ4w=='", ": 'k8Jq2mXv9RtZ4w=="),
        _of(secrets, "KEY_NAME", "my api_key_2' :", "api_key_2' :"),
        _of(secrets, "BEARER", "Bearer k8Jq2mXv9RtZ4wk8Jq2mXv=", "Bearer k8Jq2mXv9RtZ4wk8Jq2mXv="),
        _of(secrets, "LOCAL_PART", "o'hara+news@", "o'hara+news"),
        _of(secrets, "DOMAIN", "mail.gmx.de", "mail.gmx."),
        _of(secrets, "TOP_LEVEL", "a_b museum", "museum"),
        _of(numbers, "CARD", "4111 1111-1111 1111 1", "4111 1111-1111 1111 1"),
        _of(numbers, "INTERNATIONAL", "+49 (0)30 123456-78 ", "+49 (0)30 123456-78"),
        _of(numbers, "CHINA_MOBILE", "86 138-1234-5678", "86 138-1234-5678"),
        _of(numbers, "CHINA_LANDLINE", "(010) 62345678", "(010) 62345678"),
        _of(numbers, "CHINA_LANDLINE", "0106234567", None),
        _of(numbers, "NATIONAL", "(202) 555-0143.", "(202) 555-0143"),
        _of(numbers, "EXTENSION", "1 转8012", " 转8012"),
        _of(numbers, "IPV4", "1.2.3.4.5 and 203.119.26.1", "203.119.26.1"),
        _of(numbers, "IPV6", "12.30:45: 2001:db8::8a2e:370:7334", "2001:db8::8a2e:370:7334"),
        _of(redaction, "URL", "see https://a.example.org/~b?c=1 now", "https://a.example.org/~b?c=1"),
        _of(boilerplate, "_LABELLED", "【责任编辑】 【责任编辑 :  王五", "【责任编辑 :  王"),
        _of(quality_english, "_SENTENCE_BREAK", 'He said "no." Then', '." '),
        _of(extract, "_ALONE", "<i>\u3000</i><b>\n 《 </b>", ">\n 《"),
    )


_TEXT = (
    "bob@gmx.de wrote to daily.service and getty@tty1.service from 203.119.26.1:\n-----BEGIN RSA PRIVATE KEY-----\nMIIB\n"
    f"-----END RSA PRIVATE KEY-----\ntoken={_GITHUB}, card 4111 1111 1111 1111, 身份证 11010519491231002X."
)
_REDACTED = (
    "<EMAIL> wrote to daily.service and getty@tty1.service from <IP>:\n<SECRET>\ntoken=<SECRET>, card <CARD>, 身份证 <ID>."
)
_KINDS = RedactionSection(replace=("email", "ip", "identity", "card", "secret"))  # phone numbers need a package


def check_patterns(answers: Iterable[KnownAnswer]) -> None:
    """Raises CorpusError, naming the first pattern that finds something else. Takes a millisecond."""
    for answer in answers:
        if answer.found != answer.expected:
            raise _wrong(f"pattern {answer.name}", answer.text, answer.found, answer.expected)
    text, _ = redaction.redacted(_TEXT, _KINDS)
    if text != _REDACTED:
        raise _wrong("redaction", _TEXT, text, _REDACTED)


@lru_cache(maxsize=1)
def check_interpreter() -> None:
    """Raises CorpusError where this Python's `re` does not find what it must."""
    check_patterns(known_answers())


def _wrong(name: str, text: str, found: str | None, expected: str | None) -> CorpusError:
    return CorpusError(
        f"the re module of Python {python_version()} is wrong: in {text!r} {name} finds {found!r}, "
        f"but should find {expected!r}; take the newest release of Python {SUPPORTED}"
    )
