"""One formula: from TeX to MathML for a page, and to a line of Unicode for a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from xml.etree import ElementTree

Node = ElementTree.Element

NAMESPACE = re.compile(r"\{.*?\}")
RELATIONS = frozenset("=≠≤≥<>≪≫≲≳∼≈≡∝→↦⟶⇒⇔⟺∈∉⊂⊆⊊≺≻⪯⪰≼≽")
SIGNS = frozenset("+−±")
OPENING, CLOSING, BARS = frozenset("([{⟨⌊⌈"), frozenset(")]}⟩⌋⌉"), frozenset("|‖")
LONG, BRACKETS = 24, 2
"""A formula of more symbols than this may be broken over lines, in so many brackets."""

CLOSE, THIN = {"lspace": "0", "rspace": "0"}, ".17em"
CLOSELY = BARS | {"/"}
"""What browsers would else space like relations."""

UPRIGHT = frozenset("ΓΔΘΛΞΠΣΥΦΨΩ")
ROWS, SCRIPTED = ("math", "mrow", "mstyle"), ("msub", "msup", "msubsup")

SUPERSCRIPTS = str.maketrans("0123456789+−-n⊤T′∗*†", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿᵀᵀ′**†")
COMBINING = {"^": "\u0302", "¯": "\u0304", "―": "\u0304", "~": "\u0303", "˙": "\u0307", "→": "\u20d7"}

# Browsers know of mathvariant nothing but "normal": other alphabets are characters of their own.
ALPHABETS = {
    "double-struck": "MATHEMATICAL DOUBLE-STRUCK",
    "script": "MATHEMATICAL SCRIPT",
    "bold": "MATHEMATICAL BOLD",
    "fraktur": "MATHEMATICAL FRAKTUR",
}
ELEMENTS = {
    "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "msub", "msup", "msubsup", "mfrac", "msqrt", "mroot", "mover",
    "munder", "munderover", "mtable", "mtr", "mtd", "mstyle", "mpadded",
}  # fmt: skip


def mathml(tex: str, display: bool = False) -> str | None:
    """Return a formula as MathML; None if it does not parse. A long one has parts, between which a line may break."""
    tree = _tree(tex)
    if tree is None:
        return None
    if display:
        return _markup(tree, ' display="block"')
    return "".join(_markup(part) for part in _parts(tree))


def plain(tex: str) -> str | None:
    """Return a formula as a line of Unicode; None if it does not parse."""
    tree = _tree(tex)
    return None if tree is None else re.sub(r"\s+", " ", _line(tree)).strip()


@cache
def _tree(tex: str) -> Node | None:
    """Return the tree of a formula, of presentation elements alone; None if the formula does not parse."""
    from latex2mathml.converter import convert

    try:
        tree = ElementTree.fromstring(convert(tex))
    except Exception:  # the converter raises what it happens to meet
        return None
    for node in tree.iter():
        node.tag = NAMESPACE.sub("", node.tag)
        if node.tag not in ELEMENTS or "\\" in (node.text or ""):  # what it does not know it passes on
            return None
    tree.attrib.clear()
    _tidy(tree)
    return tree


def _tidy(node: Node) -> None:
    """Bring a tree into what browsers draw well, in place."""
    for child in node:
        _tidy(child)
    node.text = (node.text or "").strip("\n") or None
    node.tail = None
    if node.tag == "mi":
        _tidy_letters(node)
    if node.tag == "mo" and (node.text in CLOSELY or (node.text or "").isalpha()):
        node.attrib |= CLOSE
    if node.tag in ROWS:
        _join_letters(node)
        _space(node)
    if node.tag in SCRIPTED:
        for script in node[1:]:
            for sign in script.iter("mo"):
                sign.attrib |= CLOSE
    while len(node) == 1 and node[0].tag == "mrow" and node.tag in ("mrow", "math", "mtd"):
        node[:] = list(node[0])
    for i, child in enumerate(node):
        if child.tag == "mrow" and len(child) == 1:
            node[i] = child[0]
        elif child.tag == "msup" and child[1].text == "′":  # fonts have the prime small and raised already
            child.tag = "mrow"


def _tidy_letters(node: Node) -> None:
    if alphabet := ALPHABETS.get(node.get("mathvariant", "")):
        node.text = "".join(_letter(alphabet, c) for c in node.text or "")
        del node.attrib["mathvariant"]
    elif node.text in RELATIONS | {":"}:
        node.tag = "mo"
    elif node.text in UPRIGHT:
        node.set("mathvariant", "normal")


def _space(row: Node) -> None:
    """Set names such as rank apart from what they stand beside, and signs of numbers close to them."""
    bars = dict.fromkeys(BARS, 0)
    for i, child in enumerate(row):
        core, before = _core(child), _base(row[i - 1]) if i else "("
        if before in BARS:
            bars[before] ^= 1
        free = before in OPENING | RELATIONS | SIGNS | {",", ";", "/"} or bars.get(before) == 1
        if core.tag == "mo" and (core.text or "").isalpha():
            after = row[i + 1] if i + 1 < len(row) else None
            core.set("lspace", "0" if free else THIN)
            core.set(
                "rspace", "0" if after is None or after.tag in ("mo", "mspace") or _base(after) in OPENING else THIN
            )
        elif i and core.text in SIGNS and free:
            core.set("form", "prefix")


def _letter(alphabet: str, c: str) -> str:
    import unicodedata

    case = "CAPITAL" if c.isupper() else "SMALL"
    for name in (f"{alphabet} {case} {c.upper()}", f"{alphabet.removeprefix('MATHEMATICAL ')} {case} {c.upper()}"):
        try:
            return unicodedata.lookup(name)
        except KeyError:
            continue
    return c


def _join_letters(node: Node) -> None:
    """Make one word of letters that are upright one by one."""
    joined: list[Node] = []
    for child in node:
        before = joined[-1] if joined else None
        if before is not None and all(
            n.tag == "mi" and n.get("mathvariant") == "normal" and n.text not in UPRIGHT for n in (before, child)
        ):
            before.text = (before.text or "") + (child.text or "")
        else:
            joined.append(child)
    node[:] = joined


def _markup(node: Node, attributes: str = "") -> str:
    return ElementTree.tostring(node, encoding="unicode", short_empty_elements=False).replace(
        "<math", f"<math{attributes}", 1
    )


def _parts(tree: Node) -> Iterator[Node]:
    """Cut a long formula where a line may break: before relations and signs; in brackets only if it is very long."""
    for nodes in _cut(list(tree), 0):
        part = ElementTree.Element("math")
        part.extend(nodes)
        yield part


def _cut(nodes: list[Node], level: int) -> list[list[Node]]:
    """Cut a row before each relation and sign that stands in so many brackets; what stays too long, in one more.

    In the end before thin spaces, which stand between factors.
    """
    if sum(bool(n.text) for node in nodes for n in node.iter()) <= LONG or level > BRACKETS + 1:
        return [nodes]
    parts: list[list[Node]] = [[]]
    depth, bars = 0, dict.fromkeys(BARS, 0)
    for node in nodes:
        sign, part = _base(node), parts[-1]
        binary = sign in RELATIONS or (sign in SIGNS and node.get("form") != "prefix")
        if level > BRACKETS and part and node.tag == "mspace":
            parts.append([node])
        elif binary and part and depth + sum(bars.values()) == level:
            parts.append([node])
            node.set("form", "infix")  # at the beginning of a formula it would be taken for a prefix
        else:
            part.append(node)
        depth += (sign in OPENING) - (sign in CLOSING)
        if sign in BARS:
            bars[sign] ^= 1
    return [piece for part in parts for piece in _cut(part, level + 1)]


def _core(node: Node) -> Node:
    """Return what stands at the bottom of scripts."""
    while len(node) and node.tag in SCRIPTED:
        node = node[0]
    return node


def _base(node: Node) -> str:
    """Return the sign at the bottom of scripts; none where there is more than one."""
    core = _core(node)
    return core.text or "" if not len(core) else ""


def _line(node: Node) -> str:
    write = WRITERS.get(node.tag)
    return write(node) if write else "".join(map(_line, node))


def _sign(node: Node) -> str:
    text = node.text or ""
    if text in RELATIONS | SIGNS | {"∨", "∧", ":"}:
        return f" {text} "
    return f"{text} " if text in (",", ";") else text


def _row(node: Node) -> str:
    out, before = "", None
    for child in node:
        text = _line(child)
        if text.strip() in SIGNS and _expects_operand(out):
            text = text.strip()
        # Of x_i y the index ends where y begins, and of 1/2 x the fraction; a name is a word of its own.
        apart = before is not None and (
            (before.tag in ("msub", "msubsup") and text[:1].isalnum())
            or (before.tag in ("mfrac", "mstyle") and (text[:1].isalnum() or text[:1] in "([∑∏∇"))
            or (_is_name(child) and out[-1:] not in (*OPENING, *BARS, " "))
            or (_is_name(before) and text[:1].isalnum())
        )
        out += f" {text}" if apart else text
        before = child
    return out


def _is_name(node: Node) -> bool:
    return len(_base(node)) > 1 and _base(node).isalpha()


def _expects_operand(line: str) -> bool:
    """Whether a sign at the end of a line would be that of a number, not of a sum."""
    last = line.rstrip()[-1:]
    return last in OPENING | RELATIONS | {"", ",", ";"} or (last in BARS and line.count(last) % 2 == 1)


def _group(node: Node) -> str:
    """Return what stands under a fraction or in an index: in brackets if it is more than one thing."""
    text = _line(node).strip()
    if len(text) == 1 or re.fullmatch(r"\w+|[-−]?\w", text) or (text[0] in "([" and _closes(text)):
        return text
    return f"({text})"


def _closes(text: str) -> bool:
    """Whether the first bracket closes with the last character."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c in OPENING) - (c in CLOSING)
        if depth == 0:
            return i == len(text) - 1
    return False


def _below(node: Node) -> str:
    text = _line(node).replace(" ", "")
    return f"_{text}" if re.fullmatch(r"[^\W_]+|[^\w\s]", text) else f"_({text})"


def _above(node: Node) -> str:
    text = _line(node).replace(" ", "")
    raised = text.translate(SUPERSCRIPTS)
    if all(c not in raised or c in "*′†" for c in text):
        return raised
    return f"^{text}" if re.fullmatch(r"\w+", text) else f"^({text})"


def _accent(node: Node) -> str:
    mark = (node[1].text or "").strip()
    if node.tag == "munder" and mark == "―":
        return _line(node[0]) + "\u0332"
    if mark in COMBINING:
        return _line(node[0]) + COMBINING[mark]
    return _line(node[0]) + (_below if node.tag == "munder" else _above)(node[1])


def _table(node: Node) -> str:
    return "; ".join("  ".join(_line(cell).strip() for cell in row) for row in node)


WRITERS: dict[str, Callable[[Node], str]] = {
    "math": _row,
    "mrow": _row,
    "mstyle": _row,
    "mi": lambda n: n.text or "",
    "mn": lambda n: n.text or "",
    "mtext": lambda n: re.sub(r"\s", " ", n.text or ""),
    "mo": _sign,
    "mspace": lambda n: " ",
    "msub": lambda n: _line(n[0]) + _below(n[1]),
    "msup": lambda n: _line(n[0]) + _above(n[1]),
    "msubsup": lambda n: _line(n[0]) + _below(n[1]) + _above(n[2]),
    "mfrac": lambda n: f"{_group(n[0])}/{_group(n[1])}",
    "msqrt": lambda n: f"√{_group(n)}" if len(n) > 1 else f"√{_group(n[0])}",
    "mover": _accent,
    "munder": _accent,
    "munderover": lambda n: _line(n[0]) + _below(n[1]) + _above(n[2]),
    "mtable": _table,
}
