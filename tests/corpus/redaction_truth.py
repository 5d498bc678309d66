"""Sentences with personal data whose places are known, and sentences that only look so. Seeded; no code of the finders is used.

Check digits are computed here anew, phone numbers come from libphonenumber's examples of every region, keys are drawn by lot
in the forms that their issuers document.
"""

import random
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import phonenumbers

from trainer.config_steps import RedactionSection
from trainer.corpus.steps.redaction import find

ALL = RedactionSection(replace=("email", "ip", "phone", "identity", "card", "secret"), phone_regions=("CN", "US"))
ALNUM = string.ascii_letters + string.digits
BASE64 = ALNUM + "+/"


@dataclass(frozen=True)
class Sample:
    """A text and what is in it: (text, kind) for each."""

    text: str
    holds: tuple[tuple[str, str], ...] = ()
    about: str = ""


@dataclass
class Score:
    """Counts of one kind."""

    found: int = 0
    missed: int = 0
    false: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def recall(self) -> float:
        return self.found / max(1, self.found + self.missed)

    @property
    def precision(self) -> float:
        return self.found / max(1, self.found + self.false)


# --- things to find -----------------------------------------------------------------------------------------------------


def email(rng: random.Random) -> str:
    local = rng.choice(("{f}.{l}", "{f}_{l}", "{f}{n}", "{f}-{l}", "{f}+{l}", "{n}", "{l}.{f}.{n}", "{f}"))
    host = rng.choice(("gmail.com", "163.com", "qq.com", "mail.tsinghua.edu.cn", "corp.example.co.uk", "a-b.io", "x1.museum"))
    names = {
        "f": rng.choice(("wei", "Anna", "john", "li.na")),
        "l": rng.choice(("zhang", "Mueller", "o'hara")),
        "n": rng.randrange(10**8),
    }
    return local.format(**names) + "@" + host


def ipv4(rng: random.Random) -> str:
    first = rng.choice([n for n in range(11, 224) if n not in (100, 127, 169, 172, 192, 198, 203)])
    return f"{first}." + ".".join(str(rng.randrange(1, 255)) for _ in range(3))


def ipv6(rng: random.Random) -> str:
    head = rng.choice(("2a00", "2600", "2400", "240e", "2607"))
    groups = [f"{rng.randrange(1, 65536):x}" for _ in range(7)]
    short = f"{head}:{groups[0]}::{groups[1]}"
    return rng.choice((f"{head}:" + ":".join(groups), short, f"{head}:{groups[0]}:{groups[1]}::{groups[2]}"))


def china_mobile(rng: random.Random) -> str:
    number = rng.choice(("130", "131", "135", "138", "139", "150", "158", "166", "177", "186", "188", "189", "199")) + digits(
        rng, 8
    )
    grouped = f"{number[:3]}{{0}}{number[3:7]}{{0}}{number[7:]}"
    body = rng.choice((number, number, grouped.format(" "), grouped.format("-")))
    return rng.choice(("", "", "", "+86 ", "+86", "86-", "0086 ")) + body


def china_landline(rng: random.Random) -> str:
    area = rng.choice(("010", "021", "020", "0755", "0571", "0571", "028"))
    number = rng.choice("5678") + digits(rng, 7)
    form = rng.choice(
        ("{a}-{n}", "{a} {n}", "({a}){n}", "({a}) {n}", "{a}{n}", "{a}-{x} {y}", "+86 {b} {n}", "+86-{b}-{n}", "{a}-{n}-{e}")
    )
    return form.format(a=area, b=area[1:], n=number, x=number[:4], y=number[4:], e=rng.randrange(100, 9999))


def international(rng: random.Random) -> str:
    region = rng.choice(sorted(phonenumbers.SUPPORTED_REGIONS))
    kind = rng.choice((phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE))
    number = phonenumbers.example_number_for_type(region, kind) or phonenumbers.example_number(region)
    form = rng.choice((phonenumbers.PhoneNumberFormat.E164, phonenumbers.PhoneNumberFormat.INTERNATIONAL))
    text = phonenumbers.format_number(number, form)
    return rng.choice((text, text.replace(" ", "-"), text.replace(" ", ".")))


def american(rng: random.Random) -> str:
    area, office, line = rng.choice(("212", "415", "312", "650")), rng.randrange(220, 999), rng.randrange(1000, 9999)
    return rng.choice(("({}) {}-{}", "{}-{}-{}", "{}.{}.{}", "{} {} {}", "+1 ({}) {}-{}")).format(area, office, line)


def identity(rng: random.Random) -> str:
    place = rng.choice(("110101", "310104", "440305", "510107", "330106", "650102", "810000", "420111"))
    born = f"{rng.randrange(1930, 2020)}{rng.randrange(1, 13):02}{rng.randrange(1, 29):02}"
    body = place + born + digits(rng, 3)
    remainder = sum(int(c) * pow(2, 17 - i, 11) for i, c in enumerate(body)) % 11  # ISO 7064 MOD 11-2
    check = "10X98765432"[remainder]
    return body + (rng.choice("Xx") if check == "X" else check)


def luhn(body: str) -> str:
    total = 0
    for place, char in enumerate(reversed(body)):
        value = int(char) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return body + str(-total % 10)


def card(rng: random.Random) -> str:
    prefix, length = rng.choice(
        (("4", 16), ("51", 16), ("2221", 16), ("37", 15), ("622202", 19), ("6225", 16), ("6011", 16), ("3530", 16), ("36", 14))
    )
    number = luhn(prefix + digits(rng, length - len(prefix) - 1))
    separator = rng.choice(("", "", " ", "-"))
    if length == 15:
        return separator.join((number[:4], number[4:10], number[10:]))
    if length == 14:
        return separator.join((number[:4], number[4:10], number[10:]))
    return separator.join(number[at : at + 4] for at in range(0, length, 4))


def drawn(rng: random.Random, alphabet: str, length: int) -> str:
    while True:
        text = "".join(rng.choice(alphabet) for _ in range(length))
        if sum(map(str.isdigit, text)) >= 2 and sum(map(str.isalpha, text)) >= 2:
            return text


def digits(rng: random.Random, length: int) -> str:
    return "".join(rng.choice(string.digits) for _ in range(length))


def token(rng: random.Random) -> str:
    url64 = ALNUM + "-_"
    return rng.choice(
        (
            lambda: "AKIA" + drawn(rng, string.ascii_uppercase + "234567", 16),
            lambda: "ghp_" + drawn(rng, ALNUM, 36),
            lambda: "github_pat_" + drawn(rng, ALNUM, 22) + "_" + drawn(rng, ALNUM, 59),
            lambda: "sk-" + drawn(rng, ALNUM, 48),
            lambda: "sk-proj-" + drawn(rng, ALNUM, 60),
            lambda: "sk-ant-api03-" + drawn(rng, ALNUM, 80),
            lambda: "xoxb-" + digits(rng, 12) + "-" + digits(rng, 12) + "-" + drawn(rng, ALNUM, 24),
            lambda: "AIza" + drawn(rng, ALNUM, 35),
            lambda: "glpat-" + drawn(rng, ALNUM, 20),
            lambda: "hf_" + drawn(rng, ALNUM, 34),
            lambda: "LTAI5t" + drawn(rng, ALNUM, 18),
            lambda: "sk_live_" + drawn(rng, ALNUM, 24),
            lambda: "eyJhbGciOiJIUzI1NiJ9.eyJ" + drawn(rng, ALNUM, 60) + "." + drawn(rng, url64[:-2], 43),
            lambda: (
                f"-----BEGIN {rng.choice(('', 'RSA ', 'EC ', 'OPENSSH '))}PRIVATE KEY-----\n"
                + "\n".join(drawn(rng, BASE64, 64) for _ in range(12))
                + "\n-----END PRIVATE KEY-----"
            ),
        )
    )()


FRAMES: dict[str, Sequence[str]] = {
    "email": ("Write to {}.", "Contact: {}, please", "联系邮箱：{}。", "<{}>", "mailto:{}", "邮件发到{}即可", "({})", '"{}"'),
    "ip": (
        "The server {} is down.",
        "http://{}/index.html",
        "访问来自{}的请求",
        "from {}, port 22",
        "[{}]",
        "IP：{}；",
        "{} - - [10/Oct/2000]",
    ),
    "ip6": ("The server {} is down.", "http://[{}]/index.html", "地址为{}。", "from {} port 22"),
    "phone": (
        "Call {} today.",
        "电话：{}。",
        "手机{}，欢迎来电",
        "Tel. {}",
        "请拨打{}咨询",
        "({})",
        "WhatsApp: {}; thanks",
        "微信同号 {}\n",
    ),
    "identity": ("身份证号：{}。", "身份证{}的持有人", "ID card no. {} was lost.", "公民身份号码 {}，", "({})"),
    "card": ("Card {} was charged.", "卡号：{}。", "银行卡{}已冻结", "paid with {}, thanks", "No. {} 12/27", "账号 {}"),
    "secret": ("key {}\n", 'api_key = "{}"', "export TOKEN={}", "密钥：{}", "Authorization: Bearer {}", "{}"),
    "named": (
        'api_key = "{}"',
        "SECRET_KEY: {}",
        "export AUTH_TOKEN={}",
        "password={}",
        "密码：{}",
        "aws_secret_access_key = {}",
        '"accessKey": "{}",',
    ),
}


def positives(rng: random.Random, each: int) -> Iterator[Sample]:
    """`each` samples of every form."""
    makers: tuple[tuple[str, str, Callable[[random.Random], str]], ...] = (
        ("email", "email", email),
        ("ip", "ip", ipv4),
        ("ip", "ip6", ipv6),
        ("phone", "phone", china_mobile),
        ("phone", "phone", china_landline),
        ("phone", "phone", international),
        ("phone", "phone", american),
        ("identity", "identity", identity),
        ("card", "card", card),
        ("secret", "secret", token),
        (
            "secret",
            "named",
            lambda rng: drawn(rng, rng.choice((ALNUM, BASE64, "0123456789abcdef")), rng.choice((20, 32, 40, 64))),
        ),
    )
    for kind, frames, make in makers:
        for _ in range(each):
            value = make(rng)
            yield Sample(rng.choice(FRAMES[frames]).format(value), ((value, kind),), make.__name__)


def negatives(rng: random.Random, each: int) -> Iterator[Sample]:
    """What looks like the above and is something else."""

    def broken_identity() -> str:
        number = identity(rng)
        if rng.random() < 0.5:  # wrong check digit
            return number[:17] + rng.choice([c for c in "0123456789" if c != number[17]])
        return luhn("110101" + "1991" + "1345" + digits(rng, 3))[:18].ljust(18, "1")

    def broken_card() -> str:
        number = luhn("4" + digits(rng, 14))
        return number[:-1] + str((int(number[-1]) + rng.randrange(1, 10)) % 10)

    def foreign_luhn() -> str:
        return luhn("1" + digits(rng, 14))

    makers: tuple[tuple[str, Callable[[], str]], ...] = (
        (
            "version",
            lambda: rng.choice(
                (
                    "version {}",
                    "v{}",
                    "Chrome/{}",
                    "版本 {}",
                    "release {} fixes",
                    "numpy>={}",
                    "libc-{}.tar.gz",
                    "pkg_{}_all",
                    "第{}节",
                    "section {}",
                )
            ).format(".".join(str(rng.randrange(0, 40)) for _ in range(4))),
        ),
        ("five parts", lambda: "OID " + ".".join(str(rng.randrange(1, 99)) for _ in range(rng.choice((5, 6, 8))))),
        (
            "private address",
            lambda: rng.choice(
                (
                    "192.168.1.{}",
                    "10.0.0.{}",
                    "127.0.0.{}",
                    "172.16.4.{}",
                    "169.254.1.{}",
                    "192.0.2.{}",
                    "0.0.0.{}",
                    "255.255.255.{}",
                )
            ).format(rng.randrange(1, 255)),
        ),
        ("not an address", lambda: f"{rng.randrange(256, 999)}.{rng.randrange(999)}.{rng.randrange(999)}.{rng.randrange(999)}"),
        ("time", lambda: f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}"),
        ("hardware address", lambda: ":".join(f"{rng.randrange(256):02x}" for _ in range(6))),
        (
            "scope",
            lambda: rng.choice(
                (
                    "std::vector",
                    "abc::def",
                    "Face::add(x)",
                    "a::b",
                    "dead::beef",
                    "::1",
                    "fe80::1",
                    "def foo(a: int): return {1:2, 3:4}",
                )
            ),
        ),
        (
            "decorator",
            lambda: rng.choice(
                (
                    "@property",
                    "a @ b",
                    "x@y",
                    "user@localhost",
                    "git@github.com:org/repo.git",
                    "logo@2x.png",
                    "react@18.2.0",
                    "getty@tty1.service",
                    "@user@",
                    "w = q@k.transpose(0, 1)",
                )
            ),
        ),
        ("identity with an error", broken_identity),
        ("card with an error", broken_card),
        ("card of nobody", foreign_luhn),
        ("long number", lambda: digits(rng, rng.choice((20, 21, 24, 32)))),
        ("timestamp", lambda: rng.choice(("1{}", "1{}000", "1{}000000")).format(digits(rng, 9))),
        ("amount", lambda: rng.choice(("${}", "{} kB", "共{}元", "+{}", "-{}")).format(rng.randrange(10**4, 10**7))),
        (
            "date",
            lambda: rng.choice(
                ("2024-{:02}-{:02} 10:{:02}:00", "2024/{:02}/{:02} {:02}", "2023.{:02}.{:02}.{:02}", "2024{:02}{:02} {:02}")
            ).format(rng.randrange(1, 13), rng.randrange(1, 29), rng.randrange(60)),
        ),
        ("time zone", lambda: f"UTC+0{rng.randrange(1, 9)}00, GMT+8"),
        ("arithmetic", lambda: f"{rng.randrange(10**6)}+{rng.randrange(10**6)}={rng.randrange(10**6)} and 3.14159265358979"),
        (
            "book",
            lambda: rng.choice(("ISBN 978-7-{}-{}-{}", "ISBN 978-0-{}-{}-{}", "ISSN {}-{} no. {}")).format(
                rng.randrange(100, 999), rng.randrange(10000, 99999), rng.randrange(10)
            ),
        ),
        ("uuid", lambda: "-".join(drawn(rng, "0123456789abcdef", n) for n in (8, 4, 4, 4, 12))),
        (
            "hash",
            lambda: rng.choice(("commit {}", "sha256: {}", "md5 {}", "revision {}")).format(
                drawn(rng, "0123456789abcdef", rng.choice((32, 40, 64)))
            ),
        ),
        (
            "code",
            lambda: rng.choice(
                (
                    'password = getpass.getpass("{}")',
                    "token = next(tokens[{}])",
                    'api_key = os.environ["KEY_{}"]',
                    "secret: str = Field(default_{}=None)",
                    "token_type = bearer_token_{}",
                    "password: your_password_{}",
                    "auth = requests.auth.HTTPBasicAuth{}",
                    "token = xxxxxxxxxxxxxxxx{}",
                    "secret = projects/my-project/secrets/db/{}",
                    "key = sorted_by_name_{}",
                )
            ).format(rng.randrange(10, 99)),
        ),
        (
            "style",
            lambda: rng.choice(
                (
                    "sk-folding-cube-animation",
                    "sk-estimator-doc-link-fitted",
                    "AIzawa is a name",
                    "xoxo-hugs-and-kisses",
                    "hf_hub_download_with_a_long_name",
                    "eyJ is how they begin",
                    "npm_config_registry",
                )
            ),
        ),
        ("public key", lambda: "-----BEGIN PUBLIC KEY-----\n" + drawn(rng, BASE64, 64) + "\n-----END PUBLIC KEY-----"),
        (
            "statute",
            lambda: f"第{rng.randrange(1, 99)}条第{rng.randrange(1, 9)}款，共计{digits(rng, 7)}人，编号{digits(rng, 6)}",
        ),
        ("phone of nobody", lambda: rng.choice(("12{}", "10{}", "11{}")).format(digits(rng, 9))),
        ("grid", lambda: " ".join(str(rng.randrange(1, 99)) for _ in range(12))),
        ("decimals", lambda: " ".join(f"{rng.random():.4f}" for _ in range(4))),
    )
    for about, make in makers:
        for _ in range(each):
            yield Sample(rng.choice(("See {} there.", "{}", "这里是 {} 。", "x, {}, y")).format(make()), (), about)


def samples(seed: int = 7, each: int = 200) -> list[Sample]:
    """The whole set in an order that depends on the seed alone."""
    rng = random.Random(seed)
    made = [*positives(rng, each), *negatives(rng, each)]
    rng.shuffle(made)
    return made


def score(made: Sequence[Sample], section: RedactionSection = ALL) -> dict[str, Score]:
    """Found means: a span of that kind with exactly that text. Everything else that is found is false."""
    scores: dict[str, Score] = {}
    for sample in made:
        found = Counter((sample.text[span.start : span.end], span.kind) for span in find(sample.text, section))
        for value, kind in sample.holds:
            entry = scores.setdefault(kind, Score())
            if found[value, kind]:
                found[value, kind] -= 1
                entry.found += 1
            else:
                entry.missed += 1
                entry.examples.append(f"missed {value!r} in {sample.text!r}")
        for (value, kind), count in found.items():
            if count > 0:
                entry = scores.setdefault(kind, Score())
                entry.false += count
                entry.examples.append(f"false {value!r} in {sample.text!r} ({sample.about})")
    return scores
