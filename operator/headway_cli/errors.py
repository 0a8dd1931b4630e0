"""What goes wrong for a user of the command line."""


class CliError(Exception):
    """One sentence that says what failed and, where there is one, the cure. Printed without a trace."""
