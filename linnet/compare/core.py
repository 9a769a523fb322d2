"""Every method on one layer: fitted on folds, judged on what it did not see, compared in pairs."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

import linnet
from linnet.channels import select_channels
from linnet.compare.bounds import bounds_that_apply
from linnet.compare.crossfit import (
    FOLDS,
    Fit,
    Losses,
    affine_losses,
    difference,
    estimate,
    fit_methods,
    left_out,
    losses,
    split,
)
from linnet.compare.data import Data, checked_data, checked_sizes
from linnet.compare.decide import RULE, is_zero, overall, recommend
from linnet.compare.records import BestAffine, Comparison, Estimate, Recommendation, Row, Side, Source, in_order
from linnet.compare.standard import Standardised, standardise
from linnet.errors import DataError, RankError, ShapeError
from linnet.network import DeepLinearNetwork
from linnet.problem import LayerProblem
from linnet.task import Moments

UNITS = "risks in training variances of y"
PROTOCOL = (
    "Protocol: x and y standardised by the training set, the network rewritten to be the same function (an update of "
    "layer 0 acts on centred inputs: its weights cannot move the mean of the outputs, its biases can). Methods are "
    f"fitted {FOLDS} times, each time without one fold of the training set. In distribution a sample is judged by the "
    "model that has not seen it; out of distribution its loss is averaged over the models. The best affine map is "
    "ridge regression of least leave-one-out error (penalty 0 allowed), cross-fitted on each set's own folds. Random "
    "choices are drawn once, from the seed, for all folds."
)
ERRORS = (
    "Errors: ± is one standard error over samples (rows taken as independent), given the fitted models and, for "
    "differences, paired; in distribution its variance is the one within folds. It does not cover another draw of the "
    "training set or of a method's random choices: for the latter, vary the seed."
)

Key = str | None
"""A method's name; None is the pre-trained network."""


def compare(
    net: DeepLinearNetwork,
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    layer: int,
    rank: int,
    seed: int = 0,
    *,
    source: Source | None = None,
    progress: Callable[[str], object] = lambda text: None,
) -> Comparison:
    """Compare all methods of ``linnet.methods`` on one layer, at the parameter count of LoRA of ``rank``.

    Args:
        net: the pre-trained network, unbatched.
        train: in-distribution x (n, p) and y (n, q), at least 10 rows.
        test: out-of-distribution x (m, p) and y (m, q), at least 10 rows.
        layer: the layer to fine-tune, from 0.
        rank: from 1 to min(d_out, d_in) of the layer.
        seed: of folds and random choices, at least 0.
        source: where network and data came from, for the record.
        progress: is told in a few words what is being fitted.

    Returns:
        Risks in training variances of y, summed over the outputs.

    Raises:
        ShapeError: a batch of networks, a layer it has not, or data that do not fit it.
        RankError: the layer does not allow the rank.
        DataError: too few rows to split, values too large to square, or a seed below 0.
        NonFiniteError: a non-finite value in the data.
    """
    if net.batch_shape:
        raise ShapeError(f"a batch of networks {net.batch_shape} was given; compare takes one: loop over the batch")
    d_in, d_out = check_choice(net, layer, rank, seed)
    net = net.to(np)
    pairs = []
    for data, where in ((train, "train "), (test, "test ")):
        pair = checked_data(data, where)
        checked_sizes(net, pair, where)
        pairs.append(pair)
    units = standardise(net, *pairs)
    with np.errstate(over="ignore", invalid="ignore"):
        return _compare(units, layer, rank, rank * (d_out + d_in), seed, source, progress)


def check_choice(net: DeepLinearNetwork, layer: int, rank: int, seed: int) -> tuple[int, int]:
    """Return (d_in, d_out) of the layer, and refuse what it does not allow, before anything is computed.

    Raises:
        ShapeError, RankError, DataError: the layer, the rank or the seed is out of range.
    """
    layer = net.layer_index(layer)
    d_in, d_out = net.widths[layer], net.widths[layer + 1]
    if not isinstance(rank, int | np.integer) or not 1 <= rank <= min(d_out, d_in):
        raise RankError(f"rank {rank} for layer {layer}, {d_out} x {d_in}; give 1 to {min(d_out, d_in)}")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise DataError(f"seed {seed}; give a whole number >= 0")
    return d_in, d_out


def _compare(
    units: Standardised,
    layer: int,
    rank: int,
    budget: int,
    seed: int,
    source: Source | None,
    progress: Callable[[str], object],
) -> Comparison:
    net, train, test = units.net, units.train, units.test
    fold, test_fold = split(len(train[0]), seed, "training folds"), split(len(test[0]), seed, "test folds")
    fits = fit_methods(net, layer, train, fold, budget, seed, progress)
    table = _Table(
        {
            None: losses([net] * FOLDS, train, fold, test),
            **{name: losses(fit.networks, train, fold, test) for name, fit in fits.items()},
        },
        affine_losses(train, fold, test, test_fold),
        fold,
        test_fold,
        (_energy(train), _energy(test)),
    )
    # Fewest parameters first: among methods of equal losses the cheapest speaks for all.
    names = sorted(fits, key=lambda name: (fits[name].parameters, name or ""))
    step = max(net.widths[layer], net.widths[layer + 1])
    affordable = [name for name in names if fits[name].parameters < budget + step]
    answers = _recommendations(table, names, affordable)
    best = {a.distribution: a.best for a in answers if a.scope == "any size"}

    def row(name: Key, fit: Fit | None) -> Row:
        parameters = 0 if fit is None else fit.parameters
        return Row(
            name="pre-trained" if name is None else name,
            method=None if fit is None else fit.method.__name__,
            parameters=parameters,
            matched=abs(parameters - budget) < step,
            affordable=parameters < budget + step,
            in_distribution=table.side("in", name, best["in"]),
            out_of_distribution=table.side("out", name, best["out"]),
            forgetting=table.paired("out", name, None),
        )

    rows = sorted((row(name, fits[name]) for name in names), key=lambda r: in_order(r.in_distribution))
    moments = Moments.from_data(*train), Moments.from_data(*test)
    return Comparison(
        linnet=linnet.__version__,
        numpy=np.__version__,
        python=platform.python_version(),
        source=source,
        seed=seed,
        widths=net.widths,
        layer=layer,
        rank=rank,
        budget=budget,
        n_train=len(fold),
        n_test=len(test_fold),
        folds=FOLDS,
        units=UNITS if net.widths[-1] == 1 else f"{UNITS}, summed over its {net.widths[-1]} outputs",
        protocol=PROTOCOL,
        errors=ERRORS,
        rule=RULE,
        notes=(*(f"{name} is left out: {why}." for name, why in left_out(budget).items()), *_notes(units)),
        methods=tuple(rows),
        pretrained=row(None, None),
        best_affine=BestAffine(
            in_distribution=estimate(table.affine.inside, fold),
            out_of_distribution=estimate(table.affine.outside, test_fold),
        ),
        same_predictions=_groups(table, names),
        recommendations=tuple(answers),
        bounds=tuple(bounds_that_apply(net, layer, *moments, _channels(net, layer, moments[0], budget), rank)),
    )


class _Table:
    """The losses of all predictors, and every estimate that is made from them."""

    def __init__(
        self,
        losses: dict[Key, Losses],
        affine: Losses,
        fold: np.ndarray,
        test_fold: np.ndarray,
        energy: tuple[float, float],
    ) -> None:
        self.affine = affine
        self._losses = losses
        self._folds = {"in": fold, "out": test_fold}
        self._energy = dict(zip(("in", "out"), energy, strict=True))
        for name, of in (*losses.items(), ("the best affine map", affine)):
            # Standard errors take the losses squared.
            if not np.isfinite(sum(float(np.sum(a * a)) for a in (of.inside, of.outside))):
                raise DataError(
                    f"the squared errors of {name or 'the pre-trained network'} are too large for float64 to square; "
                    "rescale the weights, or drop columns that vary in the test set only"
                )

    def _of(self, where: str, losses: Losses) -> np.ndarray:
        return losses.inside if where == "in" else losses.outside

    def risk(self, where: str, name: Key) -> Estimate:
        # Outside, one sample's loss is a mean over all models: the samples are independent, folds do not enter.
        return estimate(self._of(where, self._losses[name]), self._folds["in"] if where == "in" else None)

    def paired(self, where: str, a: Key, b: Key) -> Estimate:
        first, second = (self._of(where, self._losses[name]) for name in (a, b))
        d = difference(first, second, self._energy[where])
        return estimate(d, self._folds["in"] if where == "in" else None)

    def side(self, where: str, name: Key, best: Key) -> Side:
        gap = self.paired(where, name, best)
        excess = difference(self._of(where, self._losses[name]), self._of(where, self.affine), self._energy[where])
        return Side(
            risk=self.risk(where, name),
            excess=estimate(excess, self._folds[where]),
            to_best=gap,
            z=gap.value / gap.se if gap.se > 0 else None,
        )

    def freedom(self, where: str) -> int:
        n = len(self._folds[where])
        return n - FOLDS if where == "in" else n - 1


def _recommendations(table: _Table, names: list[str], affordable: list[str]) -> list[Recommendation]:
    answers: list[Recommendation] = []
    scopes: tuple[tuple[Literal["any size", "within budget"], list[str]], ...] = (
        ("any size", names),
        ("within budget", affordable),
    )
    for scope, candidates in scopes:
        if not candidates:
            continue
        inside, outside = (_recommend(table, where, scope, candidates) for where in ("in", "out"))
        answers += [inside, outside, overall(inside, outside)]
    return answers


def _recommend(table: _Table, where: Any, scope: Any, candidates: Sequence[str]) -> Recommendation:
    return recommend(
        where,
        scope,
        candidates,
        lambda name: table.risk(where, name).value,
        lambda a, b: table.paired(where, a, b),
        table.freedom(where),
    )


def _groups(table: _Table, names: list[str]) -> tuple[tuple[str, ...], ...]:
    """Methods with the same losses on every sample of both sets, groups of two and more."""
    groups: list[list[str]] = []
    for name in names:
        for group in groups:
            if all(is_zero(table.paired(where, name, group[0])) for where in ("in", "out")):
                group.append(name)
                break
        else:
            groups.append([name])
    return tuple(tuple(group) for group in groups if len(group) > 1)


def _energy(data: Data) -> float:
    return float(np.mean(np.sum(data[1] * data[1], axis=1)))


def _channels(net: DeepLinearNetwork, layer: int, train: Moments, budget: int) -> np.ndarray:
    """The rows that S2FT would train on the whole training set, by gradient."""
    problem = LayerProblem(net, layer, train)
    return select_channels(problem, int(np.clip(budget // problem.d_in, 1, problem.d_out)), by="gradient")


def _notes(units: Standardised) -> list[str]:
    notes = []
    for name, constant in (("x", units.constant_x), ("y", units.constant_y)):
        if constant.any():
            found = [str(i) for i in np.flatnonzero(constant)]
            columns = ", ".join(found[:12]) + (f", ... ({len(found)} in all)" if len(found) > 12 else "")
            notes.append(f"Constant in training, left in their own units: columns {columns} of {name}.")
    p = units.net.widths[0]
    for where, (x, _) in (("training", units.train), ("test", units.test)):
        fitted = len(x) - -(-len(x) // FOLDS)
        if fitted <= p + 1:
            notes.append(
                f"The best affine map has {p + 1} coefficients an output and {fitted} rows of the {where} set to fit "
                "them: its risk is overstated, and the excess over it understated."
            )
    return notes
