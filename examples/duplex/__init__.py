"""Two speakers and a text as one sequence at 25 Hz, from clips and back to two voices."""
