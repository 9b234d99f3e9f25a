"""Protobuf's text format, in which Caffe's nets are written by hand: `layer { name: "conv1" type: "ReLU" }`.

Nothing is known here of what the words mean: a message is a `Block` of fields, each with all its values in
order. Braces within braces are a list of open blocks, never a recursion.
https://protobuf.dev/reference/protobuf/textformat-spec
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from minidnn.errors import DamagedFileError, TooLargeError

MAX_BYTES = 16 << 20
MAX_DEPTH = 100
MAX_TOKENS = 2_000_000
MAX_WORD = 1000  # letters; strings may be as long as the file

# Every repetition is possessive (++, *+), so no text can make the search go back and forth.
TOKEN = re.compile(
    r"""(?P<space>(?:[ \t\r\n\f\v]++|\#[^\n]*+)++)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*+)
      | (?P<number>(?:0[xX][0-9a-fA-F]++|(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?[fF]?)(?![A-Za-z0-9_.]))
      | (?P<string>"(?:[^"\\\n]++|\\.)*+"|'(?:[^'\\\n]++|\\.)*+')
      | (?P<mark>[{}<>\[\]:;,-])""",
    re.VERBOSE,
)
ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))")
ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
CLOSING = {"{": "}", "<": ">"}
YES, NO = ("true", "True", "t", "1"), ("false", "False", "f", "0")


class Place(NamedTuple):
    """A spot in the file; printed, it is what editors jump to."""

    where: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.where}:{self.line}:{self.column}"

    def wrong(self, what: str) -> DamagedFileError:
        return DamagedFileError(f"{self}: {what}")


@dataclass(frozen=True)
class Scalar:
    """One value as it was written; what it may be read as is asked by whoever knows the field."""

    kind: str  # "word", "number" or "string"
    text: str
    at: Place

    def whole(self) -> int:
        digits = self.text.lstrip("-")
        if self.kind != "number" or not re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|\d{1,20}", digits):
            raise self._wrong("a whole number")
        octal = len(digits) > 1 and digits.isdigit() and digits[0] == "0"
        if octal and not re.fullmatch("[0-7]+", digits):
            raise self._wrong("a whole number (a leading 0 makes it octal)")
        value = int(digits, 8 if octal else 0)
        return -value if self.text.startswith("-") else value

    def real(self) -> float:
        named = self.text.lower().lstrip("-") in ("inf", "infinity", "nan")
        if self.kind == "number" and "x" in self.text.lower():
            return float(self.whole())
        if self.kind != "number" and not (self.kind == "word" and named):
            raise self._wrong("a number")
        return float(self.text if named else self.text.rstrip("fF"))

    def flag(self) -> bool:
        if self.kind == "string" or self.text not in YES + NO:
            raise self._wrong("true or false")
        return self.text in YES

    def string(self) -> str:
        if self.kind != "string":
            raise self._wrong("a string in quotes")
        return self.text

    def _wrong(self, wanted: str) -> DamagedFileError:
        return self.at.wrong(f"found {self.text[:60]!r}, expected {wanted}")


@dataclass
class Block:
    """A message: all values of its fields by name."""

    at: Place
    fields: dict[str, list[Scalar | Block]] = field(default_factory=dict)

    def scalars(self, name: str) -> list[Scalar]:
        values = self.fields.get(name, [])
        for value in values:
            if isinstance(value, Block):
                raise value.at.wrong(f"{name!r} opens a block, expected a value")
        return [value for value in values if isinstance(value, Scalar)]

    def blocks(self, name: str) -> list[Block]:
        values = self.fields.get(name, [])
        for value in values:
            if isinstance(value, Scalar):
                raise value.at.wrong(f"{name!r} is {value.text[:60]!r}, expected a block in braces")
        return [value for value in values if isinstance(value, Block)]


class Token(NamedTuple):
    kind: str  # "word", "number", "string", "mark", "end"
    text: str
    at: Place


def parse(text: str, where: str) -> Block:
    """The whole file as one block."""
    if len(text) > MAX_BYTES:
        raise TooLargeError(f"{where}: {len(text):,} letters, the limit is {MAX_BYTES:,}; not a net by hand")
    tokens = _Tokens(_tokens(text, where))
    root = Block(Place(where, 1, 1))
    open_blocks, closings = [root], [""]
    while True:
        token = tokens.take()
        if token.kind == "end":
            if len(open_blocks) > 1:
                raise open_blocks[-1].at.wrong(f"this block is never closed: {closings[-1]!r} is missing")
            return root
        if token.text == closings[-1] and token.kind == "mark":
            open_blocks.pop()
            closings.pop()
            tokens.skip(",;")
            continue
        name = _field_name(token, tokens)
        colon = tokens.skip(":")
        if tokens.next.kind == "mark" and tokens.next.text in CLOSING:
            opening = tokens.take()
            block = Block(opening.at)
            open_blocks[-1].fields.setdefault(name, []).append(block)
            if len(open_blocks) > MAX_DEPTH:
                raise opening.at.wrong(f"more than {MAX_DEPTH} blocks within one another; fetch it again")
            open_blocks.append(block)
            closings.append(CLOSING[opening.text])
            continue
        if not colon:
            found = tokens.next
            raise found.at.wrong(f"found {_shown(found)}, expected ':' or '{{' after {name!r}")
        open_blocks[-1].fields.setdefault(name, []).extend(_values(tokens))
        tokens.skip(",;")


def _field_name(token: Token, tokens: _Tokens) -> str:
    if token.kind == "word":
        return token.text
    raise token.at.wrong(f"found {_shown(token)}, expected the name of a field")


def _values(tokens: _Tokens) -> Iterator[Scalar]:
    """One value, or several in brackets."""
    if not tokens.skip("["):
        yield _value(tokens)
        return
    while not tokens.skip("]"):
        yield _value(tokens)
        if not tokens.skip(",") and tokens.next.text != "]":
            raise tokens.next.at.wrong(f"found {_shown(tokens.next)}, expected ',' or ']'")


def _value(tokens: _Tokens) -> Scalar:
    token = tokens.take()
    if token.kind == "mark" and token.text == "-":
        number = tokens.take()
        if number.kind in ("word", "number"):
            return Scalar(number.kind, f"-{number.text}", token.at)
    elif token.kind == "string":
        parts = [_unquoted(token)]
        while tokens.next.kind == "string":  # neighbours are one string
            parts.append(_unquoted(tokens.take()))
        return Scalar("string", "".join(parts), token.at)
    elif token.kind in ("word", "number"):
        return Scalar(token.kind, token.text, token.at)
    raise token.at.wrong(f"found {_shown(token)}, expected a value")


def _unquoted(token: Token) -> str:
    def meant(match: re.Match[str]) -> str:
        octal, hexadecimal, letter = match.groups()
        if letter is not None:
            return ESCAPED.get(letter, letter)
        return chr(int(octal, 8) if octal else int(hexadecimal, 16))

    return ESCAPE.sub(meant, token.text[1:-1])


def _shown(token: Token) -> str:
    return "the end of the file" if token.kind == "end" else repr(token.text[:60])


class _Tokens:
    """The tokens, with a look at the next one."""

    def __init__(self, tokens: Iterator[Token]) -> None:
        self._tokens = tokens
        self.next = next(tokens)

    def take(self) -> Token:
        token = self.next
        if token.kind != "end":
            self.next = next(self._tokens)
        return token

    def skip(self, marks: str) -> bool:
        """Whether one of these marks came next; it is taken."""
        found = self.next.kind == "mark" and self.next.text in marks
        if found:
            self.take()
        return found


def _tokens(text: str, where: str) -> Iterator[Token]:
    lines = [0, *(match.end() for match in re.finditer("\n", text))]

    def place(at: int) -> Place:
        line = bisect_right(lines, at)
        return Place(where, line, at - lines[line - 1] + 1)

    at = count = 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise place(at).wrong(_odd(text, at))
        if match.lastgroup != "space":
            count += 1
            if count > MAX_TOKENS:
                raise TooLargeError(f"{place(at)}: more than {MAX_TOKENS:,} words; not a net by hand")
            if match.lastgroup != "string" and match.end() - at > MAX_WORD:
                raise place(at).wrong(f"a word of {match.end() - at:,} letters; fetch it again")
            yield Token(str(match.lastgroup), match[0], place(at))
        at = match.end()
    yield Token("end", "", place(len(text)))


def _odd(text: str, at: int) -> str:
    if text[at] in "\"'":
        return "this string is never closed on its line"
    if text[at].isdigit():
        return f"{text[at : at + 20].split()[0]!r} is no number"
    return f"{text[at]!r} has no meaning here"
