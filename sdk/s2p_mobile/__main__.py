"""Entry point of ``s2p-mobile`` and ``python -m s2p_mobile``."""

import signal
import sys
import threading
from types import FrameType

_AGAIN_SECONDS = 0.05


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C or kill. While a module is being loaded it has to wait: native libraries abort or swallow a KeyboardInterrupt then."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            timer = threading.Timer(_AGAIN_SECONDS, signal.raise_signal, [number])
            timer.daemon = True
            timer.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line. Exit status: 0 done, 1 a check failed, 2 bad input or usage, 3 interrupted."""
    # An ignored Ctrl-C (nohup) stays ignored.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    # kill, a stopped container, a closed terminal: unfinished folders are removed as well.
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)
    try:
        from s2p_mobile.cli.app import run

        status = run(sys.argv[1:])
    except KeyboardInterrupt:
        print("error: interrupted; run the command again", file=sys.stderr)
        status = 3
    sys.exit(status)


if __name__ == "__main__":
    main()
