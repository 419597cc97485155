"""The HTML page: its skeleton, its style and the few forms of which all sections are made. No script, no request."""

from collections.abc import Mapping, Sequence
from html import escape

from imagesprint.console import printable_lines

# Whatever a name in the data holds, the page can load nothing and run nothing.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { --ink: #1f2933; --faint: #5b6874; --rule: #d9dfe5; --soft: #f4f6f8; --good: #0b6b3a; --bad: #a33a00 }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: var(--ink);
  background: #fff; max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 } h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem;
  padding-bottom: .3rem; border-bottom: 2px solid var(--ink) } h3 { font-size: 1rem; margin: 1.5rem 0 .5rem }
p { margin: .4rem 0 } .faint, small, td small { color: var(--faint) } a { color: inherit }
nav { margin: .75rem 0; font-size: .9rem } nav a { margin-right: 1rem }
.verdict { border-left: 4px solid var(--good); background: var(--soft); padding: .5rem .9rem; font-weight: 600 }
.verdict.under { border-color: var(--bad); color: var(--bad) } .verdict small { display: block; font-weight: 400 }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); gap: .75rem; margin: 1rem 0 }
.cards div { background: var(--soft); border-radius: .5rem; padding: .6rem .8rem; font-size: .875rem;
  color: var(--faint) }
.cards b { display: block; font-size: 1.3rem; line-height: 1.4; white-space: nowrap; color: var(--ink);
  font-weight: 600 }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .9rem .25rem 0; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap }
th { font-weight: 600; color: var(--faint) } th:first-child, td:first-child, .words td, .words th { text-align: left }
td.long { white-space: normal; overflow-wrap: anywhere }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 2rem }
pre { background: var(--soft); padding: .8rem 1rem; overflow-x: auto; font-size: .8rem; border-radius: .5rem }
code { font-size: .85em; background: var(--soft); padding: .1em .3em; border-radius: .25em; overflow-wrap: anywhere }
summary { cursor: pointer; font-weight: 600; margin: .75rem 0 }
.curves > input { position: absolute; opacity: 0 }
.curves > label { display: inline-block; padding: .25rem .8rem; border: 1px solid var(--rule); cursor: pointer;
  font-size: .9rem } .curves > input:checked + label { background: var(--ink); color: #fff; border-color: var(--ink) }
.curves > input:focus-visible + label { outline: 3px solid #56b4e9 }
.curves > .grid { display: none; margin-top: .75rem }
#by-epoch:checked ~ .over-epoch, #by-step:checked ~ .over-step, #by-seconds:checked ~ .over-seconds { display: grid }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.25rem;
  align-items: end }
figure { margin: 0; break-inside: avoid } figcaption { font-size: .9rem }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; color: var(--faint) }
.swatch { width: 18px; height: 8px; margin-right: .35rem; vertical-align: middle }
svg { display: block; width: 100%; height: auto } svg.swatch { display: inline-block; width: 18px }
svg text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: var(--ink) }
svg text.faint { fill: var(--faint); font-size: 12px } svg path { fill: none; stroke-width: 2.5 }
svg path.grid { stroke: #c5cdd5; stroke-width: 1 }
polyline { fill: none; stroke-width: 2; stroke-linejoin: round }
svg.dots { min-width: 40rem } polyline.thin { stroke-width: 1; opacity: .45 }
svg path.reach { stroke-width: 12; opacity: .25 } .band0 { fill: #eef1f4 } .band1 { fill: #fff }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1rem }
.pictures img { width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--soft); border-radius: .4rem }
.pictures figcaption { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere }
.track { display: inline-block; width: 6rem; text-align: left; background: var(--soft); line-height: .6rem }
.bar { display: inline-block; height: .6rem; background: #0072b2 }
footer { margin-top: 3rem; font-size: .85rem; color: var(--faint) }
@media print { nav, .curves > label { display: none } body { padding: 0; font-size: 12px }
  h2 { break-after: avoid } .verdict, .cards div, pre { border: 1px solid var(--rule) }
  .grid { grid-template-columns: 1fr 1fr } svg, .bar { print-color-adjust: exact } }
"""


def page(title: str, body: Sequence[str]) -> str:
    """A whole HTML document."""
    return printable_lines(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def cards(figures: Mapping[str, str]) -> str:
    """Large figures with what they are below."""
    entries = "".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for name, value in figures.items())
    return f"<div class=cards>{entries}</div>"


def table(header: Sequence[str], rows: Sequence[Sequence[object]], words: bool = False) -> str:
    """A table; the first column, or every one with `words`, stands to the left. Cells that are Markup stay as is."""
    head = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in header)}</tr>" if header else ""
    body = "".join(f"<tr>{''.join(_cell(item) for item in row)}</tr>" for row in rows)
    return f"<div class=scroll><table{' class=words' if words else ''}>{head}{body}</table></div>"


def facts(rows: Mapping[str, object]) -> str:
    """Names and what is known of them, one a line."""
    body = "".join(
        f"<tr><th>{escape(name)}</th><td class=long>{_text(value)}</td></tr>" for name, value in rows.items()
    )
    return f"<table class=words>{body}</table>"


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def _cell(item: object) -> str:
    return f"<td>{_text(item)}</td>"


def _text(item: object) -> str:
    return item if isinstance(item, Markup) else escape(f"{item:,}" if isinstance(item, int) else str(item))
