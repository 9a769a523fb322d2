"""conjecture/capacity-rank: n inputs need increments of rank n."""

from linnet.trials import Activated, claim, op_norm_sq, rank


@claim("conjecture/capacity-rank", setting=Activated, relation="<=", source="conjecture of this project")
def few_inputs_need_little_rank(v):
    r"""For any $n$ inputs, the increments $\Phi_k$ can be replaced by increments of rank $\le n$ and no greater
    spectral norm, with the same $n$ outputs: by $\Phi_k H_k H_k^+$, $H_k$ what the tuned layers below $k$ emit on the
    inputs.
    """
    replaced = [d @ h @ h.pinv() for d, h in zip(v.Phi, v.tuned_states, strict=False)]
    again = v.run([w + d for w, d in zip(v.W, replaced, strict=True)])[-1]
    ranks = [(rank(new), v.x.shape[1]) for new in replaced]
    norms = [(op_norm_sq(new), op_norm_sq(old)) for new, old in zip(replaced, v.Phi, strict=True)]
    return [(again, "==", v.f), *ranks, *norms]
