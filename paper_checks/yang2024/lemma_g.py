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


def apart(v):
    """What the hypothesis says."""
    here, after = gap_after(v.B_i, v.r)
    return [(here, ">", after)]


APART = Hypothesis("sigma_s(A) > sigma_(s+1)(A), with A = B_i and s = r", apart)
NEAR = Hypothesis("|B - A|_op <= |A|_op, with B = B_o", lambda v: [(op_norm(v.B_o - v.B_i), "<=", op_norm(v.B_i))])


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
    hypotheses=[APART, NEAR],
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


def _rho(v):
    return sqrt(effective_rank(v.population.gram) * v.log_sq / v.n)


@claim("yang2024/lemma-g3-30", setting=Sampled, relation="<~", source="yang2024, eq. (30)", hypotheses=LIKELY)
def pseudo_inverse_of_the_sample_gram(v):
    """With rho^2 = r_e(root^2) log^2(n+p+q)/n: |(root_n^2)^+ - (root^2)^+|_op <~ kappa_*^2(root) rho/
    lambda_min^+(root^2).
    """
    root, gram = v.population.root, v.population.gram
    off = op_norm(v.sample.gram.pinv() - gram.pinv())
    return off, ratio(condition(root) ** 2 * _rho(v), least_singular(gram))


@claim("yang2024/lemma-g3-31", setting=Sampled, relation="<~", source="yang2024, eq. (31)", hypotheses=LIKELY)
def root_of_the_sample_gram(v):
    """|root_n - root|_op <~ kappa_*(root) |root|_op rho."""
    root = v.population.root
    return op_norm(v.sample.root - root), condition(root) * op_norm(root) * _rho(v)


@claim("yang2024/lemma-g3-32", setting=Sampled, relation="<~", source="yang2024, eq. (32)", hypotheses=LIKELY)
def pseudo_inverse_of_the_sample_root(v):
    """|root_n^+ - root^+|_op <~ kappa_*(root) rho/lambda_min^+(root)."""
    root = v.population.root
    off = op_norm(v.sample.root.pinv() - root.pinv())
    return off, ratio(condition(root) * _rho(v), least_singular(root))


@claim("yang2024/lemma-g3-33", setting=Sampled, relation="<~", source="yang2024, eq. (33)", hypotheses=LIKELY)
def cross_moments_with_the_residual(v):
    """|Phi^T (D_n Sigma_n - D Sigma) lower^T|_op <~ |root|_op sum_j |K_j|_op^(1/2) ((r_e(Phi^T K_j Phi) + r_e(root^2))
    log^2(n+p+q)/n)^(1/2) over K_j in {Sigma_eps, Sigma_f}, for Phi Phi^T = P_U and = P_C.
    """
    design = effective_rank(v.population.gram)
    off = v.sample.cross - v.population.cross
    rows = []
    for onto in (v.P_U, v.P_C):
        total = 0
        for k in (v.noise_cov, v.Sigma_f):
            room = (effective_rank(onto @ k @ onto) + design) * v.log_sq / v.n
            total = total + sqrt(op_norm(k) * room)
        rows.append((op_norm(onto @ off), op_norm(v.population.root) * total))
    return rows
