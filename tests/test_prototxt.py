"""Protobuf's text format: all the ways in which people write nets by hand, and where they went wrong."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from minidnn.errors import DamagedFileError, TooLargeError
from weights_tools import prototxt
from weights_tools.prototxt import parse


def only(text, name="a"):
    (value,) = parse(text, "net").fields[name]
    return value


def test_fields_come_in_order_and_may_come_again():
    root = parse(
        'name: "x" layer { name: "a" } layer: { name: "b" top: "c" top: "d" } unknown { deep { x: 1 } }',
        "net",
    )
    assert [block.scalars("name")[0].string() for block in root.blocks("layer")] == ["a", "b"]
    assert [top.string() for top in root.blocks("layer")[1].scalars("top")] == ["c", "d"]
    assert list(root.fields) == ["name", "layer", "unknown"]
    assert root.scalars("missing") == root.blocks("missing") == []


def test_comments_commas_semicolons_brackets_and_angles_are_all_allowed():
    root = parse("# a net\n a: [1, 2,3] ;b: 4,c <d: 5>#end\n e: [] f{}\r\n\t", "net")
    assert [value.whole() for value in root.scalars("a")] == [1, 2, 3]
    assert root.blocks("c")[0].scalars("d")[0].whole() == 5
    assert (root.scalars("e"), root.blocks("f")[0].fields) == ([], {})


@pytest.mark.parametrize(
    ("text", "value"), [("17", 17), ("-17", -17), ("- 17", -17), ("0x1F", 31), ("017", 15), ("0", 0)]
)
def test_whole_numbers_are_decimal_hexadecimal_or_octal(text, value):
    assert only(f"a: {text}").whole() == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.5", 1.5), ("-.5e2", -50.0), ("2.", 2.0), ("1e-3f", 0.001), ("3F", 3.0), ("7", 7.0), ("0x10", 16.0)],
)  # fmt: skip
def test_numbers_come_in_many_forms(text, value):
    assert only(f"a: {text}").real() == value


def test_strings_have_escapes_and_neighbours_are_one():
    assert only(r"""a: "x\n\t\"\'\\\x41\101" 'y"' """).string() == 'x\n\t"\'\\AAy"'


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), ("t", True), ("0", False)])
def test_flags_are_words_or_digits(text, value):
    assert only(f"a: {text}").flag() is value


WRONG = {
    'a: "never closed\n': "net:1:4: this string is never closed on its line",
    "a: 'x\\": "net:1:4: this string is never closed on its line",
    "layer {\n  x: 1\n": "net:1:7: this block is never closed: '}' is missing",
    "layer < x: 1 }": "net:1:14: found '}', expected the name of a field",
    "x: 1\n }": "net:2:2: found '}', expected the name of a field",
    "x: 1 }": "net:1:6: found '}'",
    "x 1": "net:1:3: found '1', expected ':' or '{' after 'x'",
    "x": "net:1:2: found the end of the file, expected ':' or '{' after 'x'",
    "x: ]": "net:1:4: found ']', expected a value",
    "x: [1 2]": "net:1:7: found '2', expected ',' or ']'",
    "x: [1,": "net:1:7: found the end of the file, expected a value",
    "x: 1.2.3": "net:1:4: '1.2.3' is no number",
    "x: 12abc": "net:1:4: '12abc' is no number",
    "x: @": "net:1:4: '@' has no meaning here",
    "x: 1\n\n   3: 4": "net:3:4: found '3', expected the name of a field",
    "\x00": "net:1:1: '\\x00' has no meaning here",
    "x: --1": "net:1:4: found '-', expected a value",
    "w" * 1001: "net:1:1: a word of 1,001 letters",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_told_with_line_and_column(text):
    with pytest.raises(DamagedFileError) as error:
        parse(text, "net")
    assert str(error.value).startswith(WRONG[text])


@pytest.mark.parametrize(
    ("text", "how", "words"),
    [
        ("a: 1.5", "whole", "found '1.5', expected a whole number"),
        ("a: 089", "whole", "a leading 0 makes it octal"),
        ("a: x", "whole", "expected a whole number"),
        ("a: " + "9" * 30, "whole", "expected a whole number"),
        ('a: "1"', "real", "found '1', expected a number"),
        ("a: MAX", "real", "expected a number"),
        ("a: 2", "flag", "expected true or false"),
        ('a: "true"', "flag", "expected true or false"),
        ("a: conv", "string", "found 'conv', expected a string in quotes"),
    ],
)
def test_a_value_of_another_kind_is_told_with_its_place(text, how, words):
    with pytest.raises(DamagedFileError, match=f"net:1:4: .*{words}"):
        getattr(only(text), how)()


def test_a_block_is_no_value_and_a_value_no_block():
    with pytest.raises(DamagedFileError, match="net:1:3: 'a' opens a block, expected a value"):
        parse("a { }", "net").scalars("a")
    with pytest.raises(DamagedFileError, match="net:1:4: 'a' is '5', expected a block in braces"):
        parse("a: 5", "net").blocks("a")


def test_blocks_within_blocks_end_somewhere():
    assert parse("a {" * 99 + "}" * 99, "net").blocks("a")
    with pytest.raises(DamagedFileError, match="net:1:303: more than 100 blocks within one another"):
        parse("a {" * 10_000, "net")


def test_a_file_that_no_hand_has_written_is_refused(monkeypatch):
    monkeypatch.setattr(prototxt, "MAX_TOKENS", 20)
    with pytest.raises(TooLargeError, match="net:7:4: more than 20 words"):
        parse("a: 1\n" * 30, "net")
    monkeypatch.setattr(prototxt, "MAX_BYTES", 30)
    with pytest.raises(TooLargeError, match="31 letters, the limit is 30"):
        parse(" " * 31, "net")


@pytest.mark.parametrize(
    "text", ["9" * 300_000 + "x", '"' + "\\a" * 150_000, "#" * 300_000, "a:" + "-" * 300_000]
)
def test_no_text_makes_the_search_slow(text):
    began = time.perf_counter()
    with suppress(DamagedFileError):
        parse(text, "net")
    assert time.perf_counter() - began < 1
