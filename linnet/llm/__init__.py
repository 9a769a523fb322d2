"""The torch module: S2FT as a method of peft, and the checks of the theory on real language models.

Needs the extra ``llm``. It knows the core; the core knows no torch.
"""

from __future__ import annotations

from linnet.llm.adapters import Increment, as_lora, increments, load, save, save_as_lora
from linnet.llm.config import S2FTConfig
from linnet.llm.model import S2FTModel, calibrate
from linnet.llm.structure import Layout, Structure, find

__all__ = [
    "Increment",
    "Layout",
    "S2FTConfig",
    "S2FTModel",
    "Structure",
    "as_lora",
    "calibrate",
    "find",
    "increments",
    "load",
    "save",
    "save_as_lora",
]
