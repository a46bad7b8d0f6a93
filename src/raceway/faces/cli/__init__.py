"""The command line: `raceway TOOL`. One module a tool; each is imported only when it is asked for.

`raceway --help` must answer in 0.3 s, and importing numba alone takes longer: nothing here may import it. A
tool's module holds its options and help; the work is done in `raceway.apps`.
"""

from __future__ import annotations

import gc
import signal
import sys

from raceway.faces.cli.application import application


def main() -> None:
    """Entry point of the `raceway` command."""
    from raceway.faces.cli.errors import report

    # Whoever ends a tool, `timeout`, a service manager or a closed terminal, gets the report and whole files as with
    # Ctrl-C. (What is ignored, as by nohup, stays ignored.)
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) == signal.SIG_DFL:
            signal.signal(ending, signal.default_int_handler)
    try:
        application()(prog_name="raceway")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Who read our output has seen enough (`raceway dump ... | head`).
        sys.stderr.close()
        sys.exit(141)
    except Exception as error:
        sys.exit(report(error))
    finally:
        # A compiler's worth of objects is not worth collecting one by one when the process ends.
        gc.freeze()
