"""For children of the tests that are sent signals; `import signals` works everywhere."""

import signal


def hear_ctrl_c():
    """As a preexec_fn: what a shell has put into the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
