"""Loaded first by the process that workers are forked from: Ctrl-C in a terminal is for the pool alone, also while the
libraries load there, which takes seconds."""

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)
