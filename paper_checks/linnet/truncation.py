"""linnet/truncation: the sharp form of yang2024, Lemma G.1. Proof: docs/proofs/truncation.md."""

from linnet.trials import Layer, claim, gap_after, inner, op_norm, sq, sqrt, svd_r
from paper_checks.yang2024.lemma_g import nearly_tied


@claim(
    "linnet/truncation",
    setting=Layer,
    relation="<=",
    proof="docs/proofs/truncation.md",
    hypotheses=[Layer.apart],
    extremal=nearly_tied,
)
def stability_of_truncation(v):
    r"""$\Delta = B - A$ of any size, $d = \|\operatorname{SVD}_s(B) - \operatorname{SVD}_s(A)\|_F$: $(1 -
    \sigma_{s+1}(A)/\sigma_s(A))\,d^2 \le 2\langle\operatorname{SVD}_s(B) - \operatorname{SVD}_s(A), \Delta\rangle$,
    and so
    $d \le \frac{2\sigma_s(A)}{\sigma_s(A) - \sigma_{s+1}(A)}\min(\|\Delta\|_F, (2s)^{1/2}\,\|\Delta\|_{\mathrm{op}})$.
    """
    here, after = gap_after(v.B_i, v.r)
    off = v.B_o - v.B_i
    moved = svd_r(v.B_o, v.r) - svd_r(v.B_i, v.r)
    room = 2 * here / (here - after)
    return [
        ((here - after) / here * sq(moved), 2 * inner(moved, off)),
        (sqrt(sq(moved)), room * sqrt(sq(off))),
        (sqrt(sq(moved)), room * (2 * v.r) ** 0.5 * op_norm(off)),
    ]
