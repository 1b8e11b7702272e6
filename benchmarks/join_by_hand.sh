# What an administrator would type on one host of the test bed to make it a node, as benchmarks/join.py measures it: the steps of role
# kubernetes_node without its checks. Given: NAME, ADDRESS, ENDPOINT, TOKEN, PIN, VERSION, KEY. Prints "STEP phase seconds".
# shellcheck shell=bash disable=SC2154
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
step() {
    local now
    now=$(date +%s.%N)
    echo "STEP $1 $(echo "$now $since" | awk '{printf "%.3f", $1 - $2}')"
    since=$now
}
since=$(date +%s.%N)

packages=(conntrack containerd containernetworking-plugins ebtables ethtool iproute2 iptables kmod procps runc socat)
echo "$KEY" >/etc/apt/keyrings/vllmd-kubernetes.asc
echo "deb [signed-by=/etc/apt/keyrings/vllmd-kubernetes.asc] file:/srv/kubernetes/repository/packages ./" \
    >/etc/apt/sources.list.d/by-hand.list
apt-get -qq update -o Dir::Etc::sourcelist=/etc/apt/sources.list.d/by-hand.list -o Dir::Etc::sourceparts=- \
    -o APT::Get::List-Cleanup=0
apt-get -qq install --yes --no-install-recommends "${packages[@]}" "kubelet=$VERSION-*" "kubeadm=$VERSION-*" "kubectl=$VERSION-*" \
    cri-tools >/dev/null
apt-mark -q hold kubelet kubeadm kubectl cri-tools >/dev/null
step packages

printf '%s\n' br_netfilter overlay >/etc/modules-load.d/kubernetes.conf
# The test bed's kernel has both built in; what a host would load is loaded here, too.
for module in br_netfilter overlay; do
    [ -d "/sys/module/$module" ] || modprobe "$module" || [ -e /proc/sys/net/bridge ]
done
cat >/etc/sysctl.d/90-kubernetes.conf <<'END'
net.ipv4.ip_forward = 1
net.bridge.bridge-nf-call-iptables = 1
vm.overcommit_memory = 1
vm.panic_on_oom = 0
kernel.panic = 10
kernel.panic_on_oops = 1
fs.inotify.max_user_instances = 8192
END
sysctl --quiet --load=/etc/sysctl.d/90-kubernetes.conf

mkdir -p /etc/containerd /opt/cni/bin /etc/cni/net.d
cat >/etc/containerd/config.toml <<'END'
version = 2
[plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "bed.invalid/pause:1"
    restrict_oom_score_adj = true
    [plugins."io.containerd.grpc.v1.cri".cni]
        bin_dir = "/opt/cni/bin"
        conf_dir = "/etc/cni/net.d"
END
ln -sf /usr/lib/cni/* /opt/cni/bin/
echo 'runtime-endpoint: unix:///run/containerd/containerd.sock' >/etc/crictl.yaml
systemctl enable --quiet containerd.service
systemctl restart containerd.service

mkdir -p /etc/systemd/system/kubelet.service.d
cat >/etc/systemd/system/kubelet.service.d/20-kubeadm.conf <<'END'
[Unit]
ConditionPathExists=/var/lib/kubelet/config.yaml
After=containerd.service
StartLimitIntervalSec=0
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS
Restart=always
RestartSec=10
END
systemctl daemon-reload
systemctl enable --quiet kubelet.service
step configuration

cat >/run/join.yaml <<END
apiVersion: kubeadm.k8s.io/v1beta2
kind: JoinConfiguration
discovery:
  bootstrapToken: {apiServerEndpoint: "$ENDPOINT", token: "$TOKEN", caCertHashes: ["$PIN"]}
nodeRegistration:
  name: $NAME
  criSocket: /run/containerd/containerd.sock
  kubeletExtraArgs: {node-ip: $ADDRESS}
END
kubeadm join --config=/run/join.yaml >/run/join.log 2>&1 || { tail -n 5 /run/join.log; exit 1; }
rm /run/join.yaml
step join

export KUBECONFIG=/etc/kubernetes/kubelet.conf
until kubectl get node "$NAME" >/dev/null 2>&1; do sleep 0.5; done
kubectl wait --for=condition=Ready "node/$NAME" --timeout=300s >/dev/null
kubectl label --overwrite node "$NAME" accelerator.vllmd.com/count=0 >/dev/null
step verify

# Not measured: what the role would not remove when this host leaves.
rm -f /etc/apt/sources.list.d/by-hand.list /etc/systemd/system/kubelet.service.d/20-kubeadm.conf \
    /etc/modules-load.d/kubernetes.conf /etc/sysctl.d/90-kubernetes.conf
