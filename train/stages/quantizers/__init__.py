"""Ways to train a quantizer beside the usual one of `train.stages.quantizer`, and the choice among all of them."""
