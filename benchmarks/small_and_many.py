"""What a batch of problems costs beyond the LAPACK calls that its closed forms cannot avoid.

Times every method whose cost is decompositions, with the excess risks of each solution on both tasks, against
the bare batched decompositions of the textbook formulas on matrices of the same shapes. Repeats of the two
are interleaved; seconds are of the process's CPU time, which other processes disturb least. Run with one BLAS thread:

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python benchmarks/batch_overhead.py
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import linnet as ln

RESULT = Path(__file__).parent / "results" / "batch_overhead.json"
BATCH = {8: 10_000, 16: 10_000, 32: 10_000, 64: 1_000}
"""Problems a width; at 64 a tenth, since memory and time grow with its cube."""


def methods(width: int, rng: np.random.Generator) -> list[ln.Method]:
    r = width // 4
    return [
        ln.LoRA(r),
        ln.S2FT(range(r)),
        ln.FullFT(),
        ln.FrozenFactorLoRA(left=rng.normal(size=(width, r))),
        ln.FrozenFactorLoRA(right=rng.normal(size=(width, r))),
        ln.IA3(),
        ln.BitFit(),
    ]


def covariances(width: int, batch: int, rng: np.random.Generator) -> np.ndarray:
    a = rng.normal(size=(batch, width, 2 * width)) / np.sqrt(2 * width)
    return a @ np.swapaxes(a, -1, -2)


def inputs(width: int, batch: int, affine: bool, rng: np.random.Generator) -> tuple[ln.DeepLinearNetwork, ln.Shift]:
    net = ln.DeepLinearNetwork.random([width] * 4, rng=rng, batch=(batch,), biases=affine)
    coef = rng.normal(size=(batch, width, width)) / np.sqrt(width)
    noise = 0.1 * np.eye(width)
    mean = rng.normal(size=(batch, width)) if affine else None
    train = ln.Regression(coef, covariances(width, batch, rng), noise, mean)
    return net, ln.Shift.both(train, 0.5, 0.5, rng=rng)


def everything(net: ln.DeepLinearNetwork, shift: ln.Shift, chosen: list[ln.Method]) -> None:
    """All solutions and their risks, from networks and tasks: nothing is prepared outside the clock."""
    problem = ln.LayerProblem(net, 1, shift.train.moments())
    for method in chosen:
        tuned = net.updated(method.solve(problem))
        ln.excess_risk(tuned, shift.train)
        ln.excess_risk(tuned, shift.test)


def bare(gram: np.ndarray, square: np.ndarray) -> None:
    """The decompositions that the textbook formulas name, once each."""
    r = gram.shape[-1] // 4
    np.linalg.eigh(gram)  # root of the lower Gram matrix
    np.linalg.svd(square, full_matrices=False)  # LoRA: SVD_r of the residual
    np.linalg.svd(square, full_matrices=False)  # pseudo-inverse of the upper product
    np.linalg.svd(square[..., :r], full_matrices=False)  # S2FT: of its selected columns
    np.linalg.svd(square[..., -r:], full_matrices=False)  # LoRA, U frozen: of upper U
    np.linalg.eigh(gram[..., :r, :r])  # LoRA, V frozen: of V^T gram V
    np.linalg.eigh(gram)  # IA3: normal matrix


def seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(width: int, batch: int, affine: bool, repeats: int) -> dict[str, float]:
    rng = np.random.default_rng(width)
    net, shift = inputs(width, batch, affine, rng)
    gram, square = covariances(width, batch, rng), rng.normal(size=(batch, width, width))
    chosen = methods(width, rng)
    pairs = []
    for _ in range(repeats):
        lapack = seconds(lambda: bare(gram, square))
        pairs.append((seconds(lambda: everything(net, shift, chosen)), lapack))
    ratios = np.array([a / b for a, b in pairs])
    least = np.min(pairs, axis=0)
    return {
        "width": width,
        "batch": batch,
        "biases_and_means": affine,
        "repeats": repeats,
        "linnet_seconds": float(least[0]),
        "lapack_seconds": float(least[1]),
        "ratio_of_minima": float(least[0] / least[1]),
        "ratio_median": float(np.median(ratios)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=list(BATCH))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, help="problems a width, instead of 10000 (1000 at width 64)")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    rows = []
    print("width  biases   batch   linnet s   LAPACK s   ratio of minima   median ratio")
    for width, affine in itertools.product(options.widths, (False, True)):
        row = measure(width, options.batch or BATCH.get(width, 1_000), affine, options.repeats)
        rows.append(row)
        print(
            f"{width:5d} {affine!s:>7} {row['batch']:7d} {row['linnet_seconds']:10.3f} {row['lapack_seconds']:10.3f} "
            f"{row['ratio_of_minima']:17.2f} {row['ratio_median']:14.2f}"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"numpy": np.__version__, "goal": 1.3, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
