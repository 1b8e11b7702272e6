# The driver is in Debian's non-free, what it builds on in contrib.
export DIB_VLLMD_COMPONENTS=${DIB_VLLMD_COMPONENTS:-"main contrib non-free non-free-firmware"}

# open or proprietary, and the DKMS package that brings its source.
export DIB_VLLMD_NVIDIA_KERNEL_MODULE=${DIB_VLLMD_NVIDIA_KERNEL_MODULE:-open}
export DIB_VLLMD_NVIDIA_DKMS_PACKAGE=${DIB_VLLMD_NVIDIA_DKMS_PACKAGE:-}
# Kernel modules that stay; compute needs no display modules.
export DIB_VLLMD_NVIDIA_MODULES=${DIB_VLLMD_NVIDIA_MODULES:-"nvidia nvidia-uvm"}
# What programs load and operators type, by the names of Debian's packages.
export DIB_VLLMD_NVIDIA_PACKAGES=${DIB_VLLMD_NVIDIA_PACKAGES:-"libcuda1 libnvidia-ml1 libnvidia-ptxjitcompiler1 nvidia-modprobe nvidia-persistenced nvidia-smi"}
# GPU families whose firmware stays and whose code torch has to have: turing ampere ada hopper blackwell.
export DIB_VLLMD_NVIDIA_FAMILIES=${DIB_VLLMD_NVIDIA_FAMILIES:-"ampere ada hopper"}

# Where a newer driver, the fabric manager or the container toolkit come from: apt lines (";" between them) and the key that
# signs them, or a directory of .deb files.
export DIB_VLLMD_NVIDIA_REPOSITORY=${DIB_VLLMD_NVIDIA_REPOSITORY:-}
export DIB_VLLMD_NVIDIA_REPOSITORY_KEY_FILE=${DIB_VLLMD_NVIDIA_REPOSITORY_KEY_FILE:-}
export DIB_VLLMD_NVIDIA_DEBS_DIRECTORY=${DIB_VLLMD_NVIDIA_DEBS_DIRECTORY:-}

# Names of packages; empty: not installed.
export DIB_VLLMD_NVIDIA_FABRICMANAGER_PACKAGE=${DIB_VLLMD_NVIDIA_FABRICMANAGER_PACKAGE:-}
export DIB_VLLMD_NVIDIA_TOOLKIT_PACKAGE=${DIB_VLLMD_NVIDIA_TOOLKIT_PACKAGE:-}

# Private key (PEM) and its certificate (PEM) on the builder, for Secure Boot; empty: modules are not signed.
export DIB_VLLMD_NVIDIA_SIGNING_KEY=${DIB_VLLMD_NVIDIA_SIGNING_KEY:-}
export DIB_VLLMD_NVIDIA_SIGNING_CERTIFICATE_FILE=${DIB_VLLMD_NVIDIA_SIGNING_CERTIFICATE_FILE:-}
