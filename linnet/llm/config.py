"""What S2FT is to train: a configuration of peft's kind."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from peft.utils.constants import EMBEDDING_LAYER_NAMES

from linnet.errors import AdapterError, ArgumentError
from linnet.llm import registration
from linnet.llm.selection import STRATEGIES
from linnet.llm.structure import ROLES, Layout

Form = Literal["permuted", "gather"]
FORMS = ("permuted", "gather")
BIASES = ("none", "all", "s2ft_only")


@dataclass
class S2FTConfig(PeftConfig):
    """Structured sparse fine-tuning (S2FT): a few attention heads and feed-forward channels of every block.

    Give it to ``peft.get_peft_model``. What was selected is written into the configuration of the model, in ``units``,
    and saved with the adapter.

    Attributes:
        targets: matrices to train a part of, of query, key, value, output, up, gate, down. Of query, key, value, up and
            gate rows are trained, of output and down columns.
        ratio: trained parameters over all parameters of the model; 0.01 unless ``n_parameters`` or ``units`` is given.
        n_parameters: trained parameters; never exceeded. Biases and heads that are trained too come on top.
        strategy: random (R), weight (W), activation (A), product (S) or gradient (G). The last three look at data: see
            :func:`linnet.llm.calibrate`.
        largest: select the largest scores instead of the smallest; no matter for random.
        seed: of the random selection.
        blocks: numbers of the blocks to train, from 0; all by default.
        units: what is trained, ``{"model.layers.0/attention": [2], "model.layers.0/feed_forward": [7, 30]}``; chosen by
            strategy and budget if None.
        excluded: what must not be chosen, in the same form, such as the ``units`` of another adapter.
        form: ``permuted`` reorders heads and channels of the base weights so that selected ones are neighbours, and
            lets the trained values stand in them; both are undone exactly when the adapter is taken out. ``gather``
            leaves the base weights alone, at the price of a second product, and can be differentiated twice.
        bias: which biases are trained: none, all, or those of the layers that S2FT trains (``s2ft_only``). With trained
            biases nothing is reordered.
        layout: where an unknown type of model keeps its structures; see :class:`linnet.llm.structure.Layout`.
        base: fingerprints of the base weights under the trained channels, taken when the adapter is made and compared
            when it is loaded; set it to None to load an adapter onto another base on purpose.
        target_modules: names of the modules, filled in; name matrices by ``targets``.

    Raises:
        ArgumentError: a value that does not exist or contradicts another.

    Source: yang2024, Section 3.
    """

    targets: Sequence[str] = field(default=("output", "down"), metadata={"help": "matrices to train a part of"})
    ratio: float | None = field(default=None, metadata={"help": "trained parameters over all"})
    n_parameters: int | None = field(default=None, metadata={"help": "trained parameters"})
    strategy: str = field(default="random", metadata={"help": "how units are chosen"})
    largest: bool = field(default=False, metadata={"help": "the largest scores instead of the smallest"})
    seed: int = field(default=0, metadata={"help": "seed of the random selection"})
    blocks: list[int] | None = field(default=None, metadata={"help": "numbers of the blocks to train"})
    units: dict[str, list[int]] | None = field(default=None, metadata={"help": "what is trained"})
    excluded: dict[str, list[int]] | None = field(default=None, metadata={"help": "what must not be chosen"})
    form: str = field(default="permuted", metadata={"help": "permuted or gather"})
    bias: str = field(default="none", metadata={"help": "none, all or s2ft_only"})
    layout: dict[str, Any] | None = field(default=None, metadata={"help": "where the structures are"})
    base: list[str] | None = field(default=None, metadata={"help": "fingerprints of the base weights"})
    target_modules: list[str] | None = field(default=None, metadata={"help": "filled in"})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "modules trained whole, such as a head"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = registration.peft_type()
        self.strategy = STRATEGIES.get(self.strategy, self.strategy)
        self.targets = [self.targets] if isinstance(self.targets, str) else list(self.targets)
        for what, given, known in (
            ("strategy", [self.strategy], tuple(STRATEGIES.values())),
            ("target", self.targets, ROLES),
            ("form", [self.form], FORMS),
            ("bias", [self.bias], BIASES),
        ):
            if unknown := [g for g in given if g not in known]:
                raise ArgumentError(
                    f"no {what} is called {', '.join(map(repr, unknown))}; choose of {', '.join(known)}"
                )
        if not self.targets or len(set(self.targets)) < len(self.targets):
            raise ArgumentError(f"targets must name at least one matrix, each once; given: {self.targets}")
        if self.ratio is not None and self.n_parameters is not None:
            raise ArgumentError(f"give ratio ({self.ratio}) or n_parameters ({self.n_parameters}), not both")
        if self.ratio is not None and not (isinstance(self.ratio, (int, float)) and 0 < self.ratio <= 1):
            raise ArgumentError(
                f"ratio is a part of the model's parameters, above 0 and at most 1; given: {self.ratio!r}"
            )
        if self.n_parameters is not None and (not isinstance(self.n_parameters, int) or self.n_parameters < 1):
            raise ArgumentError(f"n_parameters is a positive whole number; given: {self.n_parameters}")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise ArgumentError(f"seed is a whole number from 0; given: {self.seed!r}")
        self.base = [self.base] if isinstance(self.base, str) else self.base
        self.units, self.excluded = _units("units", self.units), _units("excluded", self.excluded)
        if self.units is not None and not any(self.units.values()):
            raise ArgumentError("units selects nothing; name at least one head or channel, or leave it out")
        if self.blocks is not None:
            self.blocks = _numbers("blocks", self.blocks)
            if not self.blocks or min(self.blocks) < 0:
                raise ArgumentError(f"blocks are numbers from 0, at least one; given: {self.blocks}")
        if self.target_modules is not None and self.units is None:
            raise ArgumentError(
                f"target_modules ({self.target_modules}) is filled in by what is selected; name the matrices that are "
                f"to be trained by targets, of {', '.join(ROLES)}"
            )

    def placed(self) -> Layout | None:
        """Return the layout that was given, if any."""
        return None if self.layout is None else Layout.given(self.layout)

    def to_dict(self) -> dict[str, Any]:
        """Return what is written to ``adapter_config.json``."""
        return super().to_dict() | {"peft_type": str(getattr(self.peft_type, "value", self.peft_type))}

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any
    ) -> S2FTConfig:
        """Return the configuration of a saved adapter, after a look at the weights beside it.

        An adapter that cannot be loaded is refused here, before a model is touched. Weights that would have to be
        unpickled are never read.

        Raises:
            AdapterError: the folder holds no configuration of S2FT, no ``adapter_model.safetensors``, or one that is
                broken or lacks what the configuration names.
        """
        folder = Path(pretrained_model_name_or_path) / (subfolder or "")
        if not folder.is_dir():
            return super().from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)
        written = check_files(folder)
        known = {f.name for f in fields(cls)} - {"peft_type"}
        if unknown := sorted(set(written) - known - {"peft_type", "runtime_config"}):
            raise AdapterError(
                f"{folder / CONFIG_NAME} has settings that this version does not know: {', '.join(unknown)}; it may be "
                "of a later one"
            )
        given = {name: value for name, value in kwargs.items() if name in known}
        return cls(**{name: value for name, value in written.items() if name in known} | given)


def _numbers(what: str, given: Any) -> list[int]:
    """Return whole numbers as such, whichever library they are of: they are written as JSON."""
    try:
        if isinstance(given, str):
            raise TypeError
        return [operator.index(n) for n in given]
    except TypeError:
        raise ArgumentError(f"{what} is a list of whole numbers; given: {given!r}") from None


def _units(what: str, given: Any) -> dict[str, list[int]] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ArgumentError(f'{what} is a mapping such as {{"model.layers.0/attention": [2]}}; given: {given!r}')
    return {str(key): _numbers(f"{what} of {key}", units) for key, units in given.items()}


def check_files(folder: Path) -> Mapping[str, Any]:
    """Return the written configuration of a saved adapter; refuse files that are missing, broken, or no pair.

    Raises:
        AdapterError: says which, and what to do.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / CONFIG_NAME
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise AdapterError(f"{path} cannot be read ({err.strerror}); save the adapter again") from None
    except ValueError as err:
        raise AdapterError(f"{path} is no JSON ({err}); save the adapter again") from None
    if not isinstance(written, Mapping) or written.get("peft_type") != registration.NAME:
        kind = written.get("peft_type") if isinstance(written, Mapping) else None
        raise AdapterError(f"{path} describes an adapter of type {kind}, not {registration.NAME}; load it with peft")
    if not written.get("units") or not written.get("target_modules"):
        raise AdapterError(f"{path} does not say which units were trained; save the adapter again")
    weights = folder / SAFETENSORS_WEIGHTS_NAME
    if not weights.is_file():
        other = [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth")]
        aside = f"; {', '.join(other)} is a pickle, which is not read" if other else ""
        raise AdapterError(f"{folder} has no {SAFETENSORS_WEIGHTS_NAME}{aside}; save the adapter with save_pretrained")
    try:
        with safe_open(weights, framework="pt") as file:
            names = set(file.keys())
            _check_values(weights, {name: file.get_tensor(name) for name in names}, written)
    except (SafetensorError, OSError) as err:
        raise AdapterError(f"{weights} is broken ({err}); save or copy the adapter again") from None
    modules = {
        n.removeprefix("base_model.model.").removesuffix(".s2ft_delta") for n in names if n.endswith(".s2ft_delta")
    }
    if modules != set(written["target_modules"]):
        odd = sorted(modules ^ set(written["target_modules"]))
        raise AdapterError(
            f"{weights} and {path.name} name different modules, {odd[0]} among them; they are not of one adapter"
        )
    return written


def _check_values(path: Path, state: Mapping[str, torch.Tensor], written: Mapping[str, Any]) -> None:
    """Refuse slices of another size than their channels, values that are not finite, and what no adapter holds.

    Raises:
        AdapterError: so it is.
    """
    whole = set(written.get("modules_to_save") or ())
    for name, values in state.items():
        if values.is_floating_point() and not torch.isfinite(values).all():
            raise AdapterError(f"{path}: {name} holds values that are not finite; save the adapter again")
        module, _, what = name.rpartition(".")
        if what == "s2ft_delta":
            channels = state.get(f"{module}.s2ft_channels")
            if values.ndim != 2 or (channels is not None and len(channels) not in values.shape):
                there = "" if channels is None else f" of {len(channels)} channels"
                raise AdapterError(f"{path}: {name} has the shape {tuple(values.shape)}{there}; save the adapter again")
            continue
        biases = what == "bias" and written.get("bias", "none") != "none"
        if what == "weight" and module.rpartition(".")[2] in EMBEDDING_LAYER_NAMES:
            continue  # peft writes them where the vocabulary was resized
        if what != "s2ft_channels" and not biases and not whole & set(module.split(".")):
            raise AdapterError(
                f"{path} holds {name}, which the configuration does not train; the adapter is not to change it"
            )
