"""Least squares on a few samples, planted."""

from linnet.trials.planted.base import false, true
from linnet.trials.settings.estimator import Estimator

true("training-loss-below-the-least", Estimator, "<=", lambda v: (v.expected_training_loss(), v.least_loss()))
true("error-above-the-least", Estimator, ">=", lambda v: (v.expected_loss(), v.least_loss()))
true("no-noise-no-training-loss", Estimator, "==", lambda v: (v.expected_training_loss(), 0), Estimator.noiseless)
true("peft-class-is-smaller", Estimator, "<=", lambda v: (v.least_loss(), v.least_loss(peft=True)))
false("training-loss-is-the-least", Estimator, ">=", lambda v: (v.expected_training_loss(), v.least_loss()))
false("data-always-help", Estimator, ">=", lambda v: (v.benefit(), 0))
false("no-noise-no-error", Estimator, "==", lambda v: (v.expected_loss(), 0), Estimator.noiseless)
false("full-beats-peft", Estimator, "<=", lambda v: (v.expected_loss(), v.expected_loss(peft=True)), Estimator.fewer)
