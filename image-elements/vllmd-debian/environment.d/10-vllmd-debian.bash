# What every Debian root element exports for dib's own elements (dpkg, pkg-map, package-installs).
export DISTRO_NAME=debian
export DIB_RELEASE=${DIB_RELEASE:-bookworm}
export DIB_INIT_SYSTEM=systemd

# Kernel command line this image boots with when the caller adds nothing.
export DIB_VLLMD_CMDLINE=${DIB_VLLMD_CMDLINE:-"root=/dev/vda ro vllmd.overlay=tmpfs console=ttyS0 quiet loglevel=4 net.ifnames=0 panic=10"}

# 1: the root file system carries a dm-verity hash tree, and the initrd refuses every block that does not fit it.
export DIB_VLLMD_VERITY=${DIB_VLLMD_VERITY:-0}

# dib installs packages in the order of a Python set: the same order in every build.
export PYTHONHASHSEED=0
# Nor does a hook leave byte code in the image.
export PYTHONDONTWRITEBYTECODE=1

# Nothing in the image is newer than this (seconds since 1970). Empty: the date of its newest Debian package.
export DIB_VLLMD_SOURCE_DATE_EPOCH=${DIB_VLLMD_SOURCE_DATE_EPOCH:-}

# Downloaded packages of this build alone: apt locks the directory, so builds at the same time must not share one. Empty: dib's own cache.
export DIB_VLLMD_DOWNLOADS=${DIB_VLLMD_DOWNLOADS:-}
if [ -n "${DIB_VLLMD_DOWNLOADS}" ]; then
    export DIB_APT_LOCAL_CACHE=0
fi

# A flat repository with the packages of a lock file. Empty: what the mirrors serve.
export DIB_VLLMD_PACKAGES=${DIB_VLLMD_PACKAGES:-}

# The builder's layer cache: where finished layers are written, and which one to start from (README.rst).
export DIB_VLLMD_LAYERS_DIR=${DIB_VLLMD_LAYERS_DIR:-}
export DIB_VLLMD_LAYER=${DIB_VLLMD_LAYER:-}
export DIB_VLLMD_LAYER_NAME=${DIB_VLLMD_LAYER_NAME:-}
export DIB_VLLMD_LAYER_LAST=${DIB_VLLMD_LAYER_LAST:-0}
