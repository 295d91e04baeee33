"""How far a metric is: its caller may hand it a way to show its long loops."""

from collections.abc import Callable, Iterable, Sequence

Track = Callable[[Sequence, str], Iterable]  # (items, what they are) -> the items


def silent(items: Sequence, what: str) -> Iterable:
    """The items, and nothing to be seen."""
    return items
