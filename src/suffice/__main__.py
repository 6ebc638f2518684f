"""`python -m suffice`: the command line, where the script is not on the path."""

from suffice.cli import main

if __name__ == "__main__":
    main()
