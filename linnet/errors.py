"""What linnet refuses, as subclasses of ``ValueError``.

Every message says what was given, what is needed, and what to do.
"""


class LinnetError(ValueError):
    """Base of all errors that linnet raises about its input."""


class ArgumentError(LinnetError):
    """An argument is of the wrong kind, or outside its range."""


class ShapeError(LinnetError):
    """An array has the wrong number of axes or a length that does not fit."""


class NonFiniteError(LinnetError):
    """An array holds NaN or an infinity."""


class NotPSDError(LinnetError):
    """A covariance or second moment is not symmetric positive semi-definite."""


class RankError(LinnetError):
    """A rank is impossible for the layer, or the best rank-r approximation is not unique."""


class ChannelError(LinnetError):
    """A channel set is empty, repeats a channel, or names one that the layer lacks."""


class ConvergenceError(LinnetError):
    """An iteration stopped before the tolerance that was asked for."""


class PrecisionError(LinnetError):
    """An array library cannot hold the precision that was asked for."""


class DataError(LinnetError):
    """A file is missing, unreadable, or does not hold what is needed."""


class ClaimError(LinnetError):
    """A claim cannot be found, is declared wrongly, or does not evaluate."""


class IllPosedError(ClaimError):
    """A claim adds, multiplies or compares what does not fit."""


class StructureError(LinnetError):
    """A model lacks the coupled structures that are asked for, or their sizes do not fit each other."""


class BudgetError(LinnetError):
    """A budget of parameters selects nothing, or more than there is."""


class AdapterError(LinnetError):
    """An adapter is broken, belongs to another base model, or is not there."""


class MaskedWarning(UserWarning):
    """Some elements of a batch could not be solved; their values are NaN, their ``status`` says why."""
