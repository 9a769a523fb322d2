"""linnet/function-subset: in place of liu2025, Theorem 1, for functions. Proof: docs/proofs/parametrisation.md."""

from linnet.trials import Comparison, Layer, claim, rank, sq, tail_sq


@claim(
    "linnet/function-subset",
    setting=Layer,
    relation="==",
    proof="docs/proofs/parametrisation.md",
    hypotheses=[Layer.white],
)
def what_one_layer_leaves_out(layer):
    r"""Tuning one layer reaches $\{F : P_U F P_L = F\}$, $P_L$ the projector on the row space of $\underline W$: it
    misses any $F = B_i$ by $\|F - P_U F P_L\|_F^2$, and LoRA of rank $r$ by $\sum_{j>r}\sigma_j(P_U(F - W)P_L)^2$
    more. Over the maps $E_{ij}$ with one entry $1$ the first sums to
    $pq - \operatorname{rank}(\overline W)\operatorname{rank}(\underline W)$: every function is reached iff
    $\operatorname{rank}\overline W = q$ and $\operatorname{rank}\underline W = p$, by LoRA iff $r = \min(p, q)$ as
    well.
    """
    seen = layer.lower.pinv() @ layer.lower
    p, q = layer.I_p.shape[0], layer.I_q.shape[0]
    left_out = sq(layer.B_i - layer.P_U @ layer.B_i @ seen)
    return [
        (layer.full_ft.train_risk, left_out),
        (layer.lora.train_risk, left_out + tail_sq(layer.P_U @ layer.D @ seen, layer.r)),
        Comparison(
            sq(layer.I_q.kron(layer.I_p) - layer.P_U.kron(seen)),
            "==",
            p * q - rank(layer.upper) * rank(layer.lower),
            scale=p * q,
        ),
    ]
