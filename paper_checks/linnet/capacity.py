"""linnet/capacity: in place of liu2025, Theorem 2. Proof: docs/proofs/capacity.md."""

from linnet.trials import Activated, claim


@claim("linnet/capacity", setting=Activated, relation="<=", proof="docs/proofs/capacity.md")
def how_far_increments_move_the_output(v):
    r"""With $\sigma(0) = 0$:
    $\|f(x) - f_0(x)\| \le \sum_k [\prod_{j>k} L\|W_j + \Phi_j\|]\,L\|\Phi_k\|\,[\prod_{j<k} L\|W_j\|]\,\|x\|$, and
    $\|f(x) - f_0(x)\| \le (\prod_k L(\|W_k\| + \|\Phi_k\|) - \prod_k L\|W_k\|)\,\|x\|$.
    """
    total, below, above = 0, [1], 1
    for w in v.W:
        below.append(below[-1] * (v.L * v.norm(w)))
    for k in reversed(range(v.depth)):
        total = total + above * (v.L * v.norm(v.Phi[k])) * below[k]
        above = above * (v.L * v.norm(v.tuned[k]))
    whole = 1
    for w, d in zip(v.W, v.Phi, strict=True):
        whole = whole * (v.L * (v.norm(w) + v.norm(d)))
    moved, x = v.length(v.f - v.f_0), v.length(v.x)
    return [(moved, total * x), (moved, (whole - below[-1]) * x)]
