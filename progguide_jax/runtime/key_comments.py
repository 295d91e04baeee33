"""What the comments of configs/base.py say of each key, for --print_config."""

import importlib.util
import pathlib
import re

from progguide_jax.guidance import entry_settings

_KEY = re.compile(r"^\s+c\.([\w.]+) = .*?(?:  # (.*))?$")
_COMMENT = re.compile(r"^\s+# (.*)$")


def of_base() -> dict[str, str]:
    """{key: comment} of the file that has every key, and of the sections that it takes
    from the registries; empty where there is no such file."""
    try:
        found = importlib.util.find_spec("configs.base")
    except ModuleNotFoundError:
        return {}
    if not found:
        return {}
    generated = {
        f"guidance.{name}.{key}": setting.comment
        for name, held in entry_settings.sections().items()
        for key, setting in held.items()
    }
    return generated | read(pathlib.Path(found.origin).read_text())


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
