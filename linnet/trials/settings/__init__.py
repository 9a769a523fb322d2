"""What claims speak about, one setting a file."""

from linnet.trials.settings.activated import Activated
from linnet.trials.settings.base import Setting
from linnet.trials.settings.layer import Layer
from linnet.trials.settings.parametrisation import Parametrisation
from linnet.trials.settings.quadratic import Quadratic

SETTINGS: dict[str, Setting] = {s.name: s for s in (Activated, Layer, Parametrisation, Quadratic)}
"""By the name that certificates use."""

__all__ = ["SETTINGS", "Activated", "Layer", "Parametrisation", "Quadratic", "Setting"]
