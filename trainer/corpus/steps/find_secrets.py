"""Keys, tokens and e-mail addresses. Pure, linear time.

Found by a cheap anchor first (a known beginning, an at sign, a key-like name); only there a bounded pattern is tried.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

from trainer.corpus.steps.spans import Span

_SK = "(?:proj|ant|svcacct|or)-"
_TOKENS = "|".join(
    (
        r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}",  # AWS
        r"gh[pousr]_[A-Za-z0-9]{36,255}",  # GitHub
        r"github_pat_[A-Za-z0-9_]{60,255}",
        r"glpat-[A-Za-z0-9_-]{20,64}",  # GitLab
        rf"sk-(?:{_SK}|(?!{_SK}))[A-Za-z0-9_-]{{20,255}}",  # OpenAI, Anthropic and those who took their form
        r"[rsp]k_(?:live|test)_[A-Za-z0-9]{16,255}",  # Stripe
        r"xox[abeoprs]-[A-Za-z0-9-]{10,255}",  # Slack
        r"xapp-[A-Za-z0-9-]{10,255}",
        r"AIza[A-Za-z0-9_-]{35}",  # Google
        r"ya29\.[A-Za-z0-9_-]{20,512}",
        r"hf_[A-Za-z0-9]{30,64}",  # Hugging Face
        r"npm_[A-Za-z0-9]{36}",
        r"pypi-[A-Za-z0-9_-]{50,512}",
        r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}",  # SendGrid
        r"LTAI[A-Za-z0-9]{12,26}",  # Alibaba Cloud
        r"AKID[A-Za-z0-9]{32}",  # Tencent Cloud
        r"eyJ[A-Za-z0-9_-]{8,4096}\.eyJ[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]{16,2048}",  # JSON Web Token (RFC 7519)
    )
)
_BEGINNINGS = (
    *("AKIA", "ASIA", "ABIA", "ACCA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "sk-", "hf_", "npm_"),
    *("sk_live_", "sk_test_", "rk_live_", "rk_test_", "xox", "xapp-", "AIza", "ya29.", "pypi-", "SG.", "LTAI", "AKID", "eyJ"),
)
TOKEN = re.compile(rf"(?<![A-Za-z0-9_.-])(?=({_TOKENS}))\1(?![A-Za-z0-9_])")
"""Secrets that their first letters give away, in the forms that the issuers document."""
PEM_BEGIN = re.compile(r"-----BEGIN (?:(?!PRIVATE )[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
PEM_END = re.compile(r"-----END (?:(?!PRIVATE )[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_CHARS = 16_384
"""Longest private key that is looked for; RSA with 16,384 bits takes 13,000 characters."""
ASSIGNED = re.compile(
    r"[=:：是为][=>]?[ \t]{0,4}(?:Bearer |Basic )?[\"'`]?(?=([A-Za-z0-9+/_.~!@#$%^&*-]{12,512}={0,2}))\1(?![(\[])"
)
KEY_NAME = re.compile(
    r"(?:api[_ -]?key|access[_ -]?key|secret|token|passw(?:or)?d|pwd|credential|auth|密码|密钥|口令|令牌)"
    r"[A-Za-z0-9_-]{0,24}[\"']?[ \t]{0,4}[:=]?$",
    re.IGNORECASE,
)
"""A value of at least 12 characters, and the key-like name that it is given to."""
_NAME_WINDOW = 48
BEARER = re.compile(r"(?:Bearer|Basic) ([A-Za-z0-9+/_.~-]{20,2048}={0,2})")
LOCAL_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%+'-]{0,62}")
DOMAIN = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.){1,8}")
TOP_LEVEL = re.compile(r"(?:(?=(xn--[A-Za-z0-9-]{2,59}))\1|[A-Za-z]{2,24})(?![A-Za-z0-9_])")
PATTERNS = (TOKEN, PEM_BEGIN, PEM_END, ASSIGNED, KEY_NAME, BEARER, LOCAL_PART, DOMAIN, TOP_LEVEL)

MIN_ENTROPY_BITS = 3.0
"""Per character of a value after a key-like name. Measured: random keys of 16 characters and more have at least 3.1 (hex: 2.9),
names and words in the documentation in the box at most 3.6, which is why letters and digits must be mixed too."""
_PLACEHOLDER = re.compile(
    r"your|example|xxxx|\*\*\*|\.\.\.|<|changeme|placeholder|insert|dummy|redacted|password|secret|token", re.IGNORECASE
)
_FILE_ENDS = frozenset(
    ("png", "jpg", "jpeg", "gif", "svg", "webp", "js", "css", "html", "htm", "py", "service", "target", "local")
)
"""What follows `logo@2x.` and `getty@tty1.`: no domain."""


def secrets(text: str) -> Iterator[Span]:
    """Keys and tokens: private keys, known beginnings, and values of high entropy after a key-like name."""
    yield from _private_keys(text)
    for beginning in _BEGINNINGS:
        at = text.find(beginning)
        while at >= 0:
            match = TOKEN.match(text, at)
            if match and _is_random(match[0], min_bits=2.5) and (_has_digits(match[0]) or match[0].isupper()):
                yield Span(*match.span(), "secret")
            at = text.find(beginning, at + 1)
    for match in ASSIGNED.finditer(text):
        value = match[1].rstrip(".,;")
        if is_secret_value(value) and KEY_NAME.search(text, max(0, match.start() - _NAME_WINDOW), match.start()):
            yield Span(match.start(1), match.start(1) + len(value), "secret")
    for match in BEARER.finditer(text):
        value = match[1].rstrip(".,;")
        if is_secret_value(value):
            yield Span(match.start(1), match.start(1) + len(value), "secret")


def _private_keys(text: str) -> Iterator[Span]:
    at = text.find("-----BEGIN ")
    while at >= 0:
        begin = PEM_BEGIN.match(text, at)
        end = PEM_END.search(text, begin.end(), begin.end() + _PEM_CHARS) if begin else None
        if begin and end:
            yield Span(at, end.end(), "secret")
        at = text.find("-----BEGIN ", end.end() if end else at + 11)


def is_secret_value(value: str) -> bool:
    """Whether a value that was given to a key-like name looks drawn by lot: letters and digits mixed, high entropy."""
    letters = sum(map(str.isalpha, value))
    digits = sum(map(str.isdigit, value))
    if len(value) < 12 or letters < 2 or digits < 2 or _PLACEHOLDER.search(value):
        return False
    return _is_random(value, MIN_ENTROPY_BITS) and not _is_words(value)


def _is_random(value: str, min_bits: float) -> bool:
    counts = Counter(value)
    entropy = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return entropy >= min_bits


def _has_digits(token: str) -> bool:
    """sk-folding-cube-animation is a style's name; a key drawn by lot has digits, capitals' own forms apart."""
    return any(map(str.isdigit, token)) and not _is_words(token)


def _is_words(value: str) -> bool:
    """Names of code, paths and sentences joined by signs: each piece is letters, then at most three digits, or digits alone."""
    pieces = [piece for piece in _SIGNS.split(value) if piece]
    return all(piece.isdigit() or _WORD.fullmatch(piece) for piece in pieces)


_SIGNS = re.compile(r"[^A-Za-z0-9]")
_WORD = re.compile("[A-Za-z]{1,512}[0-9]{0,3}")


def emails(text: str) -> Iterator[Span]:
    """E-mail addresses (RFC 5322's common form, with at least one dot in the domain)."""
    at = text.find("@")
    while at >= 0:
        start = _local_start(text, at)
        domain = DOMAIN.match(text, at + 1) if start is not None else None
        if start is not None and domain:
            stop = _domain_stop(text, domain)
            # git@host:path is an address of a repository, a@b.transpose() a product of matrices
            if stop is not None and not (text[stop : stop + 1] in (":", "(") and text[stop + 1 : stop + 2].strip()):
                yield Span(start, stop, "email")
                at = stop
        at = text.find("@", at + 1)


def _local_start(text: str, at: int) -> int | None:
    """Where the local part before an at sign begins: at most 64 characters back."""
    start = at
    while start > 0 and at - start < 64 and (text[start - 1] in _LOCAL):
        start -= 1
    while start < at and text[start] in ".'-%+":
        start += 1
    return start if start < at and LOCAL_PART.fullmatch(text, start, at) and text[at - 1] != "." else None


_LOCAL = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+'-")


def _domain_stop(text: str, domain: re.Match[str]) -> int | None:
    """Where a domain ends: after its last label that can be a top-level domain."""
    top = TOP_LEVEL.match(text, domain.end())
    if top:
        return None if top[0].lower() in _FILE_ENDS else top.end()
    labels = domain[0].rstrip(".").split(".")  # "write to a@b.org." ends a sentence
    if len(labels) > 1 and labels[-1].isalpha() and labels[-1].lower() not in _FILE_ENDS:
        return domain.end() - 1
    return None
