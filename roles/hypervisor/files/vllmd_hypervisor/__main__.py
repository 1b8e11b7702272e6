"""Run the launcher: `python3 -m vllmd_hypervisor`, or from the installed stub."""

import sys

from vllmd_hypervisor.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
