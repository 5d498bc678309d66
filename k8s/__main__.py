"""`python -m k8s` is the command `launcher`."""

from k8s.cli import main

if __name__ == "__main__":
    main()
