"""YAML files that mean what they look like.

YAML 1.1 reads `010` as 8, `1:30` as 90, `no` as false and `1e-4` as a text, and of a key that stands twice it keeps the
last. All of that is refused, with the file and the line; so are tags, anchors, merge keys, tabs, second documents and
other encodings than UTF-8.
"""

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pkd_utils.runs.errors import DataError

DEPTH = 50  # of nested lists and mappings; thousands would take yaml minutes
_FOREIGN = {
    yaml.TagToken: "a tag (!)",
    yaml.AnchorToken: "an anchor (&)",
    yaml.AliasToken: "an alias (*)",
    yaml.DirectiveToken: "a directive (%)",
}
_TAGS = {f"tag:yaml.org,2002:{name}": name for name in ("map", "seq", "str", "int", "float", "bool", "null")}
_DECIMAL = re.compile(r"[-+]?((0|[1-9]\d*)?(\.\d*)?|(0|[1-9]\d*)\.\d*[eE][-+]\d+|\.inf)|\.nan")
_LIKE_A_NUMBER = re.compile(r"[-+]?(\.?\d[\d_.:]*([eE][-+]?\d+)?|0[xob][\da-fA-F_]+)")


def read(path: str | Path) -> Any:
    """What a YAML file holds: mappings with text as keys, lists, texts, decimal numbers, true, false and null.

    DataError, with file and line, if it is no YAML, or holds what YAML reads otherwise than it looks.
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")

    def refuse(line: int, why: str) -> NoReturn:
        raise DataError(f"{path}, line {line}: {why}.")

    data = path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        refuse(data.count(b"\n", 0, error.start) + 1, "this is not UTF-8; save the file as UTF-8")
    for sign, what in (("\ufeff", "a byte order mark; save the file as plain UTF-8"), ("\t", "a tab; use spaces")):
        if sign in text:
            refuse(text.count("\n", 0, text.index(sign)) + 1, f"there is {what}")
    try:
        depth = 0
        for token in yaml.scan(text, yaml.SafeLoader):
            name = type(token).__name__
            depth += name.endswith(("SequenceStartToken", "MappingStartToken")) - name.endswith("EndToken")
            if depth > DEPTH:
                refuse(token.start_mark.line + 1, f"lists and mappings are nested more than {DEPTH} deep")
            if type(token) in _FOREIGN:
                said = f"there is {_FOREIGN[type(token)]}; write the value itself, or quote it"
                refuse(token.start_mark.line + 1, said)
        node = yaml.compose(text, yaml.SafeLoader)
        _check(node, lambda node, why: refuse(node.start_mark.line + 1, why))
    except yaml.MarkedYAMLError as error:
        refuse(error.problem_mark.line + 1, " ".join(filter(None, (error.context, error.problem))))
    except yaml.reader.ReaderError as error:
        refuse(text.count("\n", 0, error.position) + 1, f"a character is not allowed ({error.reason})")
    return yaml.safe_load(text)


def _check(node: yaml.Node | None, refuse: Any) -> None:
    """Refuse what does not mean what it looks like, in a node and all below it."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check(item, refuse)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if _TAGS.get(key.tag) != "str":
                refuse(key, "a key is no text; put it in quotes")
            if key.value in seen:
                refuse(key, f"the key {key.value} stands twice")
            seen.add(key.value)
            _check(key, refuse)
            _check(value, refuse)
    elif node is not None and node.style is None:
        kind, value = _TAGS.get(node.tag), node.value
        number = _DECIMAL.fullmatch(value) if kind in ("int", "float") else not _LIKE_A_NUMBER.fullmatch(value)
        if kind is None or not number or (kind == "bool" and value not in ("true", "false")):
            refuse(node, f"{value} is not read as it looks; write 8, 0.5, 1.0e-4 or true, or put a text in quotes")
