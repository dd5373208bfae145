"""Python imports this at its start: see switch_off."""

import switch_off  # noqa: F401
