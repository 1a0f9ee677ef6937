"""What a command shows and how it ends: standard streams, the progress bar, worker processes."""
