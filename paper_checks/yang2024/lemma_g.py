"""yang2024, Lemmas G.1 to G.3: perturbation of truncations, concentration of moments."""

from linnet.trials import (
    Hypothesis,
    Layer,
    Sampled,
    claim,
    condition,
    effective_rank,
    gap_after,
    least_singular,
    op_norm,
    ratio,
    sq,
    sqrt,
    svd_r,
    where_positive,
)

NEAR = Hypothesis(
    r"$\|B - A\|_{\mathrm{op}} \le \|A\|_{\mathrm{op}}$", lambda v: [(op_norm(v.B_o - v.B_i), "<=", op_norm(v.B_i))]
)


def lesser(a, b):
    """min(a, b)."""
    return where_positive(a - b, b, a)


def nearly_tied(t):
    """A = diag(1, 1 - 1/t), and B just beyond the tie, where the second axis is the first."""
    gap = 1 / t
    half = gap / 2 * (1 + 1 / t)
    return {
        "weights": [[[0, 0], [0, 0]]], "layer": 0, "rank": 1, "channels": [0], "coef_train": [[1, 0], [0, 1 - gap]],
        "coef_test": [[1 - half, 0], [0, 1 - gap + half]], "cov_train": [[1, 0], [0, 1]], "cov_test": [[1, 0], [0, 1]],
        "x": [[0], [0]], "noise": [[0], [0]],
    }  # fmt: skip


@claim(
    "yang2024/lemma-g1",
    setting=Layer,
    relation="<=",
    source=r"yang2024, Lemma G.1; the constant, $2\sqrt{2}$, as it is proved here",
    proof="docs/proofs/truncation.md",
    hypotheses=[Layer.apart, NEAR],
    extremal=nearly_tied,
)
def truncations_of_neighbours(v):
    r"""For $\|B - A\|_{\mathrm{op}} \le \|A\|_{\mathrm{op}}$ and $\sigma_s(A) > \sigma_{s+1}(A)$:
    $\|\operatorname{SVD}_s(B) - \operatorname{SVD}_s(A)\|_F \lesssim
    (\sigma_1(A)/\sigma_s(A))^2\,\frac{\sigma_s(A)}{\sigma_s(A) - \sigma_{s+1}(A)}\min(\sqrt{s}\,\|B -
    A\|_{\mathrm{op}}, \|B - A\|_F)$.
    """
    here, after = gap_after(v.B_i, v.r)
    off = v.B_o - v.B_i
    room = lesser(op_norm(off) * v.r**0.5, sqrt(sq(off)))
    bound = (op_norm(v.B_i) / here) ** 2 * here / (here - after) * room
    return sqrt(sq(svd_r(v.B_o, v.r) - svd_r(v.B_i, v.r))), 8**0.5 * bound


LIKELY = [Sampled.likely, Sampled.many]


@claim(
    "yang2024/lemma-g2",
    setting=Sampled,
    relation="<~",
    source="yang2024, Lemma G.2, with $t = 3$: probability $1 - e^{-3} = 0.95$",
    hypotheses=LIKELY,
)
def cross_moments_concentrate(v):
    r"""$\|\frac1n\sum z z'^\top - E\,z z'^\top\|_{\mathrm{op}} \lesssim
    \|\Sigma_z\|_{\mathrm{op}}^{1/2}\,\|\Sigma_{z'}\|_{\mathrm{op}}^{1/2}\,((r_e(\Sigma_z) + r_e(\Sigma_{z'}))(t +
    \log(d + d'))/n)^{1/2}$ with probability $1 - e^{-t}$; tried for $z = x$ against $z' = x$, and against the noise.
    """
    q, p = v.B_i.shape
    each = 1 / v.x.shape[1]
    rows = []
    for other, cov, d in ((v.x, v.cov_i, p), (v.noise, v.noise_cov, q)):
        expected = cov if other is v.x else 0 * (v.noise @ v.x.T)
        room = (effective_rank(v.cov_i) + effective_rank(cov)) * (3 + v.log(p + d)) / v.n
        off = each * (other @ v.x.T) - expected
        rows.append((op_norm(off), sqrt(op_norm(v.cov_i) * op_norm(cov) * room)))
    return rows


@claim("yang2024/lemma-g3", setting=Sampled, relation="<~", source="yang2024, Lemma G.3", hypotheses=LIKELY)
def gram_root_and_cross_moments_of_the_sample(v):
    r"""With $\rho^2 = r_e(\mathrm{root}^2)\log^2(n + p + q)/n$:

    - (30) $\|(\mathrm{root}_n^2)^+ - (\mathrm{root}^2)^+\|_{\mathrm{op}} \lesssim
      \kappa_*^2(\mathrm{root})\,\rho/\lambda_{\min}^+(\mathrm{root}^2)$;
    - (31) $\|\mathrm{root}_n - \mathrm{root}\|_{\mathrm{op}} \lesssim
      \kappa_*(\mathrm{root})\,\|\mathrm{root}\|_{\mathrm{op}}\,\rho$;
    - (32) $\|\mathrm{root}_n^+ - \mathrm{root}^+\|_{\mathrm{op}} \lesssim
      \kappa_*(\mathrm{root})\,\rho/\lambda_{\min}^+(\mathrm{root})$;
    - (33) $\|\Phi^\top(D_n\Sigma_n - D\Sigma)\underline W^\top\|_{\mathrm{op}} \lesssim
      \|\mathrm{root}\|_{\mathrm{op}}\sum_j\|K_j\|_{\mathrm{op}}^{1/2}\,((r_e(\Phi^\top K_j\Phi) +
      r_e(\mathrm{root}^2))\log^2(n + p + q)/n)^{1/2}$ over $K_j \in \{\Sigma_\varepsilon, \Sigma_f\}$, for
      $\Phi\Phi^\top = P_U$ and $= P_C$.
    """
    here, there = v.population, v.sample
    kappa, design = condition(here.root), effective_rank(here.gram)
    rho = sqrt(design * v.log_sq / v.n)
    rows = [
        (op_norm(there.gram.pinv() - here.gram.pinv()), ratio(kappa**2 * rho, least_singular(here.gram))),
        (op_norm(there.root - here.root), kappa * op_norm(here.root) * rho),
        (op_norm(there.root.pinv() - here.root.pinv()), ratio(kappa * rho, least_singular(here.root))),
    ]
    for onto in (v.P_U, v.P_C):
        total = 0
        for k in (v.noise_cov, v.Sigma_f):
            total = total + sqrt(op_norm(k) * (effective_rank(onto @ k @ onto) + design) * v.log_sq / v.n)
        rows.append((op_norm(onto @ (there.cross - here.cross)), op_norm(here.root) * total))
    return rows
