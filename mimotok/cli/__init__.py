"""The command `mimotok`."""
