"""How many characters one attempt of a pattern can look at in the worst case, from its parse tree (`re._parser.parse`).

A pattern that is tried at each of n places costs at most n times that, whatever the text. A repetition that may give back what
it took multiplies the cost of all that follows it, unless what follows cannot begin with a character that was taken: then each
giving back fails at once. `(?=(...))\\1` gives nothing back: a lookahead is left for good once it has matched.

Possessive quantifiers and atomic groups are refused: Python 3.11.0 to 3.11.4 match them wrongly (gh-106052).
"""

import re
import string
from collections.abc import Iterator, Sequence
from typing import Any

# The parse tree is private in Python; nothing public shows which repetitions of a pattern can give back.
PARSE = re._parser.parse  # type: ignore[attr-defined]

Node = tuple[Any, Any]
_SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2003\u2028\u2029\u202f\u205f\u3000"
_CATEGORIES = {"CATEGORY_SPACE": r"\s", "CATEGORY_DIGIT": r"\d", "CATEGORY_WORD": r"\w"}


def widest_attempt(pattern: str, flags: int = 0) -> int:
    """The bound. Raises ValueError for what is refused, and for a repetition without upper limit that something follows."""
    parsed = PARSE(pattern, flags)
    return _Attempt(list(_nodes(parsed)), bool(flags & re.IGNORECASE)).cost(parsed)


def _nodes(parsed: Any) -> Iterator[Node]:
    """All nodes of a parse tree."""
    for node in parsed:
        yield node
        yield from (inner for part in _parts(node) for inner in _nodes(part))


def _parts(node: Node) -> Sequence[Any]:
    operator, argument = str(node[0]), node[1]
    if operator in ("ASSERT", "ASSERT_NOT"):
        return (argument[1],)
    if operator in ("SUBPATTERN", "MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        return (argument[-1],)
    if operator == "ATOMIC_GROUP":
        return (argument,)
    return tuple(argument[1]) if operator == "BRANCH" else ()


class _Attempt:
    """One pattern. Characters are represented by a few: those that it names, their neighbours, ASCII and the blanks."""

    def __init__(self, nodes: list[Node], ignores_case: bool) -> None:
        named = {code for node in nodes for code in _codes(node)}
        codes = {near for code in named for near in (code - 1, code, code + 1)} | set(map(ord, string.printable + _SPACES))
        self._alphabet = frozenset(chr(code) for code in codes if 0 <= code < 0x110000)
        self._ignores_case = ignores_case
        self._widths: dict[int, int] = {}

    def cost(self, parsed: Any, after: tuple[Node, ...] = ()) -> int:
        """Characters that matching a sequence looks at, each way through it included."""
        total, ways = 0, 1
        nodes = list(parsed)
        for place, node in enumerate(nodes):
            looks, choices = self._node(node, (*nodes[place + 1 :], *after))
            total, ways = total + ways * looks, ways * choices
        return total

    def _node(self, node: Node, rest: tuple[Node, ...]) -> tuple[int, int]:
        """Of one node: characters looked at, and how many ways it leaves to try the rest."""
        operator, argument = str(node[0]), node[1]
        if operator in ("LITERAL", "NOT_LITERAL", "IN", "ANY"):
            return 1, 1
        if operator in ("AT", "FAILURE"):
            return 0, 1
        if operator in ("ASSERT", "ASSERT_NOT"):
            return self.cost(argument[1]), 1
        if operator == "GROUPREF":
            return self._widths[argument], 1
        if operator == "SUBPATTERN":
            looks = self.cost(argument[-1], rest)
            if argument[0] is not None:
                self._widths[argument[0]] = looks
            return looks, self._ways(argument[-1], rest)
        if operator == "BRANCH":
            return sum(self.cost(branch, rest) for branch in argument[1]), self._ways([node], rest)
        if operator in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, inner = argument
            if int(most) > 1 << 20:
                if rest:
                    raise ValueError("a repetition has no upper limit")
                return 1, 1  # taken whole, and nothing can fail after it: each character is looked at once in all
            looks = int(most) * self.cost(inner, (node, *rest))
            return looks + (int(most) - least), self._ways([node], rest)
        raise ValueError(f"{operator} is not matched rightly by every Python, or not known to be linear")

    def _ways(self, parsed: Any, rest: tuple[Node, ...]) -> int:
        """How often the rest may be tried in earnest after a sequence."""
        ways = 1
        nodes = list(parsed)
        for place, node in enumerate(nodes):
            operator, argument = str(node[0]), node[1]
            after = (*nodes[place + 1 :], *rest)
            if operator == "SUBPATTERN":
                ways *= self._ways(argument[-1], after)
            elif operator == "BRANCH":
                ways *= sum(self._ways(branch, after) for branch in argument[1]) if after else 1
            elif operator in ("MAX_REPEAT", "MIN_REPEAT"):
                least, most, inner = argument
                inside = self._ways(inner, (node, *after))
                given_back = 1 if not after or self._refuses(after, self._first(inner)) else int(most) - least + 1
                ways *= given_back * inside ** (int(most) if inside > 1 else 1)
        return ways

    def _refuses(self, rest: Sequence[Node], taken: frozenset[str]) -> bool:
        """Whether the rest fails at its first look where the next character is one of those, or has nothing left to fail at."""
        if not rest:
            return True
        operator, argument = str(rest[0][0]), rest[0][1]
        after = rest[1:]
        if operator in ("LITERAL", "NOT_LITERAL", "IN", "ANY"):
            return not self._characters(rest[0]) & taken
        if operator == "AT":
            return str(argument) in ("AT_END", "AT_END_STRING") and "\n" not in taken
        if operator == "ASSERT":
            return self._refuses((*argument[1], *after), taken) or self._refuses(after, taken)
        if operator == "ASSERT_NOT":
            refused = self._single(argument[1]) if argument[0] > 0 else frozenset()
            return taken <= refused or (bool(after) and self._refuses(after, taken))
        if operator == "GROUPREF":
            return False
        if operator == "SUBPATTERN":
            return self._refuses((*argument[-1], *after), taken)
        if operator == "BRANCH":
            return all(self._refuses((*branch, *after), taken) for branch in argument[1])
        least, _, inner = argument
        return self._refuses(tuple(inner), taken) and (least > 0 or self._refuses(after, taken))

    def _single(self, parsed: Any) -> frozenset[str]:
        """The characters that match a sequence by themselves."""
        nodes = list(parsed)
        if len(nodes) != 1:
            return frozenset()
        if str(nodes[0][0]) == "BRANCH":
            return frozenset().union(*map(self._single, nodes[0][1][1]))
        return self._characters(nodes[0]) if str(nodes[0][0]) in ("LITERAL", "NOT_LITERAL", "IN", "ANY") else frozenset()

    def _first(self, parsed: Any) -> frozenset[str]:
        """The characters that a match of a sequence may begin with, and more where it is not known."""
        found: frozenset[str] = frozenset()
        for node in parsed:
            operator, argument = str(node[0]), node[1]
            if operator in ("LITERAL", "NOT_LITERAL", "IN", "ANY"):
                return found | self._characters(node)
            if operator == "SUBPATTERN":
                return found | self._first(argument[-1])
            if operator == "BRANCH":
                return found.union(*(self._first(branch) for branch in argument[1]))
            if operator in ("MAX_REPEAT", "MIN_REPEAT"):
                found |= self._first(argument[-1])
                if argument[0]:
                    return found
            elif operator != "ASSERT_NOT":
                return self._alphabet
        return found

    def _characters(self, node: Node) -> frozenset[str]:
        """What one character's node takes, of the alphabet."""
        operator, argument = str(node[0]), node[1]
        if operator == "ANY":
            return self._alphabet - {"\n"}
        if operator == "LITERAL":
            return self._cased({chr(argument)})
        if operator == "NOT_LITERAL":
            return self._alphabet - self._cased({chr(argument)})
        taken: set[str] = set()
        negated = False
        for kind, value in argument:
            if str(kind) == "NEGATE":
                negated = True
            elif str(kind) == "LITERAL":
                taken.add(chr(value))
            elif str(kind) == "RANGE":
                taken |= {each for each in self._alphabet if value[0] <= ord(each) <= value[1]}
            else:
                name = str(value).replace("_NOT", "").replace("UNI_", "")
                matches = {each for each in self._alphabet if re.match(_CATEGORIES[name], each)}
                taken |= self._alphabet - matches if "_NOT" in str(value) else matches
        chosen = self._cased(taken)
        return self._alphabet - chosen if negated else chosen

    def _cased(self, characters: set[str]) -> frozenset[str]:
        if self._ignores_case:
            characters = characters | {each.upper() for each in characters} | {each.lower() for each in characters}
        return frozenset(characters)


def _codes(node: Node) -> Iterator[int]:
    """The characters that a node names."""
    operator, argument = str(node[0]), node[1]
    if operator in ("LITERAL", "NOT_LITERAL"):
        yield argument
    elif operator == "IN":
        for kind, value in argument:
            if str(kind) == "LITERAL":
                yield value
            elif str(kind) == "RANGE":
                yield from value
