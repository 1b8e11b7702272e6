# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a host has: `read.read_host` returns one tree of plain dataclasses (`model.Host`), `codec` makes JSON of it."""
