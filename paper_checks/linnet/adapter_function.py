"""linnet/adapter-function: in place of liu2025, eq. (5), for adapters. Proof: docs/proofs/parametrisation.md."""

from linnet.trials import Activated, activate, claim, sq


@claim(
    "linnet/adapter-function",
    setting=Activated,
    relation=">=",
    proof="docs/proofs/parametrisation.md",
)
def how_far_an_adapter_is_from_linear(v):
    r"""$f(x) = x + B\sigma(A x)$ with even part $e(x) = \tfrac12 B(\sigma(A x) + \sigma(-A x))$: every linear map $M$
    misses $f$ on $x$ and $-x$ by $\|f(x) - M x\|^2 + \|f(-x) + M x\|^2 \ge 2\|e(x)\|^2$. So $f$ is a function of a
    linear layer only if $e = 0$; with $\sigma$ the identity it is $I + B A$. Here $A = W_1$, $B = \Phi_1^\top$, and
    $M$ is $B A$, $2 B A$ and $I + B A$.
    """
    down, up = v.W[0], v.Phi[0].T

    def f(x):
        return x + up @ activate(down @ x, v.activation)

    through, least = up @ down @ v.x, sq(f(v.x) + f(-v.x)) / 2
    return [(sq(f(v.x) - y) + sq(f(-v.x) + y), least) for y in (through, 2 * through, v.x + through)]
