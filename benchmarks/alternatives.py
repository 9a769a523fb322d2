"""linnet against what a user would pick instead: the same problems, to the same answer.

The middle one of three layers is fine-tuned; risks are the population's, free of sampling noise. Networks are random
(``DeepLinearNetwork.random``, inputs Wishart) or tame: white inputs, and singular values that give the Hessian of full
fine-tuning the condition number of the row's name. Descent takes as long as that number tells it to; linnet does not
see it. Float64, wall clock, one BLAS thread. Of linnet, all is timed: from networks and tasks, of which nothing is
kept from before, to updates and excess risks.

Gradient descent goes through the batch at once, as linnet does. Steps are plain, of a constant size. Wherever there
was a choice, it is the one in favour of descent: what its steps read (both Gram matrices, the slope at the start) is
made off the clock, and so is its step size, for each problem the best of several: 1/L and 2/(mu + L) of the exact
eigenvalues where the risk is quadratic (full fine-tuning, and S2FT, which trains rows alone), for LoRA, which starts
from one factor zero and one Gaussian, a geometric grid about the curvature at linnet's own solution. The goal is
handed to it: linnet's risk, and 1e-8 of the pre-trained network's excess risk. A problem that is there leaves the
batch, so that the slowest holds up no other; one looks after ten more steps, and later after a twentieth more.

torch trains LoRA's factors beside a frozen ``torch.nn.Linear``, one problem after the other, to the same goal, by Adam
(its rate tuned for each problem, off the clock) and by L-BFGS with a strong Wolfe line search: the better counts.
linnet solves these few problems as one batch and, in a row of its own, one by one.

The loop is a script: for one problem after the other the textbook's formulas in NumPy, which are the inverse root of
the Gram matrix by eigh, pseudo-inverses, a truncated SVD, and risks as traces. LoRA, S2FT and full fine-tuning share
what they can, and are judged on two tasks, in the loop as in linnet. Beside it stands one batched SVD of all residuals,
without anything else: whatever takes LoRA's from LAPACK gains no more on the loop than that does.

scikit-learn has one of the methods: ``LinearRegression`` is full fine-tuning of a network of one layer, on samples. It
has no reduced-rank regression, hence nothing for LoRA, and no frozen layers above, hence nothing for S2FT; ``Ridge``
answers another question. linnet starts from the same samples, with ``Moments.from_data``.

What the loop and scikit-learn answer is compared with linnet's answers. The loop's formulas square the condition number
of the layers below: its risks are held to 1e-8 where eps times the condition number of the Gram matrix is no more, and
the row says on how many problems that is, and how far apart the answers are on all.

Where descent or torch has not come to the goal within the most steps that it was given, the time until then stands for
it: such ratios are lower bounds, and printed as "more than".

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/alternatives.py
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import measuring
import numpy as np
from measuring import Target

import linnet as ln

NAME = "alternatives"
LAYER = 1
TOLERANCE = 1e-8
"""Of the pre-trained network's excess risk: how far above linnet's descent may end, and answers may differ."""

Row = dict[str, Any]
Clock = Callable[[], float]


# --- the problems, and linnet's answers -----------------------------------------------------------


def drawn(width: int, batch: int, condition: float | None) -> tuple[ln.DeepLinearNetwork, ln.Regression]:
    """Return networks and tasks: Gaussian without ``condition``, else of that condition number in full fine-tuning."""
    rng = np.random.default_rng(width)
    coef = rng.normal(size=(batch, width, width)) / np.sqrt(width)
    if condition is None:
        a = rng.normal(size=(batch, width, 2 * width)) / np.sqrt(2 * width)
        return ln.DeepLinearNetwork.random([width] * 4, rng=rng, batch=(batch,)), ln.Regression(coef, a @ turned(a))
    graded = np.geomspace(1.0, condition**-0.25, width)  # squared, below and above
    spectra = [graded, np.ones(width), graded]
    net = ln.DeepLinearNetwork.with_spectra([width] * 4, spectra, rng=rng, batch=(batch,))
    return net, ln.Regression(coef, np.eye(width))


def turned(a: np.ndarray) -> np.ndarray:
    return np.swapaxes(a, -1, -2)


def called(condition: float | None) -> str:
    return "random" if condition is None else f"condition {condition:,.0f}"


def methods(width: int) -> dict[str, ln.Method]:
    r = max(1, width // 4)
    return {"LoRA": ln.LoRA(r), "S2FT": ln.S2FT(range(r)), "full FT": ln.FullFT()}


def solved(net: ln.DeepLinearNetwork, task: ln.Regression, method: ln.Method) -> Any:
    """Return the excess risk of linnet's solution, from copies that have kept nothing."""
    net, task = replace(net), replace(task)
    update = method.solve(ln.LayerProblem(net, LAYER, task.moments()))
    return ln.excess_risk(net.updated(update), task)


# --- gradient descent -----------------------------------------------------------------------------


class Facing(NamedTuple):
    """What descent reads, of a batch: all that does not change, the problems along the first axis.

    The risk is ``|target - upper Delta inputs|^2``, so that half its gradient is ``normal Delta gram - cross``.
    """

    upper: np.ndarray
    inputs: np.ndarray
    target: np.ndarray
    normal: np.ndarray
    gram: np.ndarray
    cross: np.ndarray
    goal: np.ndarray
    step: np.ndarray

    def of(self, chosen: np.ndarray) -> Facing:
        return Facing(*(a[chosen] for a in self))

    def stepping(self, step: np.ndarray) -> Facing:
        return self._replace(step=step[:, None, None])


def facing(net: ln.DeepLinearNetwork, task: ln.Regression, method: ln.Method) -> Facing:
    """Return the problems as descent sees them; with S2FT ``Delta`` stands for the trained rows alone."""
    problem = ln.LayerProblem(net, LAYER, task.moments())
    upper = problem.upper[..., list(method.channels)] if isinstance(method, ln.S2FT) else problem.upper
    goal = solved(net, task, method) + TOLERANCE * ln.excess_risk(net, task)
    normal, cross = turned(upper) @ upper, turned(upper) @ problem.cross
    return Facing(upper, problem.inputs, problem.target, normal, problem.gram, cross, goal, np.ones((len(goal), 1, 1)))


Factors = tuple[np.ndarray, ...]
"""What is trained: one matrix of a linear method, both factors of LoRA."""


def advanced(factors: Factors, f: Facing) -> Factors:
    """Return the factors after one step of gradient descent."""
    if len(factors) == 1:
        (delta,) = factors
        return (delta - f.step * (f.normal @ delta @ f.gram - f.cross),)
    b, a = factors
    slope = (f.normal @ b) @ (a @ f.gram) - f.cross
    return b - f.step * (slope @ turned(a)), a - f.step * (turned(b) @ slope)


def risks(factors: Factors, f: Facing) -> np.ndarray:
    delta = factors[0] if len(factors) == 1 else factors[0] @ factors[1]
    return np.sum((f.target - f.upper @ delta @ f.inputs) ** 2, axis=(-1, -2))


def descended(factors: Factors, f: Facing, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps that each problem took to its goal, infinite where ``most`` do not suffice, and its last risk.

    Who has come to the goal, or has overflown, is left out from there on.
    """
    steps, last = np.full(len(f.goal), np.inf), np.full(len(f.goal), np.inf)
    going, done = np.arange(len(f.goal)), 0
    with np.errstate(over="ignore", invalid="ignore"):  # of steps that are too large
        while len(going) and done < most:
            more = min(max(10, done // 20), most - done)
            for _ in range(more):
                factors = advanced(factors, f)
            done += more
            found = risks(factors, f)
            finite, there = np.isfinite(found), found <= f.goal
            last[going] = np.where(finite, found, np.inf)
            steps[going[there]] = done
            stays = finite & ~there
            if not np.all(stays):
                going, factors, f = going[stays], tuple(a[stays] for a in factors), f.of(stays)
    return steps, last


def start(f: Facing, method: ln.Method) -> Factors:
    """Return where training starts: at zero, and LoRA's second factor at Gaussian values of variance 1/d_in."""
    if not isinstance(method, ln.LoRA):
        return (np.zeros_like(f.cross),)
    batch, d_out, d_in = f.cross.shape
    gaussian = np.random.default_rng(d_in).normal(size=(batch, method.rank, d_in)) / np.sqrt(d_in)
    return np.zeros((batch, d_out, method.rank)), gaussian


def step_sizes(net: ln.DeepLinearNetwork, task: ln.Regression, f: Facing, method: ln.Method) -> Iterator[np.ndarray]:
    """Yield step sizes to choose from, each (batch,)."""
    above, below = np.linalg.eigvalsh(f.normal), np.linalg.eigvalsh(f.gram)
    if not isinstance(method, ln.LoRA):
        largest, least = above[:, -1] * below[:, -1], above[:, 0] * below[:, 0]
        yield from (1 / largest, 2 / (largest + np.maximum(least, 0.0)))
        return
    best = method.solve(ln.LayerProblem(net, LAYER, task.moments()))
    of_left = np.linalg.eigvalsh(turned(best.left) @ f.normal @ best.left)[:, -1]
    of_right = np.linalg.eigvalsh(turned(best.right) @ f.gram @ best.right)[:, -1]
    curvature = above[:, -1] * of_right + below[:, -1] * of_left
    yield from (t / curvature for t in np.geomspace(0.5, 4.0, 7))


def tuned(factors: Factors, f: Facing, sizes: Iterator[np.ndarray], most: int) -> Facing:
    """Return the problems with, for each, the step size that is there first or, if none is, comes nearest."""
    tried = [(size, *descended(factors, f.stepping(size), most)) for size in sizes]
    size, steps, last = (np.stack(a) for a in zip(*tried, strict=True))
    best = np.lexsort((last, steps), axis=0)[0]
    return f.stepping(size[best, np.arange(len(f.goal))])


def against_descent(width: int, batch: int, condition: float | None, most: int, rounds: int) -> Iterator[Row]:
    net, task = drawn(width, batch, condition)
    for name, method in methods(width).items():
        f = facing(net, task, method)
        factors = start(f, method)
        f = tuned(factors, f, step_sizes(net, task, f, method), max(1, most // 10))
        steps: list[np.ndarray] = []

        def ours(method: ln.Method = method) -> object:
            return solved(net, task, method)

        def theirs(factors: Factors = factors, f: Facing = f, steps: list[np.ndarray] = steps) -> None:
            steps.append(descended(factors, f, most)[0])

        taken = measuring.in_turn({"linnet": ours, "descent": theirs}, rounds, unmeasured=0)  # both have run before
        hessian = float(np.median(np.linalg.cond(f.normal) * np.linalg.cond(f.gram)))
        about = {"method": name, "network": called(condition), "width": width, "batch": batch, "hessian": hessian}
        yield row(taken, "descent", against="gradient descent", gradients=steps[0], most=most, **about)


# --- torch ----------------------------------------------------------------------------------------

RATES = (0.003, 0.01, 0.03, 0.1)
"""Of Adam, to choose from."""


class EnoughError(Exception):
    """No fault: training is at its goal, or at its most evaluations, and either optimiser stops at once."""


def trained(net: ln.DeepLinearNetwork, f: Facing, start: Factors, i: int, rate: float | None, most: int) -> float:
    """Return the evaluations that problem ``i`` took to its goal: by Adam, or without a rate by L-BFGS.

    Infinite where ``most`` do not suffice. Summed over whitened inputs of unit second moment, as many as there are
    inputs, the squared error is the population's risk exactly.
    """
    import torch

    d_out, d_in = f.cross.shape[-2:]
    linear = torch.nn.Linear(d_in, d_out, bias=False, dtype=torch.float64).requires_grad_(False)
    linear.weight.copy_(torch.from_numpy(net.weights[LAYER][i]))
    h, residual, upper = (torch.from_numpy(turned(a[i]).copy()) for a in (f.inputs, f.target, f.upper))
    b, a = (torch.from_numpy(factor[i].copy()).requires_grad_() for factor in start)
    y, goal, seen = residual + linear(h) @ upper, float(f.goal[i]), 0
    if rate is None:
        exact: dict[str, Any] = {"tolerance_grad": 0.0, "tolerance_change": 0.0, "line_search_fn": "strong_wolfe"}
        optimiser: Any = torch.optim.LBFGS([b, a], max_iter=most, history_size=50, **exact)
    else:
        optimiser = torch.optim.Adam([b, a], lr=rate)

    def loss() -> Any:
        nonlocal seen
        optimiser.zero_grad()
        value = ((y - (linear(h) + h @ a.T @ b.T) @ upper) ** 2).sum()
        seen += 1
        if value.item() <= goal:
            raise EnoughError(seen)
        if seen >= most:
            raise EnoughError(np.inf)
        value.backward()
        return value

    try:
        while True:
            optimiser.step(loss)
    except EnoughError as enough:
        return enough.args[0]


def against_torch(width: int, few: int, condition: float | None, most: int, rounds: int) -> Iterator[Row]:
    import torch

    torch.set_num_threads(1)
    net, task = drawn(width, few, condition)
    method = methods(width)["LoRA"]
    f = facing(net, task, method)
    factors = start(f, method)
    problems = range(few)
    rates = [min(RATES, key=lambda rate, i=i: trained(net, f, factors, i, rate, most)) for i in problems]
    covariances = np.broadcast_to(task.signal_cov, task.coef.shape)
    singles = [
        (ln.DeepLinearNetwork([w[i] for w in net.weights]), ln.Regression(task.coef[i], covariances[i]))
        for i in problems
    ]
    seen: dict[str, list[float]] = {}
    works: dict[str, Callable[[], object]] = {
        "linnet": lambda: solved(net, task, method),
        "one by one": lambda: [solved(*single, method) for single in singles],
        "Adam": lambda: seen.update(Adam=[trained(net, f, factors, i, rates[i], most) for i in problems]),
        "L-BFGS": lambda: seen.update({"L-BFGS": [trained(net, f, factors, i, None, most) for i in problems]}),
    }
    taken = measuring.in_turn(works, rounds, unmeasured=0)
    # The better one takes more problems to the goal, and takes less time.
    best = max(seen, key=lambda name: (np.isfinite(seen[name]).sum(), -median(taken[name])))
    about = {"method": "LoRA", "network": called(condition), "width": width, "batch": few, "optimiser": best}
    for own, against in (("linnet", "torch"), ("one by one", "torch, linnet one by one")):
        yield row(taken, best, own, against=against, gradients=seen[best], most=most, **about)


# --- a loop over the textbook's formulas ----------------------------------------------------------


def script(weights: Sequence[np.ndarray], train: Sequence[np.ndarray], test: Sequence[np.ndarray], r: int) -> list:
    """Return the excess risks of LoRA, S2FT and full fine-tuning on both tasks, (coefficients, covariance) each."""
    lower, weight, upper = weights
    coef, cov = train
    gram = lower @ cov @ lower.T
    cross = (coef - upper @ weight @ lower) @ cov @ lower.T
    values, vectors = np.linalg.eigh(gram)
    keep = values > 1e-14 * values[-1]
    root_inverse = (vectors[:, keep] / np.sqrt(values[keep])) @ vectors[:, keep].T
    upper_inverse = np.linalg.pinv(upper)
    whitened = cross @ root_inverse
    u, s, vt = np.linalg.svd(upper @ (upper_inverse @ whitened))
    regression = whitened @ root_inverse
    s2ft = np.zeros_like(weight)
    s2ft[:r] = np.linalg.pinv(upper[:, :r]) @ regression
    updates = [upper_inverse @ (u[:, :r] * s[:r]) @ vt[:r] @ root_inverse, s2ft, upper_inverse @ regression]
    found = []
    for update in updates:
        product = upper @ (weight + update) @ lower
        for other, covariance in (train, test):
            gap = other - product
            found.append(np.trace(gap @ covariance @ gap.T))
    return found


def looped(net: ln.DeepLinearNetwork, shift: ln.Shift, r: int) -> np.ndarray:
    train, test = ((task.coef, task.signal_cov) for task in (shift.train, shift.test))
    batch = range(len(shift.train.coef))
    return np.array(
        [script([w[i] for w in net.weights], [a[i] for a in train], [a[i] for a in test], r) for i in batch]
    )


def judged(net: ln.DeepLinearNetwork, shift: ln.Shift, width: int) -> np.ndarray:
    """Return what the script does, by linnet."""
    net, shift = replace(net), ln.Shift(replace(shift.train), replace(shift.test))
    problem = ln.LayerProblem(net, LAYER, shift.train.moments())
    found = []
    for method in methods(width).values():
        after = net.updated(method.solve(problem))
        found += [ln.excess_risk(after, shift.train), ln.excess_risk(after, shift.test)]
    return np.stack(found, axis=-1)


def against_loop(width: int, batch: int, rounds: int, clock: Clock = time.perf_counter) -> Iterator[Row]:
    net, train = drawn(width, batch, None)
    shift = ln.Shift.both(train, 0.5, 0.5, rng=np.random.default_rng(width))
    r = methods(width)["LoRA"].rank
    residual = ln.LayerProblem(net, LAYER, train.moments()).residual
    works = {
        "linnet": lambda: judged(net, shift, width),
        "loop": lambda: looped(net, shift, r),
        "SVD": lambda: np.linalg.svd(residual),
    }
    taken = measuring.in_turn(works, rounds, clock=clock)
    scale = np.stack([ln.excess_risk(net, shift.train), ln.excess_risk(net, shift.test)] * 3, axis=-1)
    apart = np.max(np.abs(judged(net, shift, width) - looped(net, shift, r)) / scale, axis=-1)
    # eps times the Gram matrix's condition number is what the script's formulas may lose.
    gram = ln.LayerProblem(net, LAYER, train.moments()).gram
    comparable = np.finfo(float).eps * np.linalg.cond(gram) <= TOLERANCE
    about = {"method": "all three", "network": called(None), "width": width, "batch": batch}
    differ = {"comparable": float(np.mean(comparable)), "apart_of_all": float(np.max(apart))}
    differ["apart"] = float(np.max(apart, where=comparable, initial=0.0))
    yield row(taken, "loop", against="NumPy loop", over_svd=measuring.ratio(taken, "loop", "SVD"), **differ, **about)


# --- scikit-learn ---------------------------------------------------------------------------------


def against_sklearn(width: int, batch: int, n: int, rounds: int, clock: Clock = time.perf_counter) -> Iterator[Row]:
    """Yield the row of ``batch`` regressions on ``n`` samples each, of ``width`` inputs and outputs."""
    from sklearn.linear_model import LinearRegression

    rng = np.random.default_rng(width)
    net = ln.DeepLinearNetwork.random([width] * 2, rng=rng)
    x = rng.normal(size=(batch, n, width))
    y = x @ rng.normal(size=(batch, width, width)) / np.sqrt(width) + 0.1 * rng.normal(size=(batch, n, width))
    if batch == 1:
        x, y = x[0], y[0]

    def ours() -> np.ndarray:
        fresh = replace(net)
        return fresh.updated(ln.FullFT().solve(ln.LayerProblem(fresh, 0, ln.Moments.from_data(x, y)))).weights[0]

    def theirs() -> np.ndarray:
        if batch == 1:
            return LinearRegression(fit_intercept=False).fit(x, y).coef_
        return np.stack([LinearRegression(fit_intercept=False).fit(*one).coef_ for one in zip(x, y, strict=True)])

    taken = measuring.in_turn({"linnet": ours, "scikit-learn": theirs}, rounds, clock=clock)
    apart = float(np.max(np.abs(ours() - theirs())) / np.max(np.abs(theirs())))
    about = {"method": "full FT", "network": "one layer", "width": width, "batch": batch, "n": n}
    yield row(taken, "scikit-learn", against="scikit-learn", apart=apart, **about)


# --- what is kept and said ------------------------------------------------------------------------


def row(
    taken: measuring.Taken,
    other: str,
    own: str = "linnet",
    *,
    gradients: Sequence[float] | None = None,
    **about: Any,
) -> Row:
    """Return the row of an alternative: seconds, how many times linnet's they are, and who got to the goal."""
    reached = None if gradients is None else float(np.mean(np.isfinite(gradients)))
    middle = None if gradients is None else float(np.median(gradients))
    return {
        **about,
        "linnet_seconds": median(taken[own]),
        "other_seconds": median(taken[other]),
        "ratio": measuring.ratio(taken, other, own),
        "reached": reached,
        "median_gradients": middle if middle is not None and np.isfinite(middle) else None,
    }


def is_bound(row: Row) -> bool:
    """Return whether the ratio of this row is a lower bound: some problem did not get to the goal."""
    return row["reached"] is not None and row["reached"] < 1


def show(row: Row) -> None:
    digits = 1 if row["ratio"]["median"] < 100 else 0
    ratio = ("more than " if is_bound(row) else "") + measuring.shown(row["ratio"], digits)
    there = "" if row["reached"] is None else f"{row['reached']:.0%} at the goal"
    there += "" if row.get("median_gradients") is None else f", median {row['median_gradients']:.0f} gradients"
    there += f"apart {row['apart']:.0e}" if "apart" in row else ""
    there += f" on {row['comparable']:.1%}, {row['apart_of_all']:.0e} on all" if "comparable" in row else ""
    there += f", {measuring.shown(row['over_svd'], 1)} times one SVD of all" if "over_svd" in row else ""
    there += f", by {row['optimiser']}" if "optimiser" in row else ""
    there += f", median condition {row['hessian']:.0e}" if "hessian" in row else ""
    print(
        f"{row['against']:<25} {row['method']:<9} {row['network']:<15} {row['width']:5d} {row['batch']:6d} "
        f"{row['linnet_seconds']:10.3g} {row['other_seconds']:10.3g}  {ratio:<28} {there}",
        flush=True,
    )


def stated(rows: Sequence[Row]) -> Iterator[Target]:
    """Yield what was to be reached: of the widths the worst counts."""
    descents = [r for r in rows if r["against"] == "gradient descent"]
    for network, method in dict.fromkeys((r["network"], r["method"]) for r in descents):
        found = [r for r in descents if (r["network"], r["method"]) == (network, method)]
        worst = min(found, key=lambda r: r["ratio"]["median"])
        bound = ", a lower bound" if is_bound(worst) else ""
        what = f"gradient descent over linnet, {method}, {network}, width {worst['width']}{bound}"
        yield Target(what, worst["ratio"]["median"], 1e3, "at least", bounded=is_bound(worst))
    for r in rows:
        if r["against"] == "NumPy loop" and r["width"] == 8:
            yield Target("NumPy loop over linnet, width 8", r["ratio"]["median"], 20, "at least")
    for against, what in (("NumPy loop", "risks, where comparable,"), ("scikit-learn", "coefficients")):
        apart = [r["apart"] for r in rows if r["against"] == against]
        yield Target(f"{against}: {what} differ from linnet's by, relative", max(apart), TOLERANCE)


def guarded() -> dict[str, float]:
    """Return linnet's time over that of alternatives, of which a few problems, or steps, are enough here.

    In seconds of the processor: a guard is to see the code, and not what else runs on its machine.
    """
    found = {}
    for width, batch in ((8, 300), (32, 40)):
        (kept,) = against_loop(width, batch, 9, time.process_time)
        found[f"linnet over NumPy loop, width {width}"] = 1 / kept["ratio"]["median"]
    (kept,) = against_sklearn(8, 200, 80, 9, time.process_time)
    found["linnet over scikit-learn, width 8"] = 1 / kept["ratio"]["median"]
    net, task = drawn(8, 300, None)
    for name, method in methods(8).items():
        found[f"linnet over 300 steps of descent, {name}"] = over_steps(net, task, method, 300)
    return found


def over_steps(net: ln.DeepLinearNetwork, task: ln.Regression, method: ln.Method, most: int) -> float:
    """Return linnet's time over that of ``most`` steps of descent, which no problem is spared."""
    f = facing(net, task, method)
    f = f._replace(goal=-np.ones_like(f.goal), step=np.zeros_like(f.step))  # nothing gets there, nothing overflows
    factors = start(f, method)
    works = {"linnet": lambda: solved(net, task, method), "steps": lambda: descended(factors, f, most)}
    return measuring.ratio(measuring.in_turn(works, 9, clock=time.process_time), "linnet", "steps")["median"]


def figure(results: Mapping[str, Any]) -> Any:
    """Draw how many times linnet's time each alternative takes, by width: a panel a network, and one for the rest.

    Arrows stand on lower bounds; dotted lines are what was to be reached.
    """
    from linnet import plots

    rows = [r for r in results["rows"] if r["against"] != "torch, linnet one by one"]
    iterative = [r for r in rows if r["reached"] is not None]
    widths = sorted({r["width"] for r in iterative})
    shown = {name: [r for r in iterative if r["network"] == name] for name in dict.fromkeys(r["network"] for r in rows)}
    shown = {name: found for name, found in shown.items() if found}
    shown["direct"] = [r for r in rows if r["reached"] is None and r["width"] in widths]
    titles = {"random": "random networks", "direct": "direct solutions"}
    descents, others = ["LoRA", "S2FT", "full FT"], ["LoRA by torch", "NumPy loop", "scikit-learn"]
    with plots.style():
        picture, axes = plots.panels(len(shown), height=2.6, sharey=True)
        handles = {}
        for ax, (network, found) in zip(axes, shown.items(), strict=True):
            beside = others[1:] if network == "direct" else [*descents, others[0]]
            for r in found:
                name = {"gradient descent": r["method"], "torch": others[0]}.get(r["against"], r["against"])
                colour, marker = plots.look(name, descents + others)
                x = widths.index(r["width"]) + 0.2 * (beside.index(name) - (len(beside) - 1) / 2)
                y = r["ratio"]["median"]
                label = f"{name} by gradient descent" if name in descents else name
                (handles[label],) = ax.plot([x], [y], marker, color=colour, markeredgewidth=0)
                if is_bound(r):
                    arrow = {"arrowstyle": "->", "color": colour, "linewidth": 0.8, "shrinkA": 2, "shrinkB": 0}
                    ax.annotate("", (x, 3 * y), (x, y), arrowprops=arrow)
            goal, until = (
                (20, 0.5) if network == "direct" else (1e3, len(widths) - 0.4)
            )  # the loop's is of width 8 alone
            ax.hlines(goal, -0.6, until, color="0.4", linestyle=":", linewidth=1, zorder=1)
            ax.set(yscale="log", title=titles.get(network, network), xlabel="width", xlim=(-0.6, len(widths) - 0.4))
            ax.set_xticks(range(len(widths)), [str(w) for w in widths])
            ax.grid(visible=False, axis="x")
        axes[0].set_ylabel("time over linnet's")
        # Arrows are no data to the axes, which would leave no room for them.
        top = max(r["ratio"]["median"] * (4 if is_bound(r) else 1.5) for r in rows)
        axes[0].set_ylim(top=max(top, 2e3))
        picture.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    return picture


# --- main -----------------------------------------------------------------------------------------


def measured(o: argparse.Namespace) -> Iterator[Row]:
    def sized(problems: int, width: int) -> int:
        return max(1, problems * 64 // width**2)

    networks = [*o.conditions, None]
    for width in o.widths:
        yield from against_loop(width, sized(o.batch, width), o.rounds)
    for width in o.widths:
        yield from against_sklearn(width, sized(o.batch, width), 10 * width, o.rounds)
    for width in o.large:
        yield from against_sklearn(width, 1, o.samples, o.slow)
    for condition, width in itertools.product(networks, o.widths):
        yield from against_descent(width, sized(o.descents, width), condition, o.most, o.slow)
    for condition, width in itertools.product(networks, o.widths):
        yield from against_torch(width, o.few, condition, o.torch_most, o.slow)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--conditions", type=float, nargs="*", default=[1e2, 1e4], help="of the tame networks")
    parser.add_argument(
        "--batch", type=int, default=1000, help="problems of width 8 for the loop and scikit-learn; fewer at others"
    )
    parser.add_argument("--descents", type=int, default=128, help="problems of width 8 for descent; fewer at others")
    parser.add_argument("--most", type=int, default=200_000, help="steps of descent")
    parser.add_argument("--few", type=int, default=3, help="problems for torch")
    parser.add_argument("--torch-most", type=int, default=3_000, help="gradients in torch")
    parser.add_argument("--large", type=int, nargs="*", default=[64, 512], help="widths of one problem on --samples")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--slow", type=int, default=3, help="rounds with descent and with torch")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="tiny sizes; written only to --out")
    o = parser.parse_args()
    if o.quick:
        sizes = {"widths": [8], "conditions": [1e2], "batch": 50, "descents": 10, "most": 2000, "few": 1}
        vars(o).update(sizes, torch_most=300, large=[16], samples=500, rounds=3, slow=1)
    on = measuring.here("torch", "scikit-learn")
    rows = []
    print(f"{'against':<25} {'method':<9} {'network':<15} width  batch   linnet s    other s  times linnet's")
    for found in measured(o):
        show(found)
        rows.append(found)
    measuring.keep(NAME, o, on, list(stated(rows)), {"rows": rows}, figure)


if __name__ == "__main__":
    main()
