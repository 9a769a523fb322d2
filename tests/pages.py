"""The ledgers that the tests of the page draw: the last full run, a few fresh trials, and a claim that means harm."""

import json
from functools import cache
from pathlib import Path

import linnet
from linnet.trials import Quadratic, claim, scalar, sq
from linnet.trials.claim import installed_claims
from linnet.trials.ledger import row
from linnet.trials.trial import Budget, run

ROOT = Path(__file__).resolve().parent.parent
TINY = Budget(groups=6, count=16, climbs=2, steps=4, lineages=2, offspring=4, exact=8, per_shape=16, ladders=4,
              replicates=16)  # fmt: skip
FRESH = (
    "linnet/cube",
    "linnet/sensitivity",
    "liu2025/eq-17",
    "liu2025/eq-20",
    "liu2025/eq-56",
    "liu2025/theorem-2-depth",
)
HOSTILE = '<script>alert(1)</script>/"on load=x'


@claim(HOSTILE, setting=Quadratic, relation="<=", source="<b>me</b> & `liu2025/eq-56`", proof='no/"such".md')
def hostile(q):
    """</div><script>alert(2)</script> $</math><script>alert(3)</script>$ ![x](//x.example/x.png) $\\frac{1}{$"""
    return scalar(q.eps.T @ q.H_inv @ q.eps), sq(q.eps)


@cache
def full_ledger():
    """The committed ledger: every claim, at the full budget."""
    return json.loads((ROOT / "figures" / "ledger.json").read_text(encoding="utf-8"))


@cache
def fresh_ledger():
    """Real trials of a few claims, as small as they can be, among them one of every drawing of the page."""
    tried = [installed_claims()[name] for name in FRESH] + [hostile]
    rows = json.loads(json.dumps([row(run(one, TINY, 0)) for one in tried]))
    return {"linnet": linnet.__version__, "seed": 0, "budget": "tiny", "claims": rows}


def claims():
    return installed_claims() | {HOSTILE: hostile}
