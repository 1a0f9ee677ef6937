"""The command line of training, its progress and its checkpoints."""
