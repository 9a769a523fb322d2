"""Orders and expectations: claims about what happens as a sample, or a width, grows.

A claim over a ``Ladder`` gives, for a batch of realisations at one size, what is observed and what is stated.
Observed is averaged over the realisations, or taken at its 95 % quantile where the claim says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from linnet.errors import ClaimError, DataError
from linnet.trials.algebra import FloatMatrix
from linnet.trials.claim import ORDERS, Claim, Comparison, Hypothesis, Relation
from linnet.trials.climb import LIMIT
from linnet.trials.evaluate import evaluate
from linnet.trials.settings.base import Ladder, Raw

T = TypeVar("T")

STEPS = 13
"""Sizes of a ladder, over two decades."""

DRIFT = 0.05
"""An exponent is said to miss the stated one if its interval stays farther away than this."""

SIGMAS = 4.0
"""Half width of the interval of an exponent, in standard errors of the fit."""

STANDARD_ERRORS, CONFIRMED = 5.0, 6.0
"""Distance of a mean from what is stated that makes a suspect; that confirms it on fresh realisations."""

FINE = 0.1
"""A mean whose standard error is above this share of what is stated decides nothing."""

RAY, GROWTH, STEADY, BEYOND, BEYOND_PLAIN = 5, 1.25, 0.7, 100.0, 3.0
"""A ratio has no bound along a ray if over so many steps it grows at least so much with each, the last step's
growth is no less than this share of the largest, and it ends so many times above every ratio of its kind: of
instances drawn, or of plain ones.
"""


SAME, FEW, WIDER, LAST = 8, 16, 0.15, 0.9
"""At each dimension the ratios of so many instances are averaged, of so many realisations each; a ratio has no bound
in the dimension if it grows with a power of it above the third, no more slowly in the second half of the row, and in
its last step by no less than this share of the first one.
"""

DIMENSION = "dimension"

ROUNDING = 1e-10
"""Means that differ by less than this share of the instance's scale are equal."""

DIGITS = 1e-12
"""Means of values without any spread are equal if they differ by less than this share of themselves."""

TINY = 1e-18
"""An observed square below this share of the instance's scale is rounding, squared."""

LARGEST = 1e18
"""Sizes above this are left alone."""

STRIDES = (4.0, 1.8)
"""Length of a ray's step for a whole matrix, and for one singular value: larger condition numbers are soon no
longer clear to float64, their squares even less.
"""

LOST = 0.02
"""Share of realisations without a value in float64 from which a size does not count."""

QUANTILE = 0.95

UNCLEAR = 0.3
"""A mean whose standard error is above this share of it says nothing of an order."""

LEAST = 64
"""Realisations at each size that a record of a fit must have, but for those in the dimension."""


@dataclass(frozen=True)
class Point:
    """An instance of a ladder: its shape and free parameters, a batch of one."""

    shape: Any
    raw: Raw


@dataclass(frozen=True)
class Course:
    """One comparison along a ladder: observed, its standard error, and stated, at each of ``sizes``.

    ``unit`` is the scale of the instance, on which rounding enters.
    """

    point: Point
    index: int
    sizes: np.ndarray
    observed: np.ndarray
    error: np.ndarray
    stated: np.ndarray
    unit: np.ndarray
    relation: Relation

    @property
    def ratio(self) -> np.ndarray:
        """Observed over stated."""
        return self.observed / self.stated

    @property
    def first(self) -> Measured:
        """What was measured at the first size."""
        numbers = (float(v[0]) for v in (self.observed, self.error, self.stated, self.unit))
        observed, error, stated, unit = numbers
        return Measured(observed, error, stated, unit, self.relation)

    @property
    def is_nothing(self) -> bool:
        """Whether what is observed is no more than rounding at some size."""
        return bool(np.any(np.abs(self.observed) <= TINY * self.unit))

    @property
    def is_unclear(self) -> bool:
        """Whether the mean of what is observed, at some size, is not known well enough to have a logarithm."""
        return bool(np.any((self.observed <= 0) | (self.error > UNCLEAR * self.observed)))

    def exponent(self) -> tuple[float, float]:
        """Exponent of what is observed in the size, and its standard error."""
        return slope(self.sizes, self.observed)

    def claimed(self) -> float:
        """Exponent of what is stated over the same sizes."""
        return slope(self.sizes, self.stated)[0]

    def drift(self) -> tuple[float, float]:
        """Interval of the exponent of observed over stated."""
        fit, error = slope(self.sizes, self.ratio)
        return fit - SIGMAS * error, fit + SIGMAS * error

    def misses(self, relation: str) -> bool:
        """Whether the drift contradicts an order: upwards, or for ``~`` either way."""
        low, high = self.drift()
        return low > DRIFT or (relation == "~" and high < -DRIFT)


@dataclass(frozen=True)
class Outcome:
    """What a trial of an order or an expectation found.

    Attributes:
        broken: a course, or a ray's courses, that contradict the claim; None if it stands.
        constant: largest observed over stated. courses: how many counted. realisations: how many were drawn.
        exponent, interval, claimed: of an order: common slope over all courses, its interval, what is stated.
        deviation: of an expectation: farthest mean from what is stated, in standard errors.
        worst: the course of the largest ratio, or of the farthest mean.
    """

    courses: int
    realisations: int
    constant: float
    broken: dict[str, Any] | None = None
    exponent: float | None = None
    interval: tuple[float, float] | None = None
    claimed: float | None = None
    deviation: float | None = None
    margin: float = 0.0
    worst: Point | None = None


@dataclass(frozen=True)
class Measured:
    """One comparison at one size; see ``Course``."""

    observed: float
    error: float
    stated: float
    unit: float
    relation: Relation

    @property
    def size(self) -> float:
        """Size of the two sides."""
        return max(abs(self.observed), abs(self.stated))

    @property
    def off(self) -> float:
        """How far observed is on the wrong side of stated."""
        gap = self.observed - self.stated
        return abs(gap) if self.relation == "==" else gap if self.relation in ("<=", "<") else -gap

    @property
    def distance(self) -> float:
        """The same in standard errors, or where there are none in units of rounding."""
        return self.off / max(self.error, ROUNDING * self.unit, DIGITS * self.size, 1e-300)


def _course(point: Point, index: int, sizes: np.ndarray, found: Sequence[Measured]) -> Course:
    observed, error, stated, unit = (
        np.array([getattr(m, name) for m in found]) for name in ("observed", "error", "stated", "unit")
    )
    return Course(point, index, sizes, observed, error, stated, unit, found[0].relation)


class Runner:
    """Measures a claim along ladders."""

    def __init__(self, claim: Claim, hypotheses: Sequence[Hypothesis], rng: np.random.Generator) -> None:
        assert isinstance(claim.setting, Ladder)
        self.claim, self.hypotheses, self.rng = claim, hypotheses, rng
        self.setting: Ladder = claim.setting
        self.imposed = frozenset(h.impose for h in hypotheses if h.impose)
        self.quantile = any(h is getattr(self.setting, "likely", None) for h in hypotheses)
        self.realisations = 0
        self._last: tuple[Point, Any] | None = None

    def points(self, wanted: int) -> Iterator[Point]:
        """Draw instances that meet the hypotheses."""
        found = 0
        for attempt in range(40 * wanted):
            shape = self.setting.random_shape(self.rng)
            if not all(h.shape is None or h.shape(shape) for h in self.hypotheses):
                continue
            kind = self.setting.kinds[attempt % len(self.setting.kinds)]
            point = Point(shape, self.setting.draw(shape, kind, 1, self.rng))
            if self.admits(point):
                found += 1
                yield point
            if found == wanted:
                break

    def base(self, point: Point) -> Any:
        """What stays the same along the ladder; of the last point it is remembered."""
        if self._last is None or self._last[0] is not point:
            self._last = point, self.setting.float_view(point.shape, point.raw, self.imposed)
        return self._last[1]

    def admits(self, point: Point) -> bool:
        """Whether an instance meets the hypotheses, by the tolerances of every trial."""
        nothing = replace(self.claim, function=lambda _: (0.0, "<=", 1.0))
        meets = evaluate(nothing, self.base(point), self.hypotheses, 1).valid[0]
        return bool(meets) and bool((self.sizes(point, STEPS) <= LARGEST).all())

    def sizes(self, point: Point, count: int) -> np.ndarray:
        """Sizes of the instance's ladder."""
        with np.errstate(all="ignore"):
            return self.setting.sizes(self.base(point), count, self.imposed)

    def courses(self, point: Point, sizes: np.ndarray, replicates: int) -> list[Course]:
        """Measure every comparison of the claim along ``sizes``; nothing where a size has no value."""
        rows = []
        for n in sizes:
            found = self.measure(point, int(n), replicates)
            if found is None:
                return []
            rows.append(found)
        return [_course(point, j, np.asarray(sizes, float), each) for j, each in enumerate(zip(*rows, strict=True))]

    def measure(self, point: Point, n: int, replicates: int) -> list[Measured] | None:
        """Measure each comparison at one size; None if it has no value there."""
        self.realisations += replicates
        with np.errstate(all="ignore"):
            known = self.base(point)
            view = self.setting.at(point.shape, point.raw, self.imposed, n, replicates, self.rng, known)
            unit = float(np.max(view.scale))
            return self._summaries(self.claim.comparisons(view), unit, replicates)

    def _summaries(self, comparisons: Sequence[Comparison], unit: float, count: int) -> list[Measured] | None:
        out = []
        for c in comparisons:
            if isinstance(c.observed, FloatMatrix) or isinstance(c.stated, FloatMatrix):
                raise ClaimError(f"{self.claim.id}: matrices compared in expectation; compare numbers")
            observed = np.broadcast_to(np.asarray(c.observed, float), (count,))
            stated = np.broadcast_to(np.asarray(c.stated, float), (count,))
            good = np.isfinite(observed) & np.isfinite(stated)
            if good.mean() < 1 - LOST:
                return None
            observed, stated = observed[good], stated[good]
            error = float((observed - stated).std(ddof=1) / np.sqrt(len(observed))) if len(observed) > 1 else 0.0
            typical = np.quantile(observed, QUANTILE) if self.quantile else observed.mean()
            out.append(Measured(float(typical), error, float(stated.mean()), unit, c.relation))
        return out


def slope(sizes: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return exponent b of ``values ~ sizes^b`` by least squares on logarithms, and its standard error."""
    (b, _), covariance = np.polyfit(np.log(sizes), np.log(values), 1, cov=True)
    return float(b), float(np.sqrt(covariance[0, 0]))


def try_order(runner: Runner, ladders: int, replicates: int, steps: int) -> Outcome:
    """Fit exponents along ladders of many instances, climb to the largest ratio, and follow rays from there."""
    relation = runner.claim.relation
    seen: list[Course] = []
    unclear = 0
    for point in runner.points(ladders):
        for course in runner.courses(point, runner.sizes(point, STEPS), replicates):
            if course.is_nothing:
                continue  # no order to fit
            if course.is_unclear:
                unclear += 1
                continue
            if np.any(course.stated <= 0):
                return replace(_summary(runner, [course], None), broken=record(runner, [course], replicates))
            seen.append(course)
            if course.misses(relation) and (broken := _confirm(runner, course, replicates)):
                return _summary(runner, [*seen, broken], record(runner, [broken], 4 * replicates))
    if len(seen) < unclear:  # most of what was drawn was left out, and what is left was chosen by its noise
        return Outcome(0, runner.realisations, 0.0)
    if not seen:
        return Outcome(0, runner.realisations, 0.0)
    worst = max(seen, key=lambda c: float(c.ratio.max()))
    if relation == "~" or any(h is getattr(runner.setting, "per_problem", None) for h in runner.hypotheses):
        return _summary(runner, seen, None)  # the constant may be anything: there is nothing to climb
    tops: list[Course] = []
    starts: list[Course] = []
    highest: dict[int, float] = {}
    for index in sorted({c.index for c in seen}):
        mine = sorted((c for c in seen if c.index == index), key=lambda c: -float(c.ratio[0]))
        climbed = [_climb(runner, start, steps, replicates) for start in mine[: max(1, ladders // 8)]]
        tops += climbed
        highest[index] = float(mine[0].ratio[0])
        starts += [*climbed, *mine[: max(1, ladders // 8)]]
    # From what was climbed and drawn, and from plain instances: where all is near the limits of float64
    # already, little more has a value there.
    ray = _rays(runner, [c.point for c in starts], replicates, {i: BEYOND * most for i, most in highest.items()})
    if not ray:
        plain = list(_plain(runner, max(2, ladders // 4), replicates))
        most = {i: max((_start_ratio(c, i) for c in plain), default=0.0) for i in highest}
        points = [courses[0].point for courses in plain]
        ray = _rays(runner, points, replicates, {i: BEYOND_PLAIN * m for i, m in most.items()})
    wider = not ray
    if wider:
        ray = _wider(runner, max(1, ladders // 4 - 1), sorted(highest))
    top = max(tops, key=lambda c: float(c.ratio[0]))
    constant = max(float(c.ratio.max()) for c in (worst, *tops, *ray))
    contradiction = record(runner, ray, FEW if wider else replicates) if ray else None
    if contradiction and wider:
        contradiction["along"] = DIMENSION
    out = _summary(runner, seen, contradiction)
    return replace(out, constant=constant, worst=top.point)


def _start_ratio(courses: Sequence[Course], index: int) -> float:
    """Ratio of one comparison at the first size; 0 where there is none."""
    course = courses[index]
    nothing = course.is_nothing or course.is_unclear or not course.stated[0] > 0
    return 0.0 if nothing else float(course.ratio[0])


def _confirm(runner: Runner, course: Course, replicates: int) -> Course | None:
    """Look again, with fresh realisations, at larger and larger sizes: all of them must miss.

    What looks like an exponent over two decades may be the way from one plateau to the next, which
    close singular values or little noise make long.
    """
    last, looks = None, 0
    for further in runner.setting.onwards:
        sizes = np.unique(np.round(course.sizes * further))
        if sizes[-1] > LARGEST:
            break
        again = runner.courses(course.point, sizes, 4 * replicates)
        if not again or again[course.index].is_nothing or not again[course.index].misses(runner.claim.relation):
            return None
        last, looks = again[course.index], looks + 1
    return last if looks >= min(2, len(runner.setting.onwards)) else None


def _climb(runner: Runner, start: Course, steps: int, replicates: int) -> Course:
    """Raise the ratio at the first size."""

    def ratio(point: Point) -> tuple[float, Course] | None:
        found = runner.courses(point, runner.sizes(point, STEPS)[:1], replicates)
        if not found or not _start_ratio(found, start.index) > 0:
            return None
        return float(found[start.index].ratio[0]), found[start.index]

    return _ascend(runner, start.point, (float(start.ratio[0]), start), ratio, steps)[1]


def _ascend(
    runner: Runner,
    point: Point,
    now: tuple[float, T],
    height: Callable[[Point], tuple[float, T] | None],
    steps: int,
) -> tuple[float, T]:
    """Climb by random changes of some entries; return the largest height and what came with it."""
    rng, length = runner.rng, 0.4
    for _ in range(steps):
        raw = {}
        for k, v in point.raw.items():
            chosen = rng.random(v.shape) < rng.choice([0.2, 1.0])
            size = 0.1 + np.abs(v).max(initial=0)
            raw[k] = np.clip(v + chosen * length * size * rng.normal(size=v.shape), -LIMIT, LIMIT)
        near = Point(point.shape, raw)
        if not runner.admits(near):
            continue
        found = height(near)
        if found is not None and found[0] > now[0]:
            point, now = near, found
            length = min(1.0, 1.3 * length)
        else:
            length = max(0.02, 0.93 * length)
    return now


def _plain(runner: Runner, wanted: int, replicates: int) -> Iterator[list[Course]]:
    """Yield well-conditioned instances, measured at the first size: all singular values between 1/2 and 2."""
    for _ in range(20 * wanted):
        if wanted == 0:
            break
        shape = runner.setting.random_shape(runner.rng)
        if not all(h.shape is None or h.shape(shape) for h in runner.hypotheses):
            continue
        raw = {}
        for name, (m, n) in runner.setting.parameters(shape).items():
            u, _, vt = np.linalg.svd(runner.rng.normal(size=(m, n)), full_matrices=False)
            raw[name] = ((u * runner.rng.uniform(0.5, 2.0, size=u.shape[1])) @ vt)[None]
        point = Point(shape, raw)
        if not runner.admits(point):
            continue
        found = runner.courses(point, runner.sizes(point, STEPS)[:1], replicates)
        if any(_start_ratio(found, c.index) > 0 for c in found):
            wanted -= 1
            yield found


def _wider(runner: Runner, rows: int, indices: Sequence[int]) -> list[Course]:
    """Let dimensions double, of instances as even as can be.

    Returns one course for each dimension, of a comparison whose ratio grows with the dimension without slowing down;
    it must do so again on fresh instances.
    """
    chains = (
        chain
        for chain in runner.setting.growing()
        if all(h.shape is None or all(map(h.shape, chain)) for h in runner.hypotheses)
    )
    for chain in islice(chains, rows):
        along = _along_dimensions(runner, chain)
        for i in indices:
            if _keeps_growing(along, i) and _keeps_growing(_along_dimensions(runner, chain), i):
                return [sorted(found, key=lambda c: float(c[i].ratio[0]))[len(found) // 2][i] for found in along]
    return []


def _along_dimensions(runner: Runner, chain: Sequence[Any]) -> list[list[list[Course]]]:
    """For each shape of a row the courses of ``SAME`` instances, as far as they have some."""
    return [[c for _ in range(SAME) if (c := _even_courses(runner, shape, FEW))] for shape in chain]


def _keeps_growing(along: Sequence[Sequence[Sequence[Course]]], index: int) -> bool:
    """Whether the mean logarithm of a comparison's ratio grows with the logarithm of the dimension, to the end."""
    means = []
    for found in along:
        ratios = [r for courses in found if (r := _start_ratio(courses, index)) > 0]
        if len(ratios) < SAME // 2:
            return False
        means.append(float(np.mean(np.log2(ratios))))
    half = len(means) // 2
    early, late = (means[half] - means[0]) / half, (means[-1] - means[half]) / (len(means) - 1 - half)
    power = float(np.polyfit(np.arange(len(means)), means, 1)[0])
    # A ratio that rises to a bound slows down, if not by half of the row, then from its first step to its last.
    steady = means[-1] - means[-2] > LAST * (means[1] - means[0])
    return min(power, late) > WIDER and late > STEADY * early and steady


def _even_courses(runner: Runner, shape: Any, replicates: int) -> list[Course]:
    """Measure one even instance of a shape at the first size; nothing where it misses a hypothesis."""
    point = Point(shape, runner.setting.even(shape, runner.rng))
    return runner.courses(point, runner.sizes(point, STEPS)[:1], replicates) if runner.admits(point) else []


def _rays(runner: Runner, points: Sequence[Point], replicates: int, most: Mapping[int, float]) -> list[Course]:
    """Follow rays on which a matrix, or one singular value of it, shrinks or grows, from each of ``points``.

    Returns the courses of the first one along which the ratio of a comparison grows without slowing down, beyond
    what ``most`` says of it: a ratio that merely rises to its bound slows down on the way, or stays below what was
    drawn elsewhere.
    """
    for point in {id(p.raw): p for p in points}.values():
        start = runner.courses(point, runner.sizes(point, STEPS)[:1], replicates)
        for name, value in sorted(point.raw.items()):
            for part, stride in _parts(value[0]):
                for sign in (-1, 1):
                    scales = [stride ** (sign * step) - 1 for step in range(1, RAY + 1)]
                    along = [Point(point.shape, point.raw | {name: value + scale * part}) for scale in scales]
                    found = _follow(runner, start, along, replicates, most)
                    if found:
                        return found
    return []


def _follow(
    runner: Runner, start: Sequence[Course], along: Sequence[Point], replicates: int, most: Mapping[int, float]
) -> list[Course]:
    """Measure the points of a ray as long as some comparison's ratio grows; return one that does so to its end."""
    growing = {i: [start[i]] for i in most if start and _start_ratio(start, i) > 0}
    for point in along:
        courses = runner.courses(point, runner.sizes(point, STEPS)[:1], replicates) if runner.admits(point) else []
        growing = {
            i: [*found, courses[i]]
            for i, found in growing.items()
            if courses and _start_ratio(courses, i) > GROWTH * found[-1].ratio[0]
        }
        if not growing:
            return []
    for i, found in growing.items():
        if _grows(found) and found[-1].ratio[0] > most[i]:
            return found
    return []


def _grows(courses: Sequence[Course]) -> bool:
    """Whether the first ratios of courses along a ray grow at every step, and no more slowly at the end."""
    steps = np.diff(np.log([float(c.ratio[0]) for c in courses]))
    return bool(steps.min() > np.log(GROWTH) and steps[-1] > STEADY * steps.max())


def _parts(value: np.ndarray) -> Iterator[tuple[np.ndarray, float]]:
    """The matrix, and each of its singular directions, with the length of a step."""
    yield value, STRIDES[0]
    u, s, vt = np.linalg.svd(value, full_matrices=False)
    for j in range(len(s) if len(s) > 1 else 0):
        yield s[j] * np.outer(u[:, j], vt[j]), STRIDES[1]


def _summary(runner: Runner, seen: Sequence[Course], broken: dict[str, Any] | None) -> Outcome:
    good = [c for c in seen if not c.is_nothing and np.all(c.stated > 0)]
    if not good:
        return Outcome(len(seen), runner.realisations, float("inf"), broken)
    worst = max(good, key=lambda c: float(c.ratio.max()))
    x = np.concatenate([np.log(c.sizes) - np.log(c.sizes).mean() for c in good])
    fits = {}
    for what in ("observed", "stated"):
        y = np.concatenate([np.log(getattr(c, what)) - np.log(getattr(c, what)).mean() for c in good])
        b = float(x @ y / (x @ x))
        fits[what] = b, float(np.sqrt(np.sum((y - b * x) ** 2) / max(1, len(x) - len(good) - 1) / (x @ x)))
    b, error = fits["observed"]
    return Outcome(
        courses=len(seen),
        realisations=runner.realisations,
        constant=float(worst.ratio.max()),
        broken=broken,
        exponent=b,
        interval=(b - 2 * error, b + 2 * error),
        claimed=fits["stated"][0],
        worst=worst.point,
    )


@dataclass(frozen=True)
class Mean:
    """One comparison of means at one size of one instance."""

    point: Point
    index: int
    n: int
    measured: Measured


def try_expectation(runner: Runner, ladders: int, replicates: int, steps: int) -> Outcome:
    """Hold means against what is stated, to their standard errors: at the ends of ladders drawn, then climbing."""
    seen: list[Mean] = []
    for point in runner.points(ladders):
        for n in runner.sizes(point, STEPS)[::12]:
            for found in _means(runner, point, int(n), replicates):
                seen.append(found)
                if broken := _off(runner, found, replicates):
                    return _expectation(runner, [*seen, broken], _record_of_mean(runner, broken, replicates))
    # Each comparison from where it is farthest off, of those that can still be missed by luck.
    farthest: dict[tuple[int, int], Mean] = {}
    for found in seen:
        key = id(found.point.raw), found.index
        if key not in farthest or found.measured.distance > farthest[key].measured.distance:
            farthest[key] = found
    for start in sorted(farthest.values(), key=lambda m: -m.measured.distance)[: max(2, ladders // 8)]:

        def distance(point: Point, start: Mean = start) -> tuple[float, Mean] | None:
            n = int(runner.sizes(point, STEPS)[0])
            here = [m for m in _means(runner, point, n, replicates) if m.index == start.index]
            return (here[0].measured.distance, here[0]) if here else None

        top = _ascend(runner, start.point, (start.measured.distance, start), distance, steps)[1]
        seen.append(top)
        if broken := _off(runner, top, replicates):
            return _expectation(runner, [*seen, broken], _record_of_mean(runner, broken, replicates))
    return _expectation(runner, seen, None)


def _means(runner: Runner, point: Point, n: int, replicates: int) -> Iterator[Mean]:
    """Yield the comparisons whose means are known well enough to decide something."""
    found = runner.measure(point, n, replicates) or []
    if any(m.error > FINE * m.size and m.size > ROUNDING * m.unit for m in found):
        found = runner.measure(point, n, 4 * replicates) or []
    for j, m in enumerate(found):
        if m.error <= FINE * m.size and m.size > ROUNDING * m.unit:
            yield Mean(point, j, n, m)


def _off(runner: Runner, found: Mean, replicates: int) -> Mean | None:
    """Return a mean that is off, measured again: on 16 times as many fresh realisations it must be off by more."""
    if found.measured.distance <= STANDARD_ERRORS:
        return None
    again = runner.measure(found.point, found.n, 16 * replicates)
    if not again or again[found.index].distance <= CONFIRMED:
        return None
    return replace(found, measured=again[found.index])


def _record_of_mean(runner: Runner, found: Mean, replicates: int) -> dict[str, Any]:
    """Write down a mean that contradicts a claim."""
    course = _course(found.point, found.index, np.array([float(found.n)]), [found.measured])
    return record(runner, [course], 16 * replicates)


def _expectation(runner: Runner, seen: Sequence[Mean], broken: dict[str, Any] | None) -> Outcome:
    if not seen:
        return Outcome(0, runner.realisations, 0.0, broken, deviation=0.0, margin=-np.inf)
    worst = seen[-1] if broken else max(seen, key=lambda m: m.measured.distance)
    ratios = [m.measured.observed / m.measured.stated for m in seen if m.measured.stated > 0]
    return Outcome(
        len(seen),
        runner.realisations,
        max(ratios, default=0.0),
        broken,
        deviation=worst.measured.distance,
        margin=max(m.measured.off / m.measured.size for m in seen),
        worst=worst.point,
    )


# --- certificates: what was fitted, and how to fit it again --------------------------------------


def record(runner: Runner, courses: Sequence[Course], replicates: int) -> dict[str, Any]:
    """Write down the courses that contradict a claim, so that they can be measured again."""
    return {
        "claim": runner.claim.id,
        "setting": runner.setting.name,
        "relation": runner.claim.relation,
        "comparison": courses[0].index,
        "statistic": "quantile 0.95" if runner.quantile else "mean",
        "replicates": replicates,
        "courses": [
            {
                "shape": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(c.point.shape).items()},
                "parameters": {k: v[0].tolist() for k, v in sorted(c.point.raw.items())},
                "sizes": [int(n) for n in c.sizes],
                "observed": [float(f"{x:.6g}") for x in c.observed],
                "error": [float(f"{x:.3g}") for x in c.error],
                "stated": [float(f"{x:.6g}") for x in c.stated],
            }
            for c in courses
        ],
    }


def check_fit(found: Mapping[str, Any], claim: Claim, seed: int = 1) -> str:
    """Measure what a record says again, with realisations of its own, and see whether it contradicts the claim.

    Raises:
        ClaimError: it does not.
        DataError: it is no such record.
    """
    runner = Runner(claim, claim.hypotheses, np.random.default_rng(np.random.SeedSequence(seed)))
    try:
        index, replicates = int(found["comparison"]), int(found["replicates"])
        courses = []
        for row in found["courses"]:
            shape = {k: tuple(v) if isinstance(v, list) else v for k, v in row["shape"].items()}
            raw = {k: np.asarray(v, float)[None] for k, v in row["parameters"].items()}
            point = Point(runner.setting.shape_from(shape), raw)
            if {k: v.shape[1:] for k, v in raw.items()} != runner.setting.parameters(point.shape):
                raise ValueError("the parameters do not fit the shape")
            courses.append((point, np.asarray(row["sizes"])))
    except (KeyError, TypeError, ValueError, IndexError) as err:
        raise DataError(f"{claim.id}: not a record of a fit ({type(err).__name__}: {err})") from None
    _require_honest(runner, courses, replicates, found.get("along") == DIMENSION)
    if found.get("along") == DIMENSION:
        return _grows_with_dimension(runner, [p.shape for p, _ in courses], index)
    again = [runner.courses(p, sizes, replicates) for p, sizes in courses]
    if not all(again):
        raise ClaimError(f"{claim.id}: what is observed has no value there")
    return _contradiction(claim, [c[index] for c in again])


def _require_honest(runner: Runner, courses: Sequence[tuple[Point, np.ndarray]], replicates: int, wider: bool) -> None:
    """Refuse a record that a trial could not have written."""
    claim = runner.claim

    def require(held: bool, what: str) -> None:
        if not held:
            raise ClaimError(f"{claim.id}: {what}")

    meets = all(h.shape is None or h.shape(p.shape) for p, _ in courses for h in runner.hypotheses)
    require(bool(courses) and meets, "the shape does not meet the hypotheses")
    if not wider:
        require(all(runner.admits(p) for p, _ in courses), "the instance does not meet the hypotheses")
        first = all(len(z) and z.min() >= runner.sizes(p, STEPS)[0] for p, z in courses)
        require(first and replicates >= LEAST, "the sizes or the realisations are fewer than a trial takes")
    if claim.relation not in ORDERS:
        require(len(courses) == 1 and not wider, "a mean is measured at one instance")
    elif len(courses) == 1:
        require(len(courses[0][1]) >= STEPS - 3 and not wider, "an exponent is fitted over more sizes")
    else:
        free = any(h is getattr(runner.setting, "per_problem", None) for h in runner.hypotheses)
        require(claim.relation != "~" and not free, "its constant may depend on the problem")
        require(wider or _is_ray([p for p, _ in courses]), "the instances do not lie on a ray")


def _is_ray(points: Sequence[Point]) -> bool:
    """Whether points differ in one matrix, by multiples of one direction, and are as many as a ray has."""
    first = points[0]
    if len(points) != RAY + 1 or any(p.shape != first.shape for p in points):
        return False
    moved = [k for k, v in first.raw.items() if any((p.raw[k] != v).any() for p in points)]
    if len(moved) != 1:
        return False
    off = np.array([(p.raw[moved[0]] - first.raw[moved[0]]).ravel() for p in points[1:]])
    s = np.linalg.svd(off, compute_uv=False)
    return len(s) < 2 or bool(s[1] <= ROUNDING * s[0])


def _grows_with_dimension(runner: Runner, chain: Sequence[Any], index: int) -> str:
    """Draw instances of the same shapes anew."""
    rows = [row for row in runner.setting.growing() if row == list(chain)]
    if not rows or not _keeps_growing(along := _along_dimensions(runner, chain), index):
        raise ClaimError(f"{runner.claim.id}: the ratio does not grow with these dimensions when it is measured again")
    means = [np.exp(np.mean([np.log(c[index].ratio[0]) for c in found])) for found in along]
    said = ", ".join(f"{m:.3g}" for m in means)
    return f"{runner.claim.id}: observed over stated grows with the dimension: {said}"


def _contradiction(claim: Claim, courses: Sequence[Course]) -> str:
    first = courses[0]
    if claim.relation not in ORDERS:
        m = first.first
        if m.distance > CONFIRMED:
            return f"{claim.id}: the mean {m.observed:.6g} is {m.distance:.1f} standard errors off {m.stated:.6g}"
    elif len(courses) > 1:
        ratios = [float(c.ratio[0]) for c in courses]
        # Step by step the quantiles of fresh realisations wobble; from end to end they do not.
        if ratios[-1] > GROWTH ** (len(ratios) - 1) * ratios[0] and np.all(np.diff(ratios) > 0):
            return f"{claim.id}: observed over stated grows without bound: {', '.join(f'{r:.3g}' for r in ratios)}"
    elif not first.is_nothing and np.any(first.stated <= 0):
        return f"{claim.id}: something is observed where nothing is stated"
    elif first.misses(claim.relation):
        low, high = first.drift()
        exponent = first.exponent()[0]
        return (
            f"{claim.id}: fitted exponent {exponent:.3f}, stated {first.claimed():.3f}; "
            f"their difference lies in [{low:.3f}, {high:.3f}]"
        )
    raise ClaimError(f"{claim.id}: the record does not contradict the claim when it is measured again")
