"""`python -m statestore` is the command `statestore`, for where scripts are not on the path."""

from statestore.cli import main

if __name__ == "__main__":
    main(prog_name="python -m statestore")
