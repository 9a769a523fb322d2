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
    """Tuning one layer reaches {F : P_U F P_L = F}, P_L the projector on the row space of lower: it misses any F = B_i
    by |F - P_U F P_L|^2, and LoRA of rank r by sum_{j>r} sigma_j(P_U (F - W) P_L)^2 more. Over the maps E_ij with one
    entry 1 the first sums to pq - rank(upper) rank(lower): every function is reached iff rank upper = q and
    rank lower = p, by LoRA iff r = min(p, q) as well.
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
