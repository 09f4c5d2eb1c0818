"""A YAML file means what it looks like, or it is refused with its name and line."""

import pytest

from pkd_utils.runs import strict_yaml
from pkd_utils.runs.errors import DataError


@pytest.mark.parametrize(
    ("content", "line", "why"),
    [
        (b"a: 1\nb: 2\na: 3", 3, "the key a stands twice"),
        (b"x:\n  a: 1\n  a: 1", 3, "the key a stands twice"),
        (b"a: 010", 1, "010 is not read as it looks"),
        (b"a: 08", 1, "08 is not read"),
        (b"a: 0x1F", 1, "0x1F is not read"),
        (b"a: 0o17", 1, "0o17 is not read"),
        (b"\na: [1, 1:30]", 2, "1:30 is not read"),
        (b"a: 1_000", 1, "1_000 is not read"),
        (b"a: 1e-4", 1, "1e-4 is not read"),
        (b"a: 1.0e3", 1, "1.0e3 is not read"),
        (b"a: no", 1, "no is not read"),
        (b"a: True", 1, "True is not read"),
        (b"a: 2020-01-01", 1, "2020-01-01 is not read"),
        (b"a: =", 1, "= is not read"),
        (b"a: 1\nb:\t2", 2, "there is a tab"),
        (b"a: !!int '3'", 1, "there is a tag"),
        (b"a: &x 1\nb: *x", 1, "there is an anchor"),
        (b"<<: {a: 1}", 1, "a key is no text"),
        (b"%YAML 1.2\n---\na: 1", 1, "there is a directive"),
        (b"a: 1\n---\nb: 2", 2, "found another document"),
        (b"1: x", 1, "a key is no text"),
        (b"yes: x", 1, "a key is no text"),
        (b"[a]: x", 1, "a key is no text"),
        ("a: b\nc: \xe9".encode("latin-1"), 2, "this is not UTF-8"),
        ("a: b".encode("utf-16"), 1, "this is not UTF-8"),
        ("a: b".encode("utf-16-le"), 1, "a character is not allowed"),
        (b"\xef\xbb\xbfa: 1", 1, "a byte order mark"),
        (b"a: 1\nb: \x00", 2, "a character is not allowed"),
        (b"a: 1\nb: [1,", 2, "while parsing"),
        (b"a: b: c", 1, "mapping values are not allowed"),
    ],
)
def test_what_is_read_otherwise_than_it_looks_is_refused(tmp_path, content, line, why):
    file = tmp_path / "p.yml"
    file.write_bytes(content)
    with pytest.raises(DataError) as refused:
        strict_yaml.read(file)
    said = str(refused.value)
    assert said.startswith(f"{file}, line {line}: ") and why in said and "\n" not in said


def test_plain_values_are_read(tmp_path):
    file = tmp_path / "p.yml"
    file.write_text("a: [0, -8, 0.5, 1.0e-4, .inf]\nb: '010'\n\"*\": {c: true, d: null, e: 02-encode, f: COVID-19}")
    inner = {"c": True, "d": None, "e": "02-encode", "f": "COVID-19"}
    assert strict_yaml.read(file) == {"a": [0, -8, 0.5, 1e-4, float("inf")], "b": "010", "*": inner}
    file.write_text("# nothing\n")
    assert strict_yaml.read(file) is None
    with pytest.raises(FileNotFoundError, match="There is no file"):
        strict_yaml.read(tmp_path)
