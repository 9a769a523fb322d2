"""Networks with activations, planted."""

from linnet.trials.algebra import activate, rank, singular_values
from linnet.trials.planted.base import false, true
from linnet.trials.settings.activated import Activated

# --- Activated -------------------------------------------------------------------------------------


def _layer_moved(v):
    return v.length(activate(v.tuned[0] @ v.x, v.activation) - activate(v.W[0] @ v.x, v.activation))


def _layer_bound(v, c=1):
    return c * v.L * v.norm(v.Phi[0]) * v.length(v.x)


true("lipschitz", Activated, "<=", lambda v: (_layer_moved(v), _layer_bound(v)))
true("lipschitz-weakened", Activated, "<=", lambda v: (_layer_moved(v), _layer_bound(v, 1.01)))
false("lipschitz-shrunk", Activated, "<=", lambda v: (_layer_moved(v), _layer_bound(v, 0.99)))
false("lipschitz-squared-input", Activated, "<=", lambda v: (_layer_moved(v), _layer_bound(v, v.length(v.x))))
false(
    "lipschitz-of-the-smallest-singular-value",
    Activated,
    "<=",
    lambda v: (_layer_moved(v), v.L * singular_values(v.Phi[0])[-1] * v.length(v.x)),
)


def _telescoped(v, above=None, below=None):
    total, lower = 0, 1
    for k in range(v.depth):
        upper = 1
        for w in (v.tuned if above is None else above(v))[k + 1 :]:
            upper = upper * (v.L * v.norm(w))
        total = total + upper * (v.L * v.norm(v.Phi[k])) * lower
        lower = lower * (v.L * v.norm((v.W if below is None else below(v))[k]))
    return total * v.length(v.x)


def _output_moved(v):
    return v.length(v.f - v.f_0)


true("telescoped", Activated, "<=", lambda v: (_output_moved(v), _telescoped(v)))
true(
    "telescoped-the-other-way",
    Activated,
    "<=",
    lambda v: (_output_moved(v), _telescoped(v, lambda u: u.W, lambda u: u.tuned)),
)
false("telescoped-frozen-above", Activated, "<=", lambda v: (_output_moved(v), _telescoped(v, lambda u: u.W)))
false("telescoped-shrunk", Activated, "<=", lambda v: (_output_moved(v), 0.99 * _telescoped(v)))
true("relu-has-no-negative-output", Activated, "<=", lambda v: (v.length(activate(v.x, "relu")), v.length(v.x)))
false("gelu-contracts", Activated, "<=", lambda v: (v.length(activate(v.x, "tanh")), v.length(activate(v.x, "gelu"))))
true("capacity-rank", Activated, "<=", lambda v: (rank(v.tuned_states[0]), v.x.shape[1]))
false("capacity-rank-off-by-one", Activated, "<=", lambda v: (rank(v.x), v.x.shape[1] - 1))
