"""The one exception that stands for a user's mistake."""


class UserError(ValueError):
    """A wrong setting or input; the command line prints it without a traceback and exits with 2.

    Its message names the field or file, the value, the rule, and the remedy.
    """
