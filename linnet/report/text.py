"""Prose with formulas, as claims and proofs have it: Markdown with TeX in dollars.

A page gets HTML with MathML, a terminal lines of Unicode. What does not parse is shown as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from html import escape, unescape
from typing import TYPE_CHECKING, Any

from linnet.report import tex

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

FORMULA = re.compile(r"(?<!\\)\$\$(.+?)\$\$|(?<!\\)\$(?!\s)([^$]+?)(?<![\s\\])\$", re.DOTALL)

Link = Callable[[str], str | None]
"""Maps what is named, an id of a claim or the target of a link, to an address within the page, if it is there."""


def plain(text: str) -> str:
    """Return a text for a terminal: each formula as Unicode, all else as it is written."""

    def written(found: re.Match[str]) -> str:
        line = tex.plain(found[1] or found[2])
        return found[0] if line is None else line

    return FORMULA.sub(written, text)


def html(text: str, link: Link = lambda name: None) -> str:
    """Return a text as HTML, in paragraphs. Without a formula it is no Markdown either, and keeps its lines."""
    if not FORMULA.search(text):
        return f'<p class="lines">{_linked(escape(text), link)}</p>'
    return document(text, link)


def inline(text: str, link: Link = lambda name: None) -> str:
    """Return a line of text as HTML, without a paragraph around it."""
    if not FORMULA.search(text):
        return _linked(escape(text), link)
    return _glued(_markdown().renderInline(text, {"link": link}))


def document(text: str, link: Link = lambda name: None) -> str:
    """Return a text in Markdown as HTML, its headings as those of a section within a section within a section."""
    return _glued(_markdown().render(text, {"link": link}))


def sections(text: str, name: str) -> str:
    """Return of a document what its headings say is about ``name``, after what stands before all of them.

    The whole, if no section names it.
    """
    first, *rest = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    own = [part for part in rest if f"`{name}`" in part.partition("\n")[0]]
    return "".join([first, *own]) if own else text


def _glued(markup: str) -> str:
    """Keep a formula and the bracket, the point or the rest of the word beside it on one line."""
    markup = re.sub(r"(?<=</math></span>)(?=[,.;:!?)\]-])", "\u2060", markup)
    return re.sub(r"(?<=[(\[])(?=<span class=\"tex\">)", "\u2060", markup)


def _linked(escaped: str, link: Link) -> str:
    def linked(found: re.Match[str]) -> str:
        return _named(found[1], link)

    return re.sub(r"`([^`\n]+)`", linked, escaped)


def _named(code: str, link: Link) -> str:
    """Return code, already escaped; a link if it names something on the page."""
    address = link(unescape(code))
    return f"<code>{code}</code>" if address is None else f'<a href="{escape(address)}"><code>{code}</code></a>'


@cache
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    # Nothing is fetched from anywhere: no images, and no markup of the author's own.
    parser = MarkdownIt("commonmark", {"html": False}).disable("image")
    parser.use(dollarmath_plugin, allow_space=False, double_inline=True, allow_labels=False)
    rules: dict[str, Any] = parser.renderer.rules  # type: ignore[attr-defined]  # of the renderer for HTML
    rules |= {
        "math_inline": lambda tokens, i, *_: _formula(tokens[i].content, "span", False),
        "math_inline_double": lambda tokens, i, *_: _formula(tokens[i].content, "span", True),
        "math_block": lambda tokens, i, *_: _formula(tokens[i].content, "div", True),
        "code_inline": lambda tokens, i, options, env: _named(escape(tokens[i].content), env["link"]),
        "heading_open": lambda tokens, i, *_: f"<h{_level(tokens[i].tag)}>",
        "heading_close": lambda tokens, i, *_: f"</h{_level(tokens[i].tag)}>",
        "link_open": _link_open,
        "link_close": lambda *_: "</a>",
    }
    return parser


def _formula(content: str, tag: str, display: bool) -> str:
    found = tex.mathml(content.strip(), display)
    if found is None:
        mark = "$$" if display else "$"
        return f'<code class="raw">{escape(mark + content + mark)}</code>'
    return f'<{tag} class="display">{found}</{tag}>' if display else f'<span class="tex">{found}</span>'


def _level(tag: str) -> int:
    """A document stands in a section of a panel of a page: its title is a heading of the fifth level."""
    return min(int(tag[1:]) + 4, 6)


def _link_open(tokens: Sequence[Token], i: int, options: object, env: Mapping[str, Link]) -> str:
    address = env["link"](str(tokens[i].attrGet("href")))
    return "<a>" if address is None else f'<a href="{escape(address)}">'
