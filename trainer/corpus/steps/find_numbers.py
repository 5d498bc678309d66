"""Numbers that name or reach somebody: identity numbers, bank cards, phone numbers, IP addresses. Pure, linear time.

Digits are frequent and such numbers are rare, so text is first cut to runs of digits and separators (NUMBER_RUN); only within
those the patterns are tried, and what has their form must pass the number's own checks: date and check digit, Luhn, the
numbering plans of libphonenumber.
"""

import ipaddress
import re
import string
from collections.abc import Iterable, Iterator
from datetime import date
from functools import lru_cache

from trainer.corpus.steps.spans import Span
from trainer.errors import MissingDependencyError

_NO = "0-9A-Za-z_"
"""Next to one of these a number is part of something longer. Han characters may touch a number, so this is not \\w."""
_FREE = rf"(?<![{_NO}])(?<![0-9][.-])"

_PART = frozenset(string.ascii_letters + string.digits + "_")

NUMBER_RUN = re.compile(r"[0-9][0-9 .()-]{6,}")
"""Digits and separators; taken whole, so each character is looked at once or at most 7 times."""
IDENTITY = re.compile(rf"{_FREE}[1-9][0-9]{{16}}[0-9Xx](?![{_NO}])")
# The next four find where a number may begin (within a longer one, too) and how far it may go; `_ends` says where it may end.
CARD = re.compile(rf"{_FREE}(?=([2-8][0-9]{{3}}(?:[ -]?[0-9]){{9,15}}))")
INTERNATIONAL = re.compile(rf"(?<![{_NO}+])(?=(\+[1-9](?:[ .()-]{{0,2}}[0-9]){{6,16}}|00[1-9](?:[ ()-]{{0,2}}[0-9]){{6,16}}))")
CHINA_MOBILE = re.compile(rf"(?<!\+){_FREE}(?=((?:86[ -]?)?1[3-9][0-9](?:[ -]?[0-9]){{8}}))")
NATIONAL = re.compile(rf"(?<![{_NO}+/])(?<![0-9][ .-])(?=(\(?[0-9]{{1,5}}(?:[ .()-]{{1,2}}[0-9]{{1,5}}){{1,4}}))")
CHINA_LANDLINE = re.compile(rf"(?<!\+){_FREE}(?=(\(?0[0-9]{{2}}(?:[0-9]|(?![0-9]))\)?[ -]?[0-9](?:[ -]?[0-9]){{6,7}}))")
EXTENSION = re.compile(rf"(?:-| ?转| ?ext\.? ?)[0-9]{{1,5}}(?![{_NO}])", re.IGNORECASE)
IPV4 = re.compile(rf"(?<![{_NO}])(?<![0-9A-Za-z][.-])(?:[0-9]{{1,3}}\.){{3}}[0-9]{{1,3}}(?![{_NO}]|[.-][0-9A-Za-z])")
IPV6 = re.compile(rf"(?<![{_NO}:.])(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}(?:[0-9A-Fa-f]{{1,4}})?(?![{_NO}:])")
_DIGITS = re.compile("[0-9]+")
_COLONS = re.compile(":[0-9A-Fa-f]{0,4}:")
PATTERNS = (IDENTITY, CARD, INTERNATIONAL, CHINA_MOBILE, CHINA_LANDLINE, EXTENSION, NATIONAL, IPV4, IPV6)

_PROVINCES = frozenset((*range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55), *range(61, 66)))
_PROVINCES |= {71, 81, 82, 83}
"""First two digits of an identity number: province, municipality or region (GB/T 2260; 83 for residents from Taiwan)."""
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECK = "10X98765432"

_ISSUERS: tuple[tuple[range, tuple[int, ...]], ...] = (
    (range(400000, 500000), (13, 16, 19)),  # Visa
    (range(510000, 560000), (16,)),  # Mastercard
    (range(222100, 272100), (16,)),
    (range(340000, 350000), (15,)),  # American Express
    (range(370000, 380000), (15,)),
    (range(620000, 630000), (16, 17, 18, 19)),  # UnionPay
    (range(810000, 818000), (16, 17, 18, 19)),
    (range(601100, 601200), (16,)),  # Discover
    (range(644000, 660000), (16,)),
    (range(352800, 359000), (16,)),  # JCB
    (range(300000, 306000), (14, 16)),  # Diners Club
    (range(360000, 370000), (14,)),
    (range(380000, 400000), (14, 16)),
    (range(675900, 676000), (16, 17, 18, 19)),  # Maestro
    (range(676770, 676775), (16, 17, 18, 19)),
    (range(501800, 501900), (16, 17, 18, 19)),
    (range(502000, 502100), (16, 17, 18, 19)),
    (range(503800, 503900), (16, 17, 18, 19)),
    (range(589300, 589400), (16, 17, 18, 19)),
    (range(630400, 630500), (16, 17, 18, 19)),
    (range(676100, 676400), (16, 17, 18, 19)),
    (range(220000, 220500), (16,)),  # Mir
)
"""First six digits and lengths in use by issuer. ISO/IEC 7812 lets most have 19 digits; that would take device numbers too."""
_CARD_GROUPS = {(4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 4, 4, 4, 2), (4, 4, 4, 4, 1), (4, 6, 5), (4, 6, 4), (6, 13), (6, 10)}

_VERSION_BEFORE = re.compile(
    r"(?<![A-Za-z])"
    r"(?:version|versions|release|section|sections|chapter|ver|rev|build|firmware|driver|kernel|oid|v)"
    r"[ ]?[.:：]?[ ]?[v(（]?$|(?:版本|版|章|节|節|固件|第)"
    r"[ ]?[.:：]?[ ]?[v(（]?$|[/§_@~^=><*]$",
    re.IGNORECASE,
)
"""What stands before four small numbers that are no address: 版本 1.2.3.4, Chrome/1.2.3.4, >=1.2.3.4."""
_VERSION_WINDOW = 16
_VERSION_BELOW = 20
"""Four numbers that are all below this: GCC 2.7.2.2. One address in 40,000 is so."""


def runs(text: str) -> list[tuple[int, int]]:
    """Where numbers may be: start and end of each run of digits and separators, with room for a sign and a check letter."""
    return [(max(0, match.start() - 2), match.end() + 2) for match in NUMBER_RUN.finditer(text)]


def identity_numbers(text: str, within: Iterable[tuple[int, int]]) -> Iterator[Span]:
    """Mainland China's resident identity numbers: 18 characters with place, date of birth and check digit (GB 11643)."""
    for start, end in within:
        for match in IDENTITY.finditer(text, start, end):
            if is_identity_number(match[0]):
                yield Span(*match.span(), "identity")


def is_identity_number(digits: str) -> bool:
    """Whether place, date and check digit are right."""
    total = sum(int(digit) * weight for digit, weight in zip(digits, _WEIGHTS, strict=False))
    return _CHECK[total % 11] == digits[17].upper() and _has_place_and_date(digits)


def _has_place_and_date(digits: str) -> bool:
    if int(digits[:2]) not in _PROVINCES:
        return False
    try:
        born = date(int(digits[6:10]), int(digits[10:12]), int(digits[12:14]))
    except ValueError:
        return False
    return 1850 <= born.year <= 2100


def bank_cards(text: str, within: Iterable[tuple[int, int]]) -> Iterator[Span]:
    """Card numbers of known issuers that pass Luhn's check, as one number or in the groups that stand on cards."""
    for start, end in within:
        for match in CARD.finditer(text, start, end):
            for stop in _ends(text, *match.span(1)):
                if is_card_number(text[match.start() : stop]):
                    yield Span(match.start(), stop, "card")
                    break


def is_card_number(written: str) -> bool:
    """Whether issuer, length, grouping and check digit are right."""
    groups = re.split("[ -]", written)
    if len(groups) > 1 and (tuple(map(len, groups)) not in _CARD_GROUPS or (" " in written and "-" in written)):
        return False
    digits = "".join(groups)
    prefix = int(digits[:6])
    if not any(prefix in numbers and len(digits) in lengths for numbers, lengths in _ISSUERS):
        return False
    if len(digits) == 18 and _has_place_and_date(digits):
        return False  # an identity number with an error
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return len(set(digits)) > 1 and (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def phone_numbers(text: str, within: Iterable[tuple[int, int]], regions: tuple[str, ...]) -> Iterator[Span]:
    """Numbers that begin with + or 00 and a country, and national numbers of the regions, valid in their numbering plans."""
    for start, end in within:
        for match in INTERNATIONAL.finditer(text, start, end):
            yield from _phone(text, *match.span(1), "ZZ")
        for region in regions:
            for pattern in (CHINA_MOBILE, CHINA_LANDLINE) if region == "CN" else (NATIONAL,):
                for match in pattern.finditer(text, start, end):
                    if match[1].count("(") == match[1].count(")"):
                        yield from _phone(text, *match.span(1), region)


def _phone(text: str, start: int, end: int, region: str) -> Iterator[Span]:
    for stop in _ends(text, start, end):
        if is_phone_number(text[start:stop], region):
            extension = EXTENSION.match(text, stop)
            yield Span(start, extension.end() if extension else stop, "phone")
            return


def _ends(text: str, start: int, end: int) -> Iterator[int]:
    """Where a number from start may end, the longest first: after a digit, before something that is no part of it."""
    for stop in range(end, start + 6, -1):
        if text[stop - 1].isdigit() and (stop == len(text) or text[stop] not in _PART):
            yield stop


@lru_cache(maxsize=4096)
def is_phone_number(number: str, region: str) -> bool:
    """Whether the number is assigned in the plan of its country, or of the region if it names none.

    A national number outside of China must be grouped as its region writes it: three groups of digits may be anything.
    """
    try:
        import phonenumbers
    except ImportError:
        raise MissingDependencyError(
            "redaction of phone numbers needs phonenumbers: pip install 'pretrain-run[corpus]'"
        ) from None
    try:
        parsed = phonenumbers.parse("+" + number[2:] if region == "ZZ" and number.startswith("00") else number, region)
    except phonenumbers.NumberParseException:
        return False
    if region not in ("ZZ", "CN"):
        usual = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.NATIONAL)
        if _DIGITS.findall(usual) != _DIGITS.findall(number):
            return False
    return phonenumbers.is_valid_number(parsed)


def ipv4_addresses(text: str, within: Iterable[tuple[int, int]], private: bool) -> Iterator[Span]:
    """IPv4 addresses; not version and section numbers, and private ones only if asked for."""
    for start, end in within:
        for match in IPV4.finditer(text, start, end):
            before = text[max(0, match.start() - _VERSION_WINDOW) : match.start()]
            if _VERSION_BEFORE.search(before) and not before.endswith("//"):
                continue
            try:
                address = ipaddress.IPv4Address(match[0])
            except ValueError:
                continue
            if address.is_global and max(address.packed) < _VERSION_BELOW and not before.endswith("//"):
                continue
            if private or address.is_global:
                yield Span(*match.span(), "ip")


def ipv6_addresses(text: str, private: bool) -> Iterator[Span]:
    """IPv6 addresses in use for the internet (2000::/3), others only if asked for; not times, scopes or MAC addresses."""
    taken = 0
    for colons in _COLONS.finditer(text):
        match = IPV6.search(text, max(taken, colons.start() - 5), colons.start() + 48)
        if match is None or match.start() > colons.start():
            continue
        taken = match.end()
        try:
            address = ipaddress.IPv6Address(match[0])
        except ValueError:
            continue
        groups = sum(map(bool, match[0].split(":")))
        in_use = int(address) >> 125 == 1 and address.is_global and groups > 1
        if in_use or (private and (match[0] == "::1" or (groups > 1 and int(address) >> 112))):
            yield Span(*match.span(), "ip")
