"""Sweeps: grids of simulated cells, run anywhere, stopped and resumed at will, one tidy table at the end."""

from linnet.sweep.grid import Sweep
from linnet.sweep.run import Done, Failure, On, Processes, run_sweep
from linnet.sweep.spec import read_sweep, sweep_of
from linnet.sweep.study import MisfitError, Part, Study, mean_and_error, study
from linnet.sweep.table import read_table

__all__ = [
    "Done",
    "Failure",
    "MisfitError",
    "On",
    "Part",
    "Processes",
    "Study",
    "Sweep",
    "mean_and_error",
    "read_sweep",
    "read_table",
    "run_sweep",
    "study",
    "sweep_of",
]
