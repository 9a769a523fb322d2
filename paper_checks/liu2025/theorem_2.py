"""liu2025, Theorem 2: how far increments of the layers move the output."""

from linnet.trials import Activated, Hypothesis, activate, claim


def _terms(v, factor):
    """factor^(N-k) * L |Phi_k| for k = 1, ..., N."""
    return [factor ** (v.depth - k) * (v.L * v.norm(d)) for k, d in enumerate(v.Phi, start=1)]


def _moved(v):
    return v.length(v.f - v.f_0)


@claim("liu2025/theorem-2-layer", setting=Activated, relation="<=", source="liu2025, eq. (26)")
def one_layer(v):
    r"""$\|\sigma((W_0 + \Phi)x) - \sigma(W_0 x)\| \le L\|\Phi\|\,\|x\|$, $\sigma$ $L$-Lipschitz."""
    moved = activate(v.tuned[0] @ v.x, v.activation) - activate(v.W[0] @ v.x, v.activation)
    return v.length(moved), v.L * v.norm(v.Phi[0]) * v.length(v.x)


@claim(
    "liu2025/theorem-2-product",
    setting=Activated,
    relation="<=",
    source="liu2025, eq. (29)",
    hypotheses=[Activated.one_input],
    replaced_by="linnet/capacity",
)
def by_the_layers_above(v):
    r"""$\|f(x) - f_0(x)\| \le \sum_k L\|W_N\| \cdots L\|W_{k+1}\| \cdot L\|\Phi_k\|\,\|x\|$."""
    total, above = 0, 1
    for w, d in reversed(list(zip(v.W, v.Phi, strict=True))):
        total = total + above * (v.L * v.norm(d))
        above = above * (v.L * v.norm(w))
    return _moved(v), total * v.length(v.x)


@claim(
    "liu2025/theorem-2",
    setting=Activated,
    relation="<=",
    source="liu2025, eq. (6), (30)",
    hypotheses=[Activated.one_input],
    replaced_by="linnet/capacity",
)
def by_the_largest_norm(v):
    r"""$\|f(x) - f_0(x)\| \le \sum_k M^{N-k} L^{N-k}\alpha_k\|x\|$, $\|W_k\| \le M$, $\alpha_k = L\|\Phi_k\|$; $M$ the
    least.
    """
    return _moved(v), sum(_terms(v, v.M * v.L)) * v.length(v.x)


contracting = Hypothesis("$0 < M L < 1$", lambda v: [(v.M * v.L, "<", 1), (v.M, ">", 0)])


@claim(
    "liu2025/theorem-2-depth",
    setting=Activated,
    relation="<",
    source="liu2025, remark after Theorem 2",
    rescue=[contracting],
    replaced_by="linnet/capacity",
)
def layers_near_the_output_count_more(v):
    r"""Layers nearer the output have the greater impact, since their exponent $N - k$ is smaller: the weight
    $(M L)^{N-k}$ of an increment in the bound grows with $k$, here from $k$ to $k + 1$ for each $k < N$.
    """
    factor = v.M * v.L
    return [(factor ** (v.depth - k), factor ** (v.depth - k - 1)) for k in range(1, v.depth)] or [(0, 1)]


@claim(
    "liu2025/eq-20",
    setting=Activated,
    relation="<=",
    source="liu2025, eq. (20)",
    hypotheses=[Activated.one_input],
    nearest="liu2025/eq-20-one-output",
)
def between_two_outputs(v):
    r"""$f_0(x) \le f(x) \le \sum_k M^{N-k} L^{N-k}\alpha_k\|x\| + f_0(x)$, for outputs that are vectors."""
    return v.f_0, v.f


@claim(
    "liu2025/eq-20-one-output",
    setting=Activated,
    relation="<=",
    source="liu2025, eq. (20), one output",
    hypotheses=[Activated.one_input, Activated.one_output],
    replaced_by="linnet/capacity",
)
def between_the_frozen_output_and_the_bound(v):
    r"""$f_0(x) \le f(x) \le \sum_k M^{N-k} L^{N-k}\alpha_k\|x\| + f_0(x)$, for one output."""
    frozen, tuned = v.f_0.trace(), v.f.trace()
    return [(frozen, tuned), (tuned, sum(_terms(v, v.M * v.L)) * v.length(v.x) + frozen)]
