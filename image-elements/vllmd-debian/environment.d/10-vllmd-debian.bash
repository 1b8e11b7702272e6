# What every Debian root element exports for dib's own elements (dpkg, pkg-map, package-installs).
export DISTRO_NAME=debian
export DIB_RELEASE=${DIB_RELEASE:-bookworm}
export DIB_INIT_SYSTEM=systemd

# Kernel command line this image boots with when the caller adds nothing.
export DIB_VLLMD_CMDLINE=${DIB_VLLMD_CMDLINE:-"root=/dev/vda ro vllmd.overlay=tmpfs console=ttyS0 quiet loglevel=4 net.ifnames=0 panic=10"}

# 1: the root file system carries a dm-verity hash tree, and the initrd refuses every block that does not fit it.
export DIB_VLLMD_VERITY=${DIB_VLLMD_VERITY:-0}
