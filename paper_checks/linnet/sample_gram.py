"""linnet/sample-gram: the sharp form of yang2024, Lemma G.3. Proof: docs/proofs/truncation.md."""

from linnet.trials import Comparison, Hypothesis, Layer, claim, least_singular, op_norm, sqrt


def relative_error(v):
    """|root^+ (root_n^2) root^+ - root root^+|_op: the sample's error in units of the population."""
    flat = v.population.root.pinv()
    return op_norm(flat @ v.sample.gram @ flat - v.population.root.projector())


SMALL = Hypothesis("the relative error $e$ of the sample's gram is below $1$", lambda v: [(relative_error(v), "<", 1)])


@claim(
    "linnet/sample-gram",
    setting=Layer,
    relation="<=",
    proof="docs/proofs/truncation.md",
    hypotheses=[Layer.sample_inside, SMALL],
)
def errors_of_the_sample_gram_are_relative(v):
    r"""With
    $e = \|\mathrm{root}^+\,\mathrm{root}_n^2\,\mathrm{root}^+ - \mathrm{root}\,\mathrm{root}^+\|_{\mathrm{op}} < 1$:
    $\|\mathrm{root}_n - \mathrm{root}\|_{\mathrm{op}} \le (1 - (1 - e)^{1/2})\,\|\mathrm{root}\|_{\mathrm{op}}$,
    $\|(\mathrm{root}_n^2)^+ - (\mathrm{root}^2)^+\|_{\mathrm{op}} \le \frac{e}{1 -
    e}\,/\,\lambda_{\min}^+(\mathrm{root}^2)$, $\|\mathrm{root}_n^+ - \mathrm{root}^+\|_{\mathrm{op}} \le ((1 -
    e)^{-1/2} - 1)\,/\,\lambda_{\min}^+(\mathrm{root})$: no condition number. For sub-Gaussian inputs $e$ is of order
    $(m/n)^{1/2}$.
    """
    e, here, there = relative_error(v), v.population, v.sample
    least, left = least_singular(here.root), sqrt(1 - e)
    size = 1 / (1 - e)  # of the sample's inverses, in units of the population's
    return [
        (op_norm(there.root - here.root), (1 - left) * op_norm(here.root)),
        Comparison((1 - e) * least * least * op_norm(there.gram.pinv() - here.gram.pinv()), "<=", e, scale=size),
        Comparison(left * least * op_norm(there.root.pinv() - here.root.pinv()), "<=", 1 - left, scale=size),
    ]
