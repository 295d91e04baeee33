"""The pieces of an HTML page of its own: one file that asks for nothing outside.

Texts and captions are escaped; what is called content, body, bodies or head is HTML.
"""

import base64
import html
from collections.abc import Iterable, Mapping


def page(title: str, body: str) -> str:
    """The whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_CSS}</style></head>\n"
        f"<body><main>{body}</main></body></html>\n"
    )


def section(heading: str, content: str) -> str:
    return f"<section><h2>{html.escape(heading)}</h2>{content}</section>"


def p(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def items(lines: Iterable[str]) -> str:
    """A list."""
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def figure(png: bytes, caption: str, dpi: int) -> str:
    """A PNG in the page itself, 100 CSS pixels an inch: all text of one size."""
    data = base64.b64encode(png).decode()
    caption = html.escape(caption)
    width = int.from_bytes(png[16:20], "big") * 100 // dpi  # PNG's header
    return (
        f'<figure><img alt="{caption}" width="{width}" '
        f'src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def table(head: str, bodies: str, caption: str) -> str:
    """A table that scrolls; head holds rows, bodies one or more <tbody>.

    Classes of cells: n starts a group of columns, off and far shade.
    """
    return (
        f'<figure><div class="wide"><table><thead>{head}</thead>'
        f"{bodies}</table></div>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def definitions(facts: Mapping[str, object]) -> str:
    """A list of names and what they stand for."""
    lines = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(fact))}</dd>"
        for name, fact in facts.items()
    )
    return f"<dl>{lines}</dl>"


_CSS = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #5a5a5a; --line: #d5d5d5;
  --page: #fff; --off: #fdf1d6; --far: #f9d9a8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --soft: #a8a8a8;
  --line: #444; --page: #181818; --off: #3a3220; --far: #5a4318; } }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
p, li, dd { max-width: 48rem; }
figure { margin: 1.2rem 0; break-inside: avoid; }
img { max-width: 100%; background: #fff; border-radius: 4px; }
figcaption { margin-top: .4rem; color: var(--soft); font-size: .9rem;
  max-width: 48rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums;
  break-inside: avoid; }
th { font-weight: 500; text-align: left; padding: .15rem .45rem; }
thead th { color: var(--soft); text-align: center; }
td { text-align: right; padding: .15rem .45rem; white-space: nowrap; }
td + td:not(.n) { padding-right: .7rem; }
tbody { border-top: 1px solid var(--line); }
tbody th[rowspan] { vertical-align: top; font-weight: 700; }
.n { border-left: 1px solid var(--line); }
.off { background: var(--off); }
.far { background: var(--far); }
dl { display: grid; grid-template-columns: max-content auto; gap: .2rem 1rem;
  font-size: .9rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media print { :root { --ink: #000; --page: #fff; --soft: #444; --line: #bbb;
  --off: #f3f3f3; --far: #ddd; } main { max-width: none; padding: 0; }
  table { font-size: .65rem; } h2 { break-after: avoid; } }
"""
