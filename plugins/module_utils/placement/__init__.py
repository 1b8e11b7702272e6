# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which replica runs where: `capacity` says what a host has, `plan.make_plan` gives it out, `report` prints it."""
