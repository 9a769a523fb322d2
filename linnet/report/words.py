"""What a row of the ledger says, in words: the same on a terminal and on a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]
"""A row of the ledger, as ``linnet verify --json`` writes it."""

MEANINGS = {
    "holds": "no violation found, by drawing, by search or in exact arithmetic: evidence, not a proof",
    "holds-if": "the same under one more hypothesis, and a counterexample without it",
    "refuted": "a counterexample that anybody can check, and where there is one, a true statement to read instead",
    "rate": "of an order in something that grows: the fitted exponent does not miss the stated one",
    "ill-posed": "the sides do not fit each other; the nearest sensible reading has a row of its own",
    "undecided": "violated in floating point, but at no exact instance; or no instance met the hypotheses",
}


def loose_by(row: Row) -> float | None:
    """Return the factor by which a bound that is not attained is too large (lower ones: too small); else None."""
    if row["verdict"] == "refuted" or row["tight"] is None or row["tight"] or not row["ratio"]:
        return None
    return max(row["ratio"], 1 / row["ratio"])


def tightness(row: Row) -> str:
    """Say whether a bound is attained; if not, by which factor it is loose."""
    if row["tight"] is None or row["verdict"] == "refuted":
        return ""
    factor = loose_by(row)
    return "yes" if factor is None else f"loose {factor:.3g}x"


def margin(row: Row) -> str:
    """Say the worst margin; of exponents and of what was not tried there is none."""
    fitted = row["fit"] and "exponent" in row["fit"]
    return "" if row["verdict"] == "ill-posed" or fitted else f"{row['margin']:.1e}"


def order(row: Row) -> str:
    """Say what a rate is an order from."""
    return "at most of this order" if row["relation"] == "<~" else "of this order"


def sentence(row: Row) -> str:
    """Say in a sentence what a trial found."""
    zero = f" ({row['empty']} of them 0 against 0)" if row["empty"] else ""
    seen = f"{row['instances']} instances drawn and searched{zero}, {row['exact']} more decided exactly"
    cleared = f", {row['cleared']} suspects cleared exactly" if row["cleared"] else ""
    verdict = row["verdict"]
    if verdict == "ill-posed":
        return f"ill-posed: {row['reason']}; its nearest sensible reading is {row['nearest']}"
    if row["fit"] is not None:
        return _fitted(row)
    if verdict == "refuted":
        return f"refuted by an exact counterexample; {seen}, worst margin {row['margin']:.2g}"
    if row["reason"] is not None:
        return f"undecided: {row['reason']}; {seen}"
    if verdict == "undecided" and not row["instances"]:
        return "no instance met the hypotheses; state them so that drawing can meet them, or choose from the setting's"
    if verdict == "undecided":
        return f"violated in float64 (margin {row['margin']:.2g}), but at no exact instance; {seen}"
    by = "; ".join(", ".join(f"{r:.4g} {how}" for how, r in bound.items()) for bound in row["ratios"] or ())
    worst = "" if row["ratio"] is None else f", worst ratio {by}"
    if verdict == "holds-if":
        return f"fails as printed; with the extra hypothesis no violation in {seen}{worst}{cleared}"
    return f"no violation in {seen}{worst}, worst margin {row['margin']:.1e}{cleared}"


def _fitted(row: Row) -> str:
    """Say what was fitted, of a claim about what grows."""
    fit, drawn = row["fit"], f"{row['instances']} realisations"
    first = {"refuted": "refuted: ", "holds-if": "fails as printed; with the extra hypothesis "}
    before = first.get(row["verdict"], "")
    if "deviation" in fit:
        return f"{before}{fit['means']} means over {drawn}, the farthest {fit['deviation']:.1f} standard errors off"
    low, high = fit["interval"]
    constant = "" if fit["constant"] is None else f", largest observed over stated {fit['constant']:.3g}"
    return (
        f"{before}exponent {fit['exponent']:.3f} [{low:.3f}, {high:.3f}], stated {fit['stated']:.3f}, over "
        f"{fit['ladders']} ladders of {drawn} in all{constant}"
    )
