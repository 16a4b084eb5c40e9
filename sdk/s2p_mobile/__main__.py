"""Entry point of ``s2p-mobile`` and ``python -m s2p_mobile``."""

from s2p_mobile.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
