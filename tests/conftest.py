"""Ctrl-C reaches tests that run in the background too: a shell's `&` starts its children with SIGINT ignored."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
