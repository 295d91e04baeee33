"""What the comments of configs/base.py say of each key, for --print_config."""

import importlib.util
import pathlib
import re

_KEY = re.compile(r"^\s+c\.([\w.]+) = .*?(?:  # (.*))?$")
_COMMENT = re.compile(r"^\s+# (.*)$")


def of_base() -> dict[str, str]:
    """{key: comment} of the file that has every key; empty where there is none."""
    try:
        found = importlib.util.find_spec("configs.base")
    except ModuleNotFoundError:
        return {}
    return read(pathlib.Path(found.origin).read_text()) if found else {}


def read(source: str) -> dict[str, str]:
    """{key: comment} of lines `c.KEY = VALUE  # COMMENT`; a comment may also stand in
    the lines before. That of a section stands with the section's own key."""
    comments: dict[str, str] = {}
    before: list[str] = []
    for line in source.splitlines():
        if match := _COMMENT.match(line):
            before.append(match[1])
            continue
        if match := _KEY.match(line):
            words = " ".join([*before, match[2] or ""]).strip()
            if words:
                comments[match[1]] = words
        before = []
    return comments
