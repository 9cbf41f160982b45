#!/usr/bin/env bash
# Two hosts on this machine, tacit-a and tacit-b: a network namespace each, joined by a wire, each with its own name,
# processes and sshd; the files are shared, as on a cluster. Runs COMMAND on tacit-a, then takes all of it down again.
# Needs root, iproute2 and openssh-server. Keys and settings lie in FOLDER; nothing outside of it is changed.
set -euo pipefail
if (($# < 2)); then
    echo "usage: tests/launch/two_hosts.sh FOLDER COMMAND..." >&2
    exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift

# A host resolves its own name to 127.0.1.1, as Debian sets it up: what trips programs that ask for "my address".
cat >"$folder/hosts" <<'HOSTS'
127.0.0.1 localhost
10.77.0.1 tacit-a
10.77.0.2 tacit-b
HOSTS
for name in tacit-a tacit-b; do
    { echo "127.0.1.1 $name"; cat "$folder/hosts"; } >"$folder/hosts.$name"
done
for key in host_key user_key; do
    [[ -f $folder/$key ]] || ssh-keygen -q -t ed25519 -N '' -f "$folder/$key"
done
install -m 600 "$folder/user_key.pub" "$folder/authorized_keys"
sed 's/^/tacit-a,tacit-b,10.77.0.1,10.77.0.2 /' "$folder/host_key.pub" >"$folder/known_hosts"
cat >"$folder/ssh_config" <<SSH
IdentityFile "$folder/user_key"
GlobalKnownHostsFile "$folder/known_hosts"
UserKnownHostsFile /dev/null
StrictHostKeyChecking yes
BatchMode yes
SSH
cat >"$folder/sshd_config" <<SSHD
HostKey "$folder/host_key"
AuthorizedKeysFile "$folder/authorized_keys"
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
SSHD

become_host() { # NAME FOLDER, inside the new namespaces
    mount --bind "$2/hosts.$1" /etc/hosts
    mount --bind "$2/ssh_config" /etc/ssh/ssh_config
    mount -t tmpfs tmpfs /run
    mkdir /run/sshd
    hostname "$1"
    /usr/sbin/sshd -D -f "$2/sshd_config" -E "$2/sshd.$1.log" &
}
export -f become_host

spaces=("tacit-a-$$" "tacit-b-$$")
hosts=()
take_down() {
    trap '' INT TERM
    # With its first process, --kill-child ends every other of a host.
    kill -KILL "${hosts[@]}" 2>/dev/null || true
    wait "${hosts[@]}" 2>/dev/null || true
    for space in "${spaces[@]}"; do
        ip netns delete "$space" 2>/dev/null || true
    done
}
trap take_down EXIT
trap 'exit 143' INT TERM

for space in "${spaces[@]}"; do
    ip netns add "$space"
    ip -n "$space" link set lo up
done
ip link add wire netns "${spaces[0]}" type veth peer name wire netns "${spaces[1]}"
for i in 0 1; do
    ip -n "${spaces[i]}" address add "10.77.0.$((i + 1))/24" dev wire
    ip -n "${spaces[i]}" link set wire up
done

isolated=(unshare --mount --uts --pid --fork --kill-child --mount-proc)
# shellcheck disable=SC2016  # expanded on the host
ip netns exec "${spaces[1]}" "${isolated[@]}" bash -euc 'become_host tacit-b "$0"; wait' "$folder" &
hosts+=($!)
# shellcheck disable=SC2016  # expanded on the host
ip netns exec "${spaces[0]}" "${isolated[@]}" bash -euc '
    become_host tacit-a "$0"
    for host in tacit-a tacit-b; do
        for attempt in {1..50}; do
            ssh "$host" true 2>/dev/null && continue 2
            sleep 0.1
        done
        ssh "$host" true
    done
    "$@"
' "$folder" "$@" &
hosts+=($!)
wait "${hosts[1]}"
