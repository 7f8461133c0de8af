"""`python -m w2sdefense`: equivalent to `w2s`, for launchers that start a module (torchrun)."""

from __future__ import annotations

from w2sdefense.cli.app import main

if __name__ == "__main__":
    main()
