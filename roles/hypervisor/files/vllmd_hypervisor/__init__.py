"""vllmd-hypervisor: start, stop and inspect one runtime's virtual machine, configured by environment variables alone.

Standard library only; Python 3.11 or newer. `start` validates, prepares and then replaces itself by the VMM; of this
package only the watch over a guest's health stays resident, where one was asked for. See docs/hypervisor.md for every
variable, message and exit code.
"""

__version__ = "0.1.0"
