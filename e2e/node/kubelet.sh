#!/bin/sh
# kubelet.sh KUBELET [ARG...]: turns into kubelet, which finds the kernel tunables as it wants them in files of its own, and
# therefore changes none of the machine's. To be run in a mount namespace of its own whose / is shared with the node's; only
# its /proc is private, since pods could not mount theirs if the node's had something mounted over it.
set -eu
mount --make-rprivate /proc
mkdir -p /run/tunables
while read -r name value; do
  file=/run/tunables/$(echo "$name" | tr / .)
  echo "$value" >"$file"
  mount --bind "$file" "/proc/sys/$name"
done <<END
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END
exec "$@"
