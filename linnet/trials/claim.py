"""What a claim is: a setting, hypotheses, two sides and the relation between them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from linnet.errors import ClaimError, LinnetError

if TYPE_CHECKING:
    from linnet.trials.settings.base import Setting

Relation = Literal["==", "<=", ">=", "<", ">", "<~", "~"]
RELATIONS: tuple[Relation, ...] = ("==", "<=", ">=", "<", ">", "<~", "~")
ORDERS: tuple[Relation, ...] = ("<~", "~")
"""``<~``: at most of the order of, some constant times; ``~``: of the order of, from both sides."""

ENTRY_POINTS = "linnet.claims"
"""Entry-point group through which packages bring their claims: each names a package of claim files."""


@dataclass(frozen=True)
class Comparison:
    """``observed relation stated``; matrices may be compared by ``==``.

    ``scale`` is the size of what the sides are differences of, where it is not the view's own: margins
    are measured on it when the sides themselves are tiny.
    """

    observed: Any
    relation: Relation
    stated: Any
    scale: Any = None


@dataclass(frozen=True)
class Hypothesis:
    """A condition on an instance of a setting.

    Attributes:
        text: what it says, as printed in the ledger.
        holds: maps the view of an instance to comparisons (observed, relation, stated) that must hold;
            None for what only defines a symbol.
        impose: name by which the setting knows how to build instances that meet it, if it does.
        shape: what the condition says of the shape, if anything, so that no other is drawn.
    """

    text: str
    holds: Callable[[Any], Iterable[tuple[Any, Relation, Any]]] | None = None
    impose: str | None = None
    shape: Callable[[Any], bool] | None = None

    def comparisons(self, view: Any) -> list[Comparison]:
        """Return what must hold at the instance."""
        return [] if self.holds is None else [Comparison(*c) for c in self.holds(view)]


@dataclass(frozen=True)
class Claim:
    """A statement that can be put on trial. Made by the decorator ``claim``.

    Attributes:
        id: its name in the ledger.
        setting: what it speaks about.
        relation: between the two sides.
        source: where it is stated.
        proof: path of its proof, as it is found from the claim's own file or from a folder above it.
        hypotheses: what is assumed.
        rescue: extra hypotheses under which it is tried again if it fails as printed.
        replaced_by: id of the true claim to read in its place if it fails.
        nearest: id of the nearest sensible reading, of a statement that has none as printed.
        extremal: maps a number t to the natural terms of an instance; as t grows, the bound is attained.
        function: maps the view of an instance to (observed, stated), or to a list of such pairs, of
            triples (observed, relation, stated) where relations differ, or of ``Comparison``.
    """

    id: str
    setting: Setting
    relation: Relation
    source: str
    function: Callable[[Any], Any] = field(repr=False)
    hypotheses: tuple[Hypothesis, ...] = ()
    rescue: tuple[Hypothesis, ...] = ()
    replaced_by: str | None = None
    nearest: str | None = None
    extremal: Callable[[Any], Mapping[str, Any]] | None = field(default=None, repr=False)
    proof: str | None = None

    @property
    def statement(self) -> str:
        """The docstring of the claim, without its indentation."""
        return inspect.cleandoc(self.function.__doc__ or "")

    @property
    def proof_file(self) -> Path | None:
        """Where the proof lies: in the nearest folder from the claim's file upwards; None if it is in none."""
        if self.proof is None:
            return None
        here = Path(inspect.unwrap(self.function).__code__.co_filename).resolve()
        return next((found for folder in here.parents if (found := folder / self.proof).is_file()), None)

    def comparisons(self, view: Any) -> list[Comparison]:
        """Evaluate both sides at an instance.

        Raises:
            ClaimError: the function failed, or returned something else than pairs or triples.
        """
        try:
            out = self.function(view)
        except LinnetError:
            raise
        except Exception as err:
            raise ClaimError(
                f"{self.id} does not evaluate: {type(err).__name__}: {err}; build both sides from the view's matrices "
                "and numbers, and make case distinctions by positive_part or where_positive"
            ) from err
        rows = out if isinstance(out, list) else [out]
        if not rows or not all(isinstance(row, Comparison | tuple) for row in rows):
            raise self._shapeless(out)
        return [self._comparison(row) for row in rows]

    def _comparison(self, row: Any) -> Comparison:
        if isinstance(row, tuple) and len(row) == 2:
            row = Comparison(row[0], self.relation, row[1])
        elif isinstance(row, tuple) and len(row) == 3:
            row = Comparison(*row)
        if not isinstance(row, Comparison) or row.relation not in RELATIONS:
            raise self._shapeless(row)
        return row

    def _shapeless(self, out: Any) -> ClaimError:
        return ClaimError(
            f"{self.id} returned {type(out).__name__}; return (observed, stated), or a list of such pairs, or of "
            f"triples (observed, relation, stated) with a relation out of {', '.join(RELATIONS)}"
        )


def claim(
    id: str,
    *,
    setting: Setting,
    relation: Relation,
    source: str | None = None,
    proof: str | None = None,
    hypotheses: Sequence[Hypothesis] = (),
    rescue: Sequence[Hypothesis] = (),
    replaced_by: str | None = None,
    nearest: str | None = None,
    extremal: Callable[[Any], Mapping[str, Any]] | None = None,
) -> Callable[[Callable[[Any], Any]], Claim]:
    """Declare the decorated function as a claim; its docstring is the statement, in which ``$...$`` is TeX.

    A claim without a ``source`` is stated where it is proved.

    Raises:
        ClaimError: an unknown relation, no docstring, or neither a source nor a proof.
    """
    if relation not in RELATIONS:
        raise ClaimError(f"{id}: relation {relation!r}; give one of {', '.join(RELATIONS)}")
    stated = source or proof
    if stated is None:
        raise ClaimError(f"{id} is stated nowhere; give source=, where it is stated, or proof=, the path of its proof")

    def declare(function: Callable[[Any], Any]) -> Claim:
        if not function.__doc__:
            raise ClaimError(f"{id} has no docstring; state the claim there")
        return Claim(
            id, setting, relation, stated, function, tuple(hypotheses), tuple(rescue), replaced_by, nearest, extremal,
            proof,
        )  # fmt: skip

    return declare


def installed_claims() -> dict[str, Claim]:
    """Return the claims of every package that announces some, by id.

    Raises:
        ClaimError: two claims share an id.
    """
    found: dict[str, Claim] = {}
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        for module in _modules(entry.load()):
            _collect(module, found)
    return dict(sorted(found.items()))


def claims_in_file(path: Path) -> dict[str, Claim]:
    """Return the claims that a Python file declares, by id.

    Raises:
        ClaimError: no such file, it does not run, or it declares none.
    """
    if not path.is_file():
        raise ClaimError(f"no claim file {path}; give the path of a Python file that declares a claim")
    spec = importlib.util.spec_from_file_location(f"claims_in_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ClaimError(f"{path} is not a Python file; a claim file ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as err:
        raise ClaimError(f"{path} does not run: {type(err).__name__}: {err}") from err
    found: dict[str, Claim] = {}
    _collect(module, found)
    if not found:
        raise ClaimError(f"{path} declares no claim; decorate a function with @claim(...)")
    return found


def select(names: Sequence[str]) -> dict[str, Claim]:
    """Return the claims that names or paths stand for; all installed ones if there are no names.

    A name is an id, a prefix of ids that ends at a slash (``yang2024``), or the path of a claim file.

    Raises:
        ClaimError: a name stands for nothing.
    """
    if not names:
        return installed_claims()
    chosen: dict[str, Claim] = {}
    installed: dict[str, Claim] | None = None
    for name in names:
        if name.endswith(".py"):
            chosen |= claims_in_file(Path(name))
            continue
        installed = installed_claims() if installed is None else installed
        here = {i: c for i, c in installed.items() if i == name or i.startswith(name.rstrip("/") + "/")}
        if not here:
            import difflib

            close = difflib.get_close_matches(name, installed, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else "linnet verify without names runs all"
            raise ClaimError(f"no claim {name!r}; {hint}")
        chosen |= here
    return chosen


def _modules(package: Any) -> list[ModuleType]:
    """Import a package and everything in it, in order of name."""
    if not isinstance(package, ModuleType):
        raise ClaimError(f"an entry point of {ENTRY_POINTS} names {package!r}; it must name a package")
    modules = [package]
    for info in pkgutil.walk_packages(getattr(package, "__path__", []), package.__name__ + "."):
        modules.append(importlib.import_module(info.name))
    return modules


def _collect(module: ModuleType, found: dict[str, Claim]) -> None:
    for value in vars(module).values():
        if isinstance(value, Claim):
            if value.id in found and found[value.id] is not value:
                raise ClaimError(f"two claims are called {value.id}; rename one")
            found[value.id] = value
