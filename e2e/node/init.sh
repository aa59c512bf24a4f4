#!/bin/sh
# init.sh RUN HELPER ADDRESS SERVICE_ADDRESS: the first process of a node, in namespaces of its own. Makes its mounts and
# its network, leaves the file RUN/made, and turns into HELPER, which stays. When it ends, the kernel ends the node.
set -eu
run=$1 helper=$2 address=$3 service=$4

# Read before anything is mounted over it.
hierarchies=$(cut -d: -f2 /proc/self/cgroup)

mount --make-rprivate /
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for hierarchy in $hierarchies; do
  folder=/sys/fs/cgroup/${hierarchy#name=}
  case $hierarchy in name=*) hierarchy=none,$hierarchy ;; esac
  mkdir "$folder"
  mount -t cgroup -o "$hierarchy" cgroup "$folder"
done
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/log
mkdir -p /run/lock /run/var-lib/upper /run/var-lib/work /var/log/pods /var/log/containers
# kubelet and the network plugins write below /var/lib whatever their flags say: the machine's own stays as it is.
mount -t overlay -o lowerdir=/var/lib,upperdir=/run/var-lib/upper,workdir=/run/var-lib/work overlay /var/lib
# kubelet's mounts must reach containerd, and back.
mount --make-rshared /

echo node1 >/proc/sys/kernel/hostname
ip link set lo up
ip address add "$address/32" dev lo
# There is no kube-proxy: the API server itself listens on the address of its Service.
ip address add "$service/32" dev lo
ip link add cni0 type bridge
ip address add 10.244.0.1/24 dev cni0
ip link set cni0 up
ip route add default dev cni0
echo 1 >/proc/sys/net/ipv4/ip_forward

: >"$run/made"
exec "$helper"
