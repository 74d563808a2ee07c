#!/bin/sh
# `percale …` in the image, as a container runtime starts it by the DaemonSet: in a mount namespace of its own, its root read-only,
# the node's /run/netns with what appears there later, the service account's secrets, and DIRECTORY for all that the agent keeps.
set -e
image=$1 account=$2 directory=$3 server=$4
shift 4
mount --bind "$image" "$image"
mount -t tmpfs tmpfs "$image/run"
mount -t tmpfs tmpfs "$image/tmp"
mkdir -p "$image/run/netns" "$image/run/secrets/kubernetes.io/serviceaccount" "$image$directory"
for each in /proc /sys /dev /run/netns "$directory"; do mount --rbind "$each" "$image$each"; done
mount --bind "$account" "$image/run/secrets/kubernetes.io/serviceaccount"
mount -o remount,bind,ro "$image"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "KUBERNETES_SERVICE_HOST=$server" KUBERNETES_SERVICE_PORT=6443 \
  chroot "$image" /usr/bin/percale "$@"
