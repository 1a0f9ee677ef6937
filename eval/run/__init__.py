"""A measurement: its steps, spread over worker processes and cached."""
