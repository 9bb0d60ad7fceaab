#!/usr/bin/env bash
# A container as a host for ranks: sshd for the user of the image, port 2222, until it is ended.
#
# Lets in who holds a key of ~/.ssh/authorized_keys (docker/ssh_keys.sh makes one, the MPI operator mounts one).
# The host key is made now: none is in the image.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
ssh-keygen -q -t ed25519 -N "" -f "$folder/host_key"
cat >"$folder/sshd_config" <<END
Port ${SSH_PORT:-2222}
HostKey $folder/host_key
PidFile none
AuthorizedKeysFile $HOME/.ssh/authorized_keys
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
END
"$(command -v sshd || echo /usr/sbin/sshd)" -D -e -f "$folder/sshd_config" &
trap 'kill "$!" 2>/dev/null || true; rm -rf "$folder"' EXIT
trap 'exit 0' TERM INT
wait
