#!/usr/bin/env bash
# The key with which the containers of one job reach each other, made once in ~/.ssh (a volume that they share).
set -euo pipefail

cd "$HOME/.ssh"
if [[ ! -f authorized_keys ]]; then
    ssh-keygen -q -t ed25519 -N "" -C disttune -f id_ed25519
    cp id_ed25519.pub authorized_keys
fi
