"""The command `mimotok`, as `python -m mimotok`."""

from mimotok.cli.main import main

if __name__ == "__main__":
    main()
