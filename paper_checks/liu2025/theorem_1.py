"""liu2025, Theorem 1: PEFT as a subset of full fine-tuning; its proof in Sec. F.1."""

from linnet.trials import Activated, Comparison, Hypothesis, Layer, Parametrisation, activate, claim, rank, sq


@claim("liu2025/theorem-1-inclusion", setting=Activated, relation="==", source="liu2025, Theorem 1, eq. (5)")
def increments_make_functions_of_the_architecture(v):
    r"""Every PEFT function is a full fine-tuning function. PEFT leaves $W_k$ as it is and computes $W_k h + \Phi_k h$,
    of any rank or sparsity, in each layer; full fine-tuning's function with the weights $W_k + \Phi_k$ is the same.
    """
    h = v.x
    for w, d in zip(v.W, v.Phi, strict=True):
        h = activate(w @ h + d @ h, v.activation)
    return Comparison(h, "==", v.f, scale=v.scale)


linear = Hypothesis(
    "the adapter's activation is the identity",
    lambda v: [(v.activation == "identity", "==", 1)],
    shape=lambda s: s.activation == "identity",
)


@claim(
    "liu2025/theorem-1-inclusion-adapter",
    setting=Activated,
    relation="==",
    source="liu2025, eq. (4), which names the Adapter beside LoRA",
    rescue=[linear],
    replaced_by="linnet/adapter-function",
)
def adapters_make_functions_of_the_architecture(v):
    r"""Every PEFT function is a full fine-tuning function, read for an adapter $h + B\sigma(A h)$ put behind a linear
    layer: the functions of that layer are linear, and so odd, $f(x) + f(-x) = 0$. Here $A = W_1$ and
    $B = \Phi_1^\top$.
    """
    down, up = v.W[0], v.Phi[0].T

    def f(x):
        return x + up @ activate(down @ x, v.activation)

    scale = sq(v.x) * (1 + sq(down) * sq(up))
    return Comparison(sq(f(v.x) + f(-v.x)), "==", 0, scale=scale)


def _not_onto(v):
    miss, unit = v.g.misses(v.value)
    return [Comparison(miss, "==", 0, scale=unit), (v.unreached, ">", 0)]


@claim(
    "liu2025/theorem-1-measure-zero",
    setting=Parametrisation,
    relation="<",
    source="liu2025, Sec. F.1",
    hypotheses=[Parametrisation.fewer],
)
def the_image_has_measure_zero(v):
    r"""$g$ continuously differentiable, $k < d$: the image has Lebesgue measure zero, so $g$ is not onto. Made
    checkable for polynomial $g$: $\operatorname{rank} J < d$ everywhere (of such points the values have measure zero,
    by Sard), the image lies where an explicit polynomial vanishes, and there are points where that does not (tail of
    the singular values for $U V^\top$, off the range for $P\Phi$, $w^2 - x^2(x + s)$ for the cubic).
    """
    return [(rank(v.J), v.d), *_not_onto(v)]


@claim(
    "liu2025/theorem-1-strict",
    setting=Parametrisation,
    relation=">",
    source="liu2025, Theorem 1, sets of parameters",
    hypotheses=[Parametrisation.fewer],
)
def a_strict_subset_of_the_parameters(v):
    r"""$k < d$: $\theta_0 + g(\mathbb R^k)$ is a strict subset of $\mathbb R^d$. A polynomial vanishes on all of it,
    and not at some explicit points of $\mathbb R^d$.
    """
    return _not_onto(v)


@claim(
    "liu2025/theorem-1-submanifold",
    setting=Parametrisation,
    relation="<=",
    source="liu2025, Sec. F.1, below eq. (23)",
    hypotheses=[Parametrisation.full_rank, Parametrisation.meeting],
    replaced_by="linnet/image-of-an-immersion",
)
def the_image_is_an_embedded_submanifold(v):
    r"""$g$ of full rank: its image is a $k$-dimensional embedded submanifold. Such a set has one $k$-dimensional
    tangent space at each point, and the ranges of $J$ at all $\Phi$ with $g(\Phi) = \theta$ lie in the one at
    $\theta$. So $g(\Phi) = g(\Phi')$ implies $\operatorname{rank}[J(\Phi)\;J(\Phi')] \le k$.
    """
    return rank(v.both_tangents), v.k


@claim(
    "liu2025/theorem-1-submanifold-lora",
    setting=Parametrisation,
    relation="==",
    source=r"liu2025, Sec. F.1, $g(U, V) = U V^\top$",
    hypotheses=[Parametrisation.lora, Parametrisation.full_factors],
    replaced_by="linnet/lora-dimension",
)
def the_image_of_lora_has_as_many_dimensions_as_parameters(v):
    r"""The image of $g(U, V) = U V^\top$ has as many dimensions as LoRA has parameters, $k = r(m + n)$. The dimension
    is the largest rank of $J$, which is attained where $U$ and $V$ have full rank: there it would be $k$.
    """
    return rank(v.J), v.k


rank_r = Hypothesis(
    r"$\operatorname{rank} U V^\top = r$", lambda v: [(rank(v.value.reshape(v.g.m, v.g.n)), "==", v.g.r)]
)


@claim(
    "liu2025/theorem-1-submanifold-lora-true-dimension",
    setting=Parametrisation,
    relation="<=",
    source=r"liu2025, Sec. F.1, $g(U, V) = U V^\top$, with the dimension corrected",
    hypotheses=[Parametrisation.lora, Parametrisation.meeting],
    rescue=[rank_r],
    replaced_by="linnet/lora-dimension",
)
def the_image_of_lora_is_an_embedded_submanifold(v):
    r"""The image of $g(U, V) = U V^\top$ is an embedded submanifold, of its true dimension $D = r(m + n - r)$:
    $U V^\top = U' V'^\top$ implies $\operatorname{rank}[J(U, V)\;J(U', V')] \le D$.
    """
    g = v.g
    return rank(v.both_tangents), g.r * (g.m + g.n - g.r)


several_layers = Hypothesis(
    "$k < d$: other layers stay frozen", lambda v: [(len(v.weights), ">", 1)], shape=lambda z: len(z.widths) > 2
)


@claim(
    "liu2025/theorem-1-strict-functions",
    setting=Layer,
    relation=">",
    source="liu2025, Theorem 1, sets of functions",
    hypotheses=[several_layers],
    replaced_by="linnet/function-subset",
)
def a_strict_subset_of_the_functions(layer):
    r"""The functions of PEFT are a strict subset of those of full fine-tuning. PEFT tunes one layer of several, and so
    reaches $W + \overline W\Delta\underline W$ for any $\Delta$; full fine-tuning reaches every product of the layers,
    the maps $E_{ij}$ with one entry $1$ among them. Some $E_{ij}$ is out of PEFT's reach: the squared distances sum to
    more than $0$.
    """
    seen = layer.lower.pinv() @ layer.lower
    return sq(layer.I_q.kron(layer.I_p) - layer.P_U.kron(seen)), 0


@claim(
    "liu2025/theorem-1-strict-functions-lora",
    setting=Layer,
    relation=">",
    source=r"liu2025, Theorem 1, sets of functions, $g(U, V) = U V^\top$",
    hypotheses=[
        Hypothesis(
            "$k < d$: LoRA of one layer has fewer parameters than the network",
            lambda v: [(v.r * sum(v.weight.shape), "<", _size(v))],
            shape=lambda z: (
                z.rank * (z.widths[z.layer] + z.widths[z.layer + 1])
                < sum(m * n for m, n in zip(z.widths, z.widths[1:], strict=False))
            ),
        )
    ],
    replaced_by="linnet/function-subset",
)
def a_strict_subset_of_the_functions_for_lora(layer):
    r"""The functions of LoRA, $W + \overline W U V^\top\underline W$, are a strict subset of those of full
    fine-tuning: some $E_{ij}$ is out of reach of any change of this layer (as in
    `liu2025/theorem-1-strict-functions`), or else $W + I$ is out of reach of rank $r$.
    """
    seen = layer.lower.pinv() @ layer.lower
    missed = sq(layer.I_q.kron(layer.I_p) - layer.P_U.kron(seen))
    return missed + max(0, min(layer.B_i.shape) - layer.r), 0


def _size(layer):
    return sum(w.shape[0] * w.shape[1] for w in layer.weights)
