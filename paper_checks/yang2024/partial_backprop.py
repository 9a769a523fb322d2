"""yang2024, Sec. 3.3: partial back-propagation."""

from linnet.trials import Comparison, Layer, claim, sq, sqrt


@claim("yang2024/partial-backprop", setting=Layer, relation="==", source="yang2024, Sec. 3.3")
def gradient_from_the_selected_activations(layer):
    r"""The gradient on the selected rows (columns), computed from the selected output gradients (activations) alone,
    is that slice of the full gradient. Half the squared loss over a sample, $G = \overline W^\top(f(x) - y)$.
    """
    U, V = layer.U_C, layer.V_C
    h = layer.lower @ layer.x
    G = -(layer.upper.T @ (layer.D @ layer.x + layer.noise))
    full = G @ h.T
    size = sqrt(sq(layer.upper) * sq(layer.lower)) * layer.sample.energy
    pairs = [(U.T @ full, (U.T @ G) @ h.T), (full @ V, G @ (V.T @ h).T)]
    return [Comparison(a, "==", b, scale=size) for a, b in pairs]
