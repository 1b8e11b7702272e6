# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Talk to runtimes over their OpenAI API: ``from vllmd.client import Client``."""
