"""The layers of the model, each with its streaming step."""
