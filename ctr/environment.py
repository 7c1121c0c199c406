"""Settings of the process that must stand before torch is loaded; the commands import this first.

OpenMP's threads spin while they wait for each other. On a busy machine, as in a parallel sweep, a spinning thread keeps
the one it waits for off the core: training then ran 2 to 10 times slower here (two cores and one other busy process,
DCN at batch 512). So they sleep. On a quiet virtual machine a net in torch, whose threads then wake up late, runs at
half its speed: ``OMP_WAIT_POLICY=active`` overrides it.

Ctrl-C while a command still loads its libraries would show where in them; there is nothing to clear up yet.
"""

import os
import signal
import sys

os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def end_at_once(*_: object) -> None:
    """On Ctrl-C, until `ctr.cli.run_command` takes over."""
    os.write(2, b"error: interrupted\n")
    os._exit(130)


_command = getattr(sys.modules["__main__"], "__spec__", None)
if _command and _command.name.startswith("ctr.") and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_at_once)
