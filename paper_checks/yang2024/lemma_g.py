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

NEAR = Hypothesis("|B - A|_op <= |A|_op", lambda v: [(op_norm(v.B_o - v.B_i), "<=", op_norm(v.B_i))])


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
    source="yang2024, Lemma G.1; the constant, 2 sqrt(2), by docs/proofs/truncation.md",
    hypotheses=[Layer.apart, NEAR],
    extremal=nearly_tied,
)
def truncations_of_neighbours(v):
    """For |B - A|_op <= |A|_op and sigma_s(A) > sigma_(s+1)(A): |SVD_s(B) - SVD_s(A)|_F <~ (sigma_1(A)/sigma_s(A))^2
    sigma_s(A)/(sigma_s(A) - sigma_(s+1)(A)) min(sqrt(s) |B - A|_op, |B - A|_F).
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
    source="yang2024, Lemma G.2, with t = 3: probability 1 - e^-3 = 0.95",
    hypotheses=LIKELY,
)
def cross_moments_concentrate(v):
    """|(1/n) sum z z'^T - E z z'^T|_op <~ |Sigma_z|_op^(1/2) |Sigma_z'|_op^(1/2) ((r_e(Sigma_z) + r_e(Sigma_z'))
    (t + log(d + d'))/n)^(1/2) with probability 1 - e^-t; tried for z = x against z' = x, and against the noise.
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
    """With rho^2 = r_e(root^2) log^2(n+p+q)/n: (30) |(root_n^2)^+ - (root^2)^+|_op <~ kappa_*^2(root) rho/
    lambda_min^+(root^2); (31) |root_n - root|_op <~ kappa_*(root) |root|_op rho; (32) |root_n^+ - root^+|_op <~
    kappa_*(root) rho/lambda_min^+(root); (33) |Phi^T (D_n Sigma_n - D Sigma) lower^T|_op <~ |root|_op sum_j
    |K_j|_op^(1/2) ((r_e(Phi^T K_j Phi) + r_e(root^2)) log^2(n+p+q)/n)^(1/2) over K_j in {Sigma_eps, Sigma_f}, for
    Phi Phi^T = P_U and = P_C.
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
