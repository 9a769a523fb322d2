"""yang2024, Corollary F.18: what full fine-tuning of one layer leaves."""

from linnet.trials import Layer, claim, op_norm_sq


@claim("yang2024/corollary-f18", setting=Layer, relation="<=", source="yang2024, Corollary F.18")
def what_full_fine_tuning_leaves(layer):
    r"""$\mathcal E_i(\text{full}) \le [\|\Psi^\top(I - \Psi'\Psi'^\top)\|_{\mathrm{op}}^2 + \|(I -
    P_U)\Phi\|_{\mathrm{op}}^2]\,\mathcal E_i(\text{pre})$, $\Phi$ and $\Psi$ the left and right singular bases of $Z$,
    $\Psi'$ the right singular basis of $\underline W\Sigma_i^{1/2}$.
    """
    Z = layer.Z
    unseen = op_norm_sq(Z.T.projector() @ (layer.I_p - layer.carried_i.T.projector()))
    unreached = op_norm_sq((layer.I_q - layer.upper.projector()) @ Z.projector())
    return layer.full_ft.train_risk, (unseen + unreached) * layer.pretrained.train_risk
