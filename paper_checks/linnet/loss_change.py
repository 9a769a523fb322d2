"""linnet/loss-change: in place of liu2025, eq. (45), (47), (53). Proof: docs/proofs/quadratic.md."""

from linnet.trials import Quadratic, claim, scalar


@claim(
    "linnet/loss-change",
    setting=Quadratic,
    relation="==",
    proof="docs/proofs/quadratic.md",
    hypotheses=[Quadratic.positive_definite],
)
def losses_after_adapting(q):
    r"""For $S = H^{-1}$ (full fine-tuning) and $S = H_\Phi^+$ (PEFT), after the update $-S(\nabla + \epsilon)$: the
    perturbed loss has changed by $-\tfrac12(\nabla + \epsilon)^\top S(\nabla + \epsilon)$, the clean one by
    $\tfrac12(\epsilon^\top S\epsilon - \nabla^\top S\nabla)$; above the clean loss after adapting without $\epsilon$
    it is $\tfrac12\epsilon^\top S\epsilon$.
    """

    def half(S, v):
        return scalar(v.T @ S @ v) / 2

    out = []
    for S, update in ((q.H_inv, q.full_update), (q.H_sub_inv, q.peft_update)):
        clean, undisturbed = q.loss(update), q.loss(-(S @ q.grad))
        out += [
            (q.loss(update, q.eps), -half(S, q.grad + q.eps)),
            (clean, half(S, q.eps) - half(S, q.grad)),
            (clean - undisturbed, half(S, q.eps)),
        ]
    return out
