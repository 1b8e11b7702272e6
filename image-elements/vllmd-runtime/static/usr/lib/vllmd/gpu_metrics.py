"""Write the GPUs' state for the node exporter, every few seconds. Run as ``python3 -ISB gpu_metrics.py``."""

import sys

sys.path.insert(0, "/usr/lib/vllmd")  # -I leaves it out

from vllmd_node import nvml

if __name__ == "__main__":
    sys.exit(nvml.main())
