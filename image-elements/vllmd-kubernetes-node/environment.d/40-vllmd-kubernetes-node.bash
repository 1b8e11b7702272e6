# Where kubelet, kubeadm, kubectl and crictl come from: a directory of files with digests, or an apt repository with its key.
export DIB_VLLMD_KUBERNETES_DIR=${DIB_VLLMD_KUBERNETES_DIR:-}
export DIB_VLLMD_KUBERNETES_APT=${DIB_VLLMD_KUBERNETES_APT:-}
export DIB_VLLMD_KUBERNETES_APT_KEY=${DIB_VLLMD_KUBERNETES_APT_KEY:-}
export DIB_VLLMD_KUBERNETES_PACKAGES=${DIB_VLLMD_KUBERNETES_PACKAGES:-"kubelet kubeadm kubectl cri-tools"}
# What it has to be (1.33 or 1.33.1); empty takes what is given.
export DIB_VLLMD_KUBERNETES_VERSION=${DIB_VLLMD_KUBERNETES_VERSION:-}
# The image of the container that holds a pod's namespaces; empty means containerd's own default.
export DIB_VLLMD_KUBERNETES_SANDBOX_IMAGE=${DIB_VLLMD_KUBERNETES_SANDBOX_IMAGE:-}
