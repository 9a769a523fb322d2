"""Where a fine-tuning system finds its place in a model: the transformer, its blocks, and their linear maps by role."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn
from transformers import PreTrainedModel

from linnet.errors import StructureError
from linnet.llm import structure
from linnet.llm.structure import Layout


def transformer(model: nn.Module) -> tuple[str, nn.Module]:
    """Return name and module of the transformer that a model is, or holds: the outermost one of transformers.

    A model without any is taken as it is; then only a layout can say where things are.

    Raises:
        StructureError: it holds several, side by side.
    """
    found: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if isinstance(module, PreTrainedModel) and not any(_inside(name, outer) for outer, _ in found):
            found.append((name, module))
    if len(found) > 1:
        raise StructureError(
            f"a {type(model).__name__} holds {len(found)} transformers: {', '.join(name for name, _ in found)}; "
            "give the one that is to be fine-tuned"
        )
    return found[0] if found else ("", model)


def body(model: nn.Module) -> tuple[str, nn.Module]:
    """Return name and module of the innermost transformer that holds all blocks: the one without a head."""
    first, _ = blocks(model)[0]
    inside = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, PreTrainedModel) and _inside(first, name)
    ]
    return inside[-1] if inside else transformer(model)


def blocks(model: nn.Module, layout: Layout | None = None) -> list[tuple[str, nn.Module]]:
    """Return names, within the model, and modules of the transformer blocks, from the first to the last.

    Raises:
        StructureError: there are none.
    """
    root, inner = transformer(model)
    return [(_join(root, name), block) for name, block in structure.blocks(inner, layout)]


def sites(model: nn.Module, layout: Layout | None = None) -> list[dict[str, str]]:
    """Return, of attention and feed-forward in every block in order, role to the name of its module in the model.

    The roles are those of :data:`linnet.llm.structure.ROLES`; several can have the same module.

    Raises:
        StructureError: nobody has said where models of this type keep them; give a layout.
    """
    root, inner = transformer(model)
    return [
        {role: _join(root, projection.module) for role, projection in found.projections.items()}
        for found in structure.find(inner, layout)
    ]


def maps(model: nn.Module, roles: Collection[str], layout: Layout | None = None) -> dict[str, nn.Module]:
    """Return the linear maps of these roles in all blocks, by name, each once.

    Raises:
        StructureError: see :func:`sites`; or no map has any of the roles.
    """
    names = dict.fromkeys(name for site in sites(model, layout) for role, name in site.items() if role in roles)
    if not names:
        raise StructureError(
            f"a {type(model).__name__} has no {' or '.join(roles)}; the roles are {', '.join(structure.ROLES)}"
        )
    return {name: model.get_submodule(name) for name in names}


def width(model: nn.Module, layout: Layout | None = None) -> int:
    """Return the size of the residual stream: what the last map of a feed-forward network returns."""
    down = next(iter(maps(model, ("down",), layout).values()))
    return structure.shape(down)[0]


def parent(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds the one of this name, and what it calls it."""
    above, _, last = name.rpartition(".")
    return model.get_submodule(above), last


def _join(root: str, name: str) -> str:
    return f"{root}.{name}" if root and name else root or name


def _inside(name: str, outer: str) -> bool:
    return outer in ("", name) or name.startswith(f"{outer}.")
