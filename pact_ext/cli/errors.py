"""What every part of the command line raises for a problem that its user can mend."""


class CommandError(Exception):
    """One line for stderr; `main` prints it and returns 2."""
