#!/bin/sh
# serve.sh ROOT USER ACCESS PROGRAM [ARG...]: turns into PROGRAM in the file system of an image, as an arbitrary USER:GROUP, in
# namespaces of its own. With the ACCESS read-only nothing can be written but a fresh /tmp.
set -eu
root=$1 user=$2 access=$3
shift 3
mount --make-rprivate /
mount --bind "$root" "$root"
mkdir -p "$root/proc" "$root/etc"
mount -t proc proc "$root/proc"
# Every runtime gives a container this file.
echo "127.0.0.1 localhost" >"$root/etc/hosts"
ip link set lo up
if [ "$access" = read-only ]; then
  mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
  mount -o remount,bind,ro "$root"
fi
exec chroot --userspec="$user" --groups= "$root" "$@"
