"""Networks and tasks as a sweep writes them down."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from linnet.network import DeepLinearNetwork, haar
from linnet.problem import LayerProblem
from linnet.sweep.study import MisfitError, Part
from linnet.task import Regression, Shift

Width = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Network(Part):
    """A deep linear network, and the layer of it that is fine-tuned.

    Attributes:
        widths: p, d_1, ..., q.
        layer: from 0.
        kind: "gaussian" weights; "orthogonal" ones (all singular values 1); or "power", singular values
            j^(-power) in random bases.
        power: of the last.
    """

    widths: Annotated[list[Width], Field(min_length=2)]
    layer: Annotated[int, Field(ge=0)]
    kind: Literal["gaussian", "orthogonal", "power"] = "gaussian"
    power: NonNegative = 1.0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.layer >= len(self.widths) - 1:
            raise MisfitError(
                ("layer",),
                f"layer {self.layer} of a network with {len(self.widths) - 1}; layers count from 0; "
                f"give 0 to {len(self.widths) - 2}",
            )
        return self

    @property
    def d_out(self) -> int:
        """Channels of the layer."""
        return self.widths[self.layer + 1]

    @property
    def d_in(self) -> int:
        """Inputs of the layer."""
        return self.widths[self.layer]

    def draw(self, rng: np.random.Generator) -> DeepLinearNetwork:
        """Return a network."""
        if self.kind == "gaussian":
            return DeepLinearNetwork.random(self.widths, rng=rng)
        ranks = [min(m, n) for n, m in zip(self.widths[:-1], self.widths[1:], strict=True)]
        power = self.power if self.kind == "power" else 0.0
        return DeepLinearNetwork.with_spectra(self.widths, [_spectrum(k, power) for k in ranks], rng=rng)


class Task(Part):
    """What the network has to learn beyond what it knows: y = (W + residual) x + noise.

    Attributes:
        size: root mean square of the residual that the layer can learn, in the units of y.
        spectrum: its singular values, as a map of the layer's inputs to its outputs, fall like j^(-spectrum).
        rank: how many of them are not zero; all by default.
        channels: outputs of the layer that the residual moves, the first ones; all by default.
        beyond: root mean square of a further residual in a random direction, which the layer cannot follow entirely.
        inputs: the eigenvalues of the inputs' covariance fall like j^(-inputs), in a random basis; 0: the identity.
        noise: standard deviation of the noise, the same for each output.
    """

    size: NonNegative = 1.0
    spectrum: NonNegative = 0.0
    rank: Annotated[int, Field(ge=1)] | None = None
    channels: Annotated[int, Field(ge=1)] | None = None
    beyond: NonNegative = 0.0
    inputs: NonNegative = 0.0
    noise: NonNegative = 0.0

    def check(self, network: Network) -> None:
        """Refuse what the layer does not have.

        Raises:
            MisfitError: names it.
        """
        for name, most in (("rank", min(network.d_out, network.d_in)), ("channels", network.d_out)):
            value = getattr(self, name)
            if value is not None and value > most:
                raise MisfitError(
                    (name,), f"{name} {value} in a {network.d_out} x {network.d_in} layer; give 1 to {most}"
                )

    def draw(self, net: DeepLinearNetwork, layer: int, rng: np.random.Generator) -> Regression:
        """Return the in-distribution task of a network."""
        p, q = net.widths[0], net.widths[-1]
        d_out, d_in = net.weights[layer].shape
        basis = haar(p, rng)
        cov = np.eye(p) if self.inputs == 0 else (basis * np.array(_spectrum(p, self.inputs))) @ basis.T
        rows = self.channels or d_out
        kept = np.zeros((d_out, d_in))
        values = np.array(_spectrum(min(rows, d_in, self.rank or d_in), self.spectrum))
        left, right = haar(rows, rng)[:, : len(values)], haar(d_in, rng)[:, : len(values)]
        kept[:rows] = (left * values) @ right.T
        known = Regression(coef=net.product, signal_cov=cov, noise_cov=self.noise**2 * np.eye(q))
        learnable = _of_size(net.upper(layer) @ kept @ net.lower(layer), self.size, cov)
        unknown = _of_size(rng.normal(size=(q, p)), self.beyond, cov)
        return Regression(coef=known.coef + learnable + unknown, signal_cov=cov, noise_cov=known.noise_cov)


class Moved(Part):
    """What is different out of distribution.

    Attributes:
        kind: "none"; "old": back towards what the network knew, by a ``share`` of the task's residual; or the labels
            move by ``size`` in a random direction ("label"), in one that the layer can follow ("layer"), or in one
            that its first ``channels`` outputs can follow ("channels").
        share: of "old": 1 asks for what the network knew, close to 0 for almost the task itself.
        size: root mean square of the other moves over the training inputs, in the units of y.
        strength: how far the inputs' covariance moves, see ``Shift.covariate``.
        channels: outputs of the layer that "channels" moves.
    """

    kind: Literal["none", "old", "label", "layer", "channels"] = "none"
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    size: NonNegative = 0.0
    strength: NonNegative = 0.0
    channels: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind in ("none", "old") and self.size > 0:
            raise MisfitError(("size",), f'a shift of kind "{self.kind}" has no size; leave it out')
        if self.kind != "old" and self.share != 1:
            raise MisfitError(("share",), 'a share belongs to the kind "old", and to no other')
        if self.kind == "channels" and self.channels is None:
            raise MisfitError((), 'a shift of kind "channels" needs channels: how many of the layer\'s outputs move')
        if self.kind != "channels" and self.channels is not None:
            raise MisfitError(
                ("channels",), f'a shift of kind "{self.kind}"; channels belong to the kind "channels" alone'
            )
        # A size of 0 that was written down is the start of an axis, one that was not is forgotten.
        if self.kind in ("label", "layer", "channels") and "size" not in self.model_fields_set:
            raise MisfitError((), f'a shift of kind "{self.kind}" needs a size, in the units of y')
        return self

    def check(self, network: Network) -> None:
        """Refuse more channels than the layer has.

        Raises:
            MisfitError: names the number.
        """
        if self.channels is not None and self.channels > network.d_out:
            raise MisfitError(("channels",), f"{self.channels} channels of a layer with {network.d_out}")

    def draw(self, train: Regression, net: DeepLinearNetwork, layer: int, rng: np.random.Generator) -> Shift:
        """Return the shift away from the task ``train``."""
        if self.kind == "old":
            coef = train.coef + self.share * (net.product - train.coef)
            shift = Shift(train, Regression(coef=coef, signal_cov=train.signal_cov, noise_cov=train.noise_cov))
        elif self.kind == "label":
            shift = Shift.label(train, self.size, rng=rng)
        elif self.kind == "layer":
            shift = Shift.reachable(train, net, layer, self.size, rng=rng)
        elif self.kind == "channels":
            shift = Shift.in_channels(train, net, layer, list(range(self.channels or 0)), self.size, rng=rng)
        else:
            shift = Shift.none(train)
        if self.strength == 0:
            return shift
        return Shift(train, Shift.covariate(shift.test, self.strength, rng=rng).test)


def population(net: DeepLinearNetwork, layer: int, task: Regression, batch: tuple[int, ...] = ()) -> LayerProblem:
    """Return the layer facing the population; with ``batch``, as many equal problems, for methods drawn for each."""
    if not batch:
        return LayerProblem(net, layer, task.moments())
    many = Regression(
        coef=np.broadcast_to(task.coef, (*batch, *task.coef.shape)),
        signal_cov=task.signal_cov,
        noise_cov=task.noise_cov,
    )
    return LayerProblem(net, layer, many.moments())


def _spectrum(count: int, power: float) -> list[float]:
    return [float(j) ** -power for j in range(1, count + 1)]


def _of_size(direction: np.ndarray, size: float, cov: np.ndarray) -> np.ndarray:
    rms = float(np.sqrt(np.trace(direction @ cov @ direction.T)))
    return direction * (size / rms) if rms > 0 else 0.0 * direction
