"""The table of a sweep: tidy, a row a cell and method, in the order of the cells."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linnet.errors import DataError
from linnet.report.files import Outputs
from linnet.sweep.grid import Sweep
from linnet.sweep.journal import Journal
from linnet.sweep.study import measured

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

ROWS = 5_000
"""Rows that are held in memory at once."""


def write_table(sweep: Sweep, journal: Journal, path: Path, versions: dict[str, str]) -> Path:
    """Write the rows of all finished cells, in the order of the cells, whoever computed them when.

    Returns:
        ``path``.

    Raises:
        DataError: the disk refuses; an older table stays, and so does the journal.
    """
    from pyarrow import ArrowException, Table, parquet
    from pyarrow.types import is_string

    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):  # of a run that was killed just here
        part.unlink()
    stamps = {f"{name}_version": version for name, version in versions.items()}
    schema = _schema(sweep, stamps)
    texts = {field.name for field in schema if is_string(field.type)}
    batch: list[dict[str, Any]] = []
    try:
        with Outputs([path]) as outputs:
            with parquet.ParquetWriter(outputs.part(path), schema) as writer:
                for cell in sweep.cells():
                    head = {name: _text(value) if name in texts else value for name, value in cell.columns().items()}
                    head["cell"] = cell.key()
                    batch += [{**head, **row, **stamps} for row in journal.rows(cell.key())]
                    if len(batch) >= ROWS:
                        writer.write_table(Table.from_pylist(batch, schema=schema))
                        batch = []
                writer.write_table(Table.from_pylist(batch, schema=schema))
            outputs.commit()
    except (OSError, ArrowException) as err:
        raise DataError(f"{path} cannot be written ({err}); every finished cell is kept in {journal.path}") from None
    return path


def read_table(path: Path) -> pd.DataFrame:
    """Return a table that a sweep wrote.

    Raises:
        DataError: there is none.
    """
    try:
        import pandas as pd

        return pd.read_parquet(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run linnet sweep first") from None
    except (OSError, ValueError) as err:  # pyarrow's own errors are among these
        raise DataError(f"{path} is no Parquet table ({str(err).splitlines()[0]}); run linnet sweep again") from None
    except ImportError as err:
        raise DataError(f"{NEEDED} ({err})") from None


NEEDED = "tables need the extra figures: pip install 'linnet-trials[figures]'"


def require_tables() -> None:
    """Refuse to begin what could not be written.

    Raises:
        DataError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401  # only to know whether it is here
    except ImportError:
        raise DataError(NEEDED) from None


def _schema(sweep: Sweep, stamps: dict[str, str]) -> pa.Schema:
    """Return names and types of all columns: parameters as the cells have them, measurements as ``Row`` says."""
    import pyarrow as pa

    kinds: dict[str, set[type]] = {}
    for cell in sweep.cells():
        for name, value in cell.columns().items():
            kinds.setdefault(name, set()).add(type(value))
    fields = [pa.field("cell", pa.string())]
    fields += [pa.field(name, _arrow(found)) for name, found in kinds.items()]
    fields += [pa.field(name, _arrow(set(found))) for name, found in measured(sweep.study).items()]
    fields += [pa.field(name, pa.string()) for name in stamps]
    return pa.schema(fields, metadata={"title": sweep.title, "study": sweep.study.name()})


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _arrow(kinds: set[type]) -> Any:
    """Return the column type for values of these types: whole numbers beside others are floats, any mixture is text."""
    import pyarrow as pa

    kinds = kinds - {type(None)}
    for least, made in ((set(), pa.string()), ({bool}, pa.bool_()), ({int}, pa.int64()), ({int, float}, pa.float64())):
        if kinds <= least:
            return made
    return pa.string()
