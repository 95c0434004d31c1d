"""``python -m hh_scaling``, the same as ``hh-scaling``."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from hh_scaling.cli import main as run

    run()


if __name__ == "__main__":
    main()
