"""linnet/sensitivity: in place of liu2025, Theorem 4. Proof: docs/proofs/quadratic.md."""

from linnet.trials import Quadratic, claim, scalar


@claim(
    "linnet/sensitivity",
    setting=Quadratic,
    relation="<=",
    proof="docs/proofs/quadratic.md",
    hypotheses=[Quadratic.positive_definite],
)
def who_is_more_sensitive(q):
    r"""With $K = H^{-1} - H_\Phi^+$, which is positive semi-definite: (a) the extra clean loss that $\epsilon$ causes
    is $\tfrac12\epsilon^\top K\epsilon$ less for PEFT than for full fine-tuning; (b) the loss left on the perturbed
    objective is $\tfrac12(\nabla + \epsilon)^\top K(\nabla + \epsilon)$ more; (c) the clean loss after adapting to the
    perturbed objective is $\tfrac12(\nabla^\top K\nabla - \epsilon^\top K\epsilon)$ more, which is either sign.
    """

    def half(v):
        return (scalar(v.T @ q.H_inv @ v) - scalar(v.T @ q.H_sub_inv @ v)) / 2

    clean_peft, clean_full = q.loss(-(q.H_sub_inv @ q.grad)), q.loss(-(q.H_inv @ q.grad))
    peft, full = q.loss(q.peft_update), q.loss(q.full_update)
    left_peft, left_full = q.loss(q.peft_update, q.eps), q.loss(q.full_update, q.eps)
    return [
        (peft - clean_peft, full - clean_full),
        (left_full, left_peft),
        (full - clean_full - (peft - clean_peft), "==", half(q.eps)),
        (left_peft - left_full, "==", half(q.grad + q.eps)),
        (peft - full, "==", half(q.grad) - half(q.eps)),
    ]
