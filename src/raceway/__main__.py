"""`python -m raceway`: the same as the command `raceway`, for where that is not in the PATH."""

from raceway.faces.cli import main

if __name__ == "__main__":
    main()
