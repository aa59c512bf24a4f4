#!/bin/sh
# join.sh LIST PROGRAM [ARG...]: turns into a program that belongs to the cgroups whose folders LIST names, a line each.
set -eu
list=$1
shift
while read -r folder; do
  echo $$ >"$folder/cgroup.procs"
done <"$list"
exec "$@"
