# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The command line of vllmd.platform: each command is a thin call of a playbook or of a runtime's API."""
