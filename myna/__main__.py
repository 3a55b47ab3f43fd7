"""`python -m myna`, for launchers such as torchrun."""

from __future__ import annotations

from myna.cli.main import main

main()
