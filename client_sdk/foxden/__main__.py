"""`python -m foxden` is the command `foxden`."""

from __future__ import annotations

import sys

from foxden.cli.main import main

sys.exit(main())
