"""A layer of a deep linear network in the core and in torch, for tests that compare the two."""

import numpy as np
import torch

import linnet as ln
from linnet.llm.objective import Objective


def tensor(a):
    """Return an array as a tensor in double precision."""
    return torch.as_tensor(np.array(a), dtype=torch.float64)


def middle_layer(widths, samples):
    """Return the core's problem of the middle one of three layers, and the same loss in torch."""
    rng = np.random.default_rng(5)
    net = ln.DeepLinearNetwork.random(widths, rng=rng)
    x, y = rng.normal(size=(samples, widths[0])), rng.normal(size=(samples, widths[-1]))
    problem = ln.LayerProblem(net, 1, ln.Moments.from_data(x, y))
    below, above, x, y = tensor(net.weights[0]), tensor(net.weights[2]), tensor(x), tensor(y)

    def loss(weights):
        return ((y - x @ below.T @ weights[0].T @ above.T) ** 2).sum() / len(x)

    return problem, Objective([loss], [tensor(net.weights[1])])
