# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The commands, one module for each group. What they need is imported when they run, so that --help stays quick."""
