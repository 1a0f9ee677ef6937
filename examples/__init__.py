"""Small models on mimotok's tokens; each folder has a README with commands and results."""
