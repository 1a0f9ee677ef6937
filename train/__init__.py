"""Training of mimotok: data, the joint stage and the adversarial stage. Run it as `python -m train`."""
