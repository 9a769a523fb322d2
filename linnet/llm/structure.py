"""Coupled structures of a transformer: matrices that an activation joins unit by unit.

In attention a unit is a head: it owns rows of query, key and value, and columns of output. In a feed-forward network it
is a channel: a row of up (and gate), a column of down. Reordering the units of both sides alike changes nothing but the
order of the activations between them.

Source: yang2024, Section 3.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from linnet.errors import StructureError

Kind = Literal["attention", "feed_forward"]
INWARD = {"attention": ("query", "key", "value"), "feed_forward": ("up", "gate")}
"""Roles whose rows are units, by kind of structure; the gate may be missing."""
OUTWARD = {"attention": "output", "feed_forward": "down"}
"""The role whose columns are units."""
ROLES = ("query", "key", "value", "output", "up", "gate", "down")
"""Every matrix of a block that S2FT can train a part of."""


@dataclass(frozen=True)
class Layout:
    """Where a model keeps its coupled structures.

    Attributes:
        block: how the names of its blocks end, ``*`` for their number: ``layers.*``.
        attention: role to the module within the block that holds it: ``{"query": "self_attn.q_proj", ...}``. Of a
            module that holds several matrices one above the other, ``attn.c_attn[0/3]`` is the first of three equal
            parts of the outputs, and ``qkv_proj[0:512]`` are the first 512 of them.
        feed_forward: the same for ``up``, ``down`` and, where there is one, ``gate``.
        heads: number of query heads; the model's configuration says it if this is None.
        key_value_heads: number of key and value heads; the configuration's, or as many as query heads.
    """

    block: str
    attention: Mapping[str, str]
    feed_forward: Mapping[str, str]
    heads: int | None = None
    key_value_heads: int | None = None

    @classmethod
    def given(cls, written: Mapping[str, Any]) -> Layout:
        """Return the layout that a configuration file holds.

        Raises:
            StructureError: a key is unknown, a role is missing or unknown, or no matrix is named.
        """
        known = {"block", "attention", "feed_forward", "heads", "key_value_heads"}
        if unknown := sorted(set(written) - known):
            raise StructureError(f"a layout has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        if not written.get("block"):
            raise StructureError(
                f'a layout says where the blocks are, such as block = "layers.*"; given: {dict(written)}'
            )
        if not written.get("attention") and not written.get("feed_forward"):
            raise StructureError(
                f"a layout names the matrices of attention, of feed_forward, or both; given: {written}"
            )
        roles: dict[str, Mapping[str, str]] = {}
        for kind in ("attention", "feed_forward"):
            roles[kind] = dict(written.get(kind, {}))
            every = {*INWARD[kind], OUTWARD[kind]}
            needed = every - {"gate"} if roles[kind] else set()
            if (missing := needed - set(roles[kind])) or (unknown_roles := set(roles[kind]) - every):
                what = f"lacks {', '.join(sorted(missing))}" if missing else f"has no role {', '.join(unknown_roles)}"
                raise StructureError(f"the {kind} of a layout {what}; its roles are {', '.join(sorted(every))}")
        return cls(
            written["block"], **roles, heads=written.get("heads"), key_value_heads=written.get("key_value_heads")
        )


_LLAMA = Layout(
    "layers.*",
    {"query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj", "output": "self_attn.o_proj"},
    {"up": "mlp.up_proj", "gate": "mlp.gate_proj", "down": "mlp.down_proj"},
)
_BERT = Layout(
    "layer.*",
    {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "output": "attention.output.dense",
    },
    {"up": "intermediate.dense", "down": "output.dense"},
)
LAYOUTS: Mapping[str, Layout] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), _LLAMA),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "electra"), _BERT),
    "gpt2": Layout(
        "h.*",
        {
            "query": "attn.c_attn[0/3]",
            "key": "attn.c_attn[1/3]",
            "value": "attn.c_attn[2/3]",
            "output": "attn.c_proj",
        },
        {"up": "mlp.c_fc", "down": "mlp.c_proj"},
    ),
    "opt": Layout(
        "layers.*",
        {
            "query": "self_attn.q_proj",
            "key": "self_attn.k_proj",
            "value": "self_attn.v_proj",
            "output": "self_attn.out_proj",
        },
        {"up": "fc1", "down": "fc2"},
    ),
}
"""Layouts by the ``model_type`` of a transformers configuration: those under test."""


@dataclass(frozen=True)
class Projection:
    """A matrix of a structure: rows ``start`` to ``stop`` of the (out, in) weight of a module."""

    module: str
    start: int
    stop: int


@dataclass(frozen=True)
class Structure:
    """A coupled structure of one block.

    Attributes:
        kind: attention or feed_forward.
        block: name of the block in the model.
        inward: matrices whose rows are units, by role.
        outward: the matrix whose columns are units.
        units: number of heads, or of channels.
        width: rows or columns that a unit has: the size of a head, or 1.
        shared: query heads that share a key and value head; 1 unless queries are grouped.
    """

    kind: Kind
    block: str
    inward: Mapping[str, Projection]
    outward: Projection
    units: int
    width: int
    shared: int = 1

    @property
    def key(self) -> str:
        """How a configuration names it: ``model.layers.3/attention``."""
        return f"{self.block}/{self.kind}"

    @property
    def projections(self) -> Mapping[str, Projection]:
        """All its matrices by role."""
        return {**self.inward, OUTWARD[self.kind]: self.outward}

    def channels(self, role: str, units: list[int]) -> list[int]:
        """Return the rows (inward) or columns (outward) of a role's module that belong to units, in their order.

        Of grouped queries, a key or value head is listed once, where its first query head is.
        """
        if role in ("key", "value"):
            units = list(dict.fromkeys(u // self.shared for u in units))
        start = self.inward[role].start if role in self.inward else 0
        return [start + u * self.width + i for u in units for i in range(self.width)]


def bare(module: nn.Module) -> Any:
    """Return a layer of the model itself, out of peft's layers around it."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def turned(module: nn.Module) -> bool:
    """Whether a linear module keeps its weight as (in, out), as GPT-2's do; a square one does not show it."""
    return type(bare(module)).__name__ == "Conv1D"


def weight(module: nn.Module) -> torch.Tensor:
    """Return the (out, in) weight of a linear module; GPT-2's, which is stored transposed, as a view.

    Raises:
        StructureError: the module has no floating-point matrix.
    """
    base = bare(module)
    matrix = getattr(base, "weight", None)
    if not isinstance(matrix, torch.Tensor) or matrix.ndim != 2 or not matrix.is_floating_point():
        raise StructureError(
            f"a {type(base).__name__} has no plain floating-point matrix to write to; leave quantised weights as they "
            'are with form="gather"'
        )
    return matrix.T if turned(base) else matrix


def _configuration(model: nn.Module) -> Any:
    """Return the configuration of the first transformers model in a module, of its text part; None without one."""
    held = (getattr(module, "config", None) for module in model.modules())
    config: Any = next((c for c in held if hasattr(c, "model_type")), None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def model_type(model: nn.Module) -> str | None:
    """Return the ``model_type`` of the transformer in a module, of its text part; None without one."""
    return getattr(_configuration(model), "model_type", None)


def layout_of(model: nn.Module, layout: Layout | None = None) -> Layout:
    """Return where a model keeps its structures.

    Raises:
        StructureError: nobody has said so for this type of model.
    """
    if layout is not None:
        return layout
    kind = model_type(model)
    if kind is not None and kind in LAYOUTS:
        return LAYOUTS[kind]
    what = f"models of type {kind!r}" if kind else f"a {type(model).__name__}"
    raise StructureError(
        f"where {what} keep heads and channels is not known; known are {', '.join(sorted(LAYOUTS))}. Describe it: "
        'layout={"block": "layers.*", "attention": {"query": "self_attn.q_proj", "key": ..., "value": ..., "output": '
        '...}, "feed_forward": {"up": "mlp.up_proj", "gate": ..., "down": ...}}. It fits if heads and channels can be '
        "reordered without changing the output: no bias or norm of their own besides those of the named modules"
    )


def blocks(model: nn.Module, layout: Layout | None = None) -> list[tuple[str, nn.Module]]:
    """Return names and modules of the transformer blocks, from the first to the last.

    They are found by the layout; in a model whose layout is not known, as the longest list of modules of one class.

    Raises:
        StructureError: there are none.
    """
    if layout is not None or model_type(model) in LAYOUTS:
        ending = re.escape(layout_of(model, layout).block).replace(r"\*", r"\d+")
        pattern = re.compile(rf"(?:.*\.)?{ending}$")
        found = [(name, module) for name, module in model.named_modules() if pattern.match(name)]
    else:
        lists = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.ModuleList) and len({type(m) for m in module}) == 1
        ]
        name, longest = max(lists, key=lambda item: len(item[1]), default=("", nn.ModuleList()))
        found = [(f"{name}.{i}", module) for i, module in enumerate(longest)]
    if not found:
        raise StructureError(f"a {type(model).__name__} has no transformer blocks; give the model that holds them")
    return found


def find(model: nn.Module, layout: Layout | None = None) -> list[Structure]:
    """Return the coupled structures of a model, block by block: attention, then feed-forward.

    Args:
        model: a transformer, or a module that holds one.
        layout: where it keeps them; by default as :data:`LAYOUTS` says for its type.

    Raises:
        StructureError: unknown type, a module that is missing, or sizes that do not fit the number of heads.

    Source: yang2024, Section 3.1, equations (1) and (2).
    """
    place = layout_of(model, layout)
    return [structure for name, block in blocks(model, place) for structure in _in_block(model, name, block, place)]


def _in_block(model: nn.Module, name: str, block: nn.Module, layout: Layout) -> Iterator[Structure]:
    if layout.attention:
        yield _attention(model, name, block, layout)
    if layout.feed_forward:
        matrices = {role: _projection(name, block, at) for role, at in layout.feed_forward.items()}
        inward = {role: matrices[role][0] for role in INWARD["feed_forward"] if role in matrices}
        down, columns = matrices["down"]
        _fits(
            name,
            {role: p.stop - p.start for role, p in inward.items()},
            columns,
            "channels of its feed-forward network",
        )
        yield Structure("feed_forward", name, inward, down, columns, 1)


def _attention(model: nn.Module, name: str, block: nn.Module, layout: Layout) -> Structure:
    config = _configuration(model)
    heads = layout.heads or getattr(config, "num_attention_heads", None)
    if not isinstance(heads, int) or heads < 1:
        raise StructureError(f"{type(model).__name__} does not say how many heads it has; give the layout's heads")
    of_model = getattr(config, "num_key_value_heads", None) if layout.heads is None else None
    shared_by = layout.key_value_heads or of_model or heads
    if heads % shared_by:
        raise StructureError(f"{heads} query heads cannot share {shared_by} key and value heads evenly")
    matrices = {role: _projection(name, block, at) for role, at in layout.attention.items()}
    output, columns = matrices["output"]
    if columns % heads:
        raise StructureError(
            f"{layout.attention['output']} of {name} has {columns} inputs: no multiple of {heads} heads"
        )
    width, shared = columns // heads, heads // shared_by
    owner = model.get_submodule(matrices["query"][0].module.rpartition(".")[0])
    own = getattr(owner, "head_dim", None) or getattr(owner, "attention_head_size", None)
    if isinstance(own, int) and own != width:
        raise StructureError(
            f"{name} has heads of size {own}, and {heads} heads would be of size {width}: the configuration is not of "
            "this part of the model; give S2FT the part alone, or the layout's heads"
        )
    inward = {role: matrices[role][0] for role in INWARD["attention"]}
    rows = {role: (p.stop - p.start) * (1 if role == "query" else shared) for role, p in inward.items()}
    _fits(name, rows, columns, f"{heads} heads of size {width}, {shared} of them to a key and value head")
    return Structure("attention", name, inward, output, heads, width, shared)


def _fits(block: str, rows: Mapping[str, int], columns: int, what: str) -> None:
    if odd := {role: n for role, n in rows.items() if n != columns}:
        raise StructureError(
            f"{block} has {columns} {what}; these do not fit: {odd} rows, shared ones counted as often"
        )


def _projection(name: str, block: nn.Module, at: str) -> tuple[Projection, int]:
    """Return a matrix by its path within a block, and how many columns it has."""
    match = re.fullmatch(r"([\w.]+)(?:\[(\d+)([/:])(\d+)\])?", at)
    if match is None:
        raise StructureError(
            f"{at!r} names no matrix; write a module's path, with [0/3] or [0:512] for some of its rows"
        )
    path, first, sign, second = match.groups()
    try:
        module = block.get_submodule(path)
    except AttributeError:
        raise StructureError(f"{name} has no {path}, where its layout says that a matrix is") from None
    rows, columns = shape(module, f"{name}.{path}")
    start, stop = 0, rows
    if sign == "/":
        size = rows // int(second)
        start, stop = int(first) * size, (int(first) + 1) * size
    elif sign == ":":
        start, stop = int(first), int(second)
    if not 0 <= start < stop <= rows or (sign == "/" and rows % int(second)):
        raise StructureError(f"{at} of {name}: its {rows} rows have no such part")
    return Projection(f"{name}.{path}", start, stop), columns


def shape(module: nn.Module, name: str = "a module") -> tuple[int, int]:
    """Return the sizes (out, in) of a linear module, be it quantised."""
    base = bare(module)
    out, into = getattr(base, "out_features", None), getattr(base, "in_features", None)
    if isinstance(out, int) and isinstance(into, int):
        return out, into
    if turned(base):
        return base.weight.shape[1], base.weight.shape[0]
    raise StructureError(f"{name} is a {type(base).__name__}, no linear map")
