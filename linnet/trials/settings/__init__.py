"""What claims speak about, one setting a file."""

from linnet.trials.settings.activated import Activated
from linnet.trials.settings.base import Setting
from linnet.trials.settings.block import Block
from linnet.trials.settings.estimator import Estimator
from linnet.trials.settings.layer import Layer
from linnet.trials.settings.parametrisation import Parametrisation
from linnet.trials.settings.quadratic import Quadratic
from linnet.trials.settings.sampled import Sampled
from linnet.trials.settings.wide import Wide

SETTINGS: dict[str, Setting] = {
    s.name: s for s in (Activated, Block, Estimator, Layer, Parametrisation, Quadratic, Sampled, Wide)
}
"""By the name that certificates use."""

__all__ = [
    "SETTINGS",
    "Activated",
    "Block",
    "Estimator",
    "Layer",
    "Parametrisation",
    "Quadratic",
    "Sampled",
    "Setting",
    "Wide",
]
