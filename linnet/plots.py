"""Figures from tidy tables: one style for all, theory as lines, simulation as points with error bars."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from linnet.errors import DataError
from linnet.report.files import Outputs
from linnet.sweep.spec import read_sweep, read_title
from linnet.sweep.table import read_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.5
"""Inches: the text width of a paper."""

MARKERS = ("s", "^", "D", "v", "P", "X", "<", "*", ">", "d")
"""One for each colour of seaborn's colour-blind palette, so that print in grey can tell them apart too."""

OTHER_MARKERS = ("p", "X", "8", ">", "<", "H", "h")

LOOKS = {
    "full FT": -1,
    "LoRA": 0,
    "S2FT": 1,
    "SpFT": 2,
    "S2FT columns": 3,
    "LoRA, U frozen": 9,
    "LoRA, V frozen": 4,
    "pre-trained": 7,
}
"""What a method looks like, the same in every figure: its place in the palette; full fine-tuning is black."""

RC: dict[Any, Any] = {
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.3",
    "axes.linewidth": 0.6,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.dpi": 200,
    "pdf.fonttype": 42,
    "svg.hashsalt": "linnet",
}


def look(name: str, among: Sequence[str] = ()) -> tuple[str, str]:
    """Return colour and marker: a method's own, or, of other names, the next by its place ``among`` them.

    Others take colours that no method of this figure has; their markers are no method's.
    """
    import seaborn

    colours = seaborn.color_palette("colorblind").as_hex()
    if name in LOOKS:
        place = LOOKS[name]
        return (".1", "o") if place < 0 else (colours[place], MARKERS[place])
    others = [n for n in among if n not in LOOKS]
    shown = {LOOKS[n] for n in among if n in LOOKS}
    free = [i for i in range(len(colours)) if i not in shown]
    place = others.index(name) if name in others else 0
    return colours[free[place % len(free)]], OTHER_MARKERS[place % len(OTHER_MARKERS)]


def panels(columns: int, rows: int = 1, height: float = 2.4, **axes: Any) -> tuple[Figure, Any]:
    """Return a figure of the width of a paper, and its axes (rows, columns), or one of these alone.

    Args:
        columns: panels beside each other.
        rows: panels below each other.
        height: of a row, in inches.
        axes: further arguments of ``matplotlib.figure.Figure.subplots``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    FigureCanvasAgg(figure)  # no window, whatever the user's backend
    return figure, figure.subplots(rows, columns, **axes)


def simulated(
    ax: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    error: str | None = None,
    *,
    name: str,
    among: Sequence[str] = (),
    label: str | None = None,
    join: bool = False,
    **style: Any,
) -> None:
    """Draw simulated points, with one standard error each way (``y + "_se"``, unless ``error`` names another column).

    Args:
        ax: where.
        table: one row a point.
        x: column of the abscissa.
        y: column of the ordinate.
        error: column of the standard errors.
        name: whose points: decides colour and marker.
        among: all names of the figure.
        label: for the legend; ``name`` by default, "" for none.
        join: whether to join the points by a thin line, where no theory does.
        style: further arguments of ``Axes.errorbar``.
    """
    colour, marker = look(name, among)
    table = table.sort_values(x)
    error = f"{y}_se" if error is None else error
    style = {
        "color": colour,
        "marker": marker,
        "linestyle": "-" if join else "none",
        "linewidth": 0.8,
        "elinewidth": 0.8,
        "capsize": 1.5,
        "markeredgecolor": "white",
        "markeredgewidth": 0.4,
    } | style
    bars = table[error].fillna(0.0) if error in table else None
    if "xerr" in style:
        style["xerr"] = style["xerr"].reindex(table.index)
    ax.errorbar(table[x], table[y], yerr=bars, label=name if label is None else label, **style)


def theory(
    ax: Axes, table: pd.DataFrame, x: str, y: str, *, name: str, among: Sequence[str] = (), **style: Any
) -> None:
    """Draw a line through what theory says, in the colour of ``name``; rows without a prediction are left out."""
    colour, _ = look(name, among)
    table = table.dropna(subset=[y]).sort_values(x)
    ax.plot(table[x], table[y], **({"color": colour, "linestyle": "-", "label": ""} | style))


def over_seeds(table: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Return the means over seeds of ``columns``, a row for each combination of ``by``.

    Columns ``<name>_se`` become the standard errors of these means over the seeds: they speak of other problems like
    these, not only of other samples. Of a single seed they stay what they were.
    """
    groups = table.groupby(list(by), dropna=False)
    means = groups[list(columns)].mean()
    for name in columns:
        if f"{name}_se" in table:
            several = groups[name].sem()
            means[f"{name}_se"] = several.where(groups[name].count() > 1, groups[f"{name}_se"].first())
    return means.reset_index()


def against_budget(ax: Axes, table: pd.DataFrame, y: str, names: Sequence[str]) -> None:
    """Draw ``y`` against the number of trained parameters, full fine-tuning as a point of its own."""
    for name in names:
        mine = table[table.method == name]
        simulated(ax, mine, "parameters", y, name=name, among=names, join=len(mine) > 1)
    ax.set(xscale="log", xlabel="trained parameters")
    plain_log(ax.xaxis)


def strategies(table: pd.DataFrame) -> pd.Series:
    """Return how the channels of S2FT were chosen, from its name: "random", or score and end, as "weight, largest"."""
    return table.method.str.partition(", ")[2].replace("", "random")


def plain_log(axis: Any) -> None:
    """Mark a logarithmic axis of a few decades at 1, 2, 5, 10, ..., in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def common_legend(figure: Figure, ax: Axes, columns: int = 4) -> None:
    """Put the legend of ``ax`` below all panels."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def load_drawing(path: Path) -> ModuleType:
    """Return the Python file beside a sweep that draws it: ``draw(table)``, ``findings(table)``, ``CAPTION``.

    Raises:
        DataError: there is none, it cannot be imported, or something is missing in it.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; a sweep is drawn by the Python file of the same name beside it")
    spec = importlib.util.spec_from_file_location(f"experiment_{path.stem.replace('-', '_')}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as err:
        raise DataError(f"{path} cannot be imported ({type(err).__name__}: {err}); mend it") from None
    missing = [name for name in ("draw", "findings", "CAPTION") if not hasattr(module, name)]
    missing += [] if module.__doc__ else ["a docstring"]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; see docs/writing-an-experiment.md")
    return module


def draw_experiment(sweep: Path, table: Path, out: Path) -> list[Path]:
    """Draw the figure of a sweep: NAME.pdf, NAME.png and, with caption and findings, NAME.md in ``out``.

    Args:
        sweep: the TOML file; the Python file of the same name lies beside it.
        table: what the sweep wrote.
        out: folder to write to.

    Raises:
        DataError: something is missing or fails, the table is another sweep's, or the disk refuses.
    """
    module = load_drawing(sweep.with_suffix(".py"))
    data = read_table(table)
    _require_own(sweep, table, data)
    targets = [out / f"{sweep.stem}{suffix}" for suffix in (".pdf", ".png", ".md")]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DataError(f"{out} cannot be made ({err.strerror}); give --out a folder that you may write to") from None
    with style(), Outputs(targets) as outputs:
        figure = _called(module, "draw", data)
        if not hasattr(figure, "savefig"):
            raise DataError(f"{sweep.with_suffix('.py')}: draw returned a {type(figure).__name__}; return the figure")
        # Without a date the same table gives the same bytes.
        figure.savefig(outputs.part(targets[0]), format="pdf", metadata={"CreationDate": None})
        figure.savefig(outputs.part(targets[1]), format="png", dpi=200)
        said = text(read_title(sweep), sweep, module, _called(module, "findings", data))
        outputs.part(targets[2]).write_text(said, encoding="utf-8")
        outputs.commit()
    return targets


def _require_own(sweep: Path, table: Path, data: pd.DataFrame) -> None:
    """Refuse a table that is not of the sweep as it stands.

    Raises:
        DataError: says how many cells are missing, and how many belong to something else.
    """
    cells, found = {cell.key() for cell in read_sweep(sweep).cells()}, set(data["cell"])
    if cells != found:
        raise DataError(
            f"{table} is not the table of {sweep} as it stands: {len(cells - found)} of {len(cells)} cells are "
            f"missing, {len(found - cells)} are of another sweep; run linnet sweep {sweep}"
        )


def _called(module: ModuleType, name: str, table: pd.DataFrame) -> Any:
    try:
        return getattr(module, name)(table)
    except Exception as err:
        own = [frame for frame in traceback.extract_tb(err.__traceback__) if frame.filename == module.__file__]
        where = (
            f"{Path(module.__file__ or '').name}, line {own[-1].lineno}" if own else Path(module.__file__ or "").name
        )
        raise DataError(f"{where}: {name} failed ({type(err).__name__}: {err}); mend it") from None


@contextmanager
def style() -> Iterator[None]:
    """Make everything drawn inside look like a figure of linnet."""
    import seaborn
    from matplotlib import rc_context

    with seaborn.axes_style("whitegrid"), seaborn.plotting_context("paper"), rc_context(RC):
        yield


def text(title: str, sweep: Path, module: ModuleType, found: dict[str, Any]) -> str:
    """Return title, caption and paragraph in Markdown, with the numbers that ``findings`` has found, and how.

    Raises:
        DataError: the text names a number that is not among them, or has a placeholder that cannot be read.
    """
    name = Path(module.__file__ or "").name
    try:
        caption, paragraph = (_filled(part, found) for part in (module.CAPTION, inspect.cleandoc(module.__doc__ or "")))
    except (KeyError, IndexError) as err:
        raise DataError(f"{name}: the text needs {err}, but findings returns {', '.join(found)}") from None
    except ValueError as err:
        raise DataError(
            f"{name}: a placeholder of the text cannot be read ({err}); write {{name}} or {{name:.2f}}"
        ) from None
    file = (Path(sweep.parent.name) / sweep.name).as_posix()
    again = f"linnet sweep {file} && linnet draw {file}"
    return f"# {title}\n\n*{caption}*\n\n{paragraph}\n\nSimulated and drawn by `{again}`.\n"


def _filled(template: str, values: dict[str, Any]) -> str:
    """Fill {name} and {name:format} in; braces of formulas between dollars stay as they are."""
    parts = re.split(r"(\$\$.+?\$\$|\$[^$]+?\$)", template, flags=re.S)
    return "".join(part if part.startswith("$") else part.format(**values) for part in parts)
