#!/usr/bin/env bash
# The hosts of a hostfile, by DeepSpeed's launcher. They share this folder, at the same path.
set -euo pipefail
if (($# < 2)); then
    cat >&2 <<'USAGE'
usage: launchers/hostfile.sh HOSTFILE RECIPE [overrides]
A line of HOSTFILE: NAME slots=NUMBER_OF_RANKS.
LAUNCHER=pdsh (the default) starts every host from here, over ssh. LAUNCHER=none starts this host only: run it on
each, with NODE_RANK=0, 1, ... in the order of the file; it needs neither pdsh nor ssh.
Ranks meet at MASTER_ADDR (the first host) and MASTER_PORT (29500).
USAGE
    exit 2
fi
fail() {
    echo "hostfile.sh: $1" >&2
    exit 2
}
hostfile=$1 recipe=$2
shift 2
[[ -f $hostfile ]] || fail "$hostfile is not a file; name one with a line 'NAME slots=NUMBER_OF_RANKS' for each host"
first_host=$(awk '!/^[[:space:]]*(#|$)/ { print $1; exit }' "$hostfile")
case ${LAUNCHER:-pdsh} in
pdsh)
    # DeepSpeed hands this path to the shells of the other hosts as it is.
    [[ $PWD =~ ^[A-Za-z0-9/._+-]+$ ]] || fail "$PWD has characters that a shell reads; move to a plainer path"
    launch=(--launcher pdsh --force_multi)
    ;;
none)
    [[ -n ${NODE_RANK:-} ]] || fail "NODE_RANK is not set; LAUNCHER=none needs this host's place in $hostfile, from 0"
    launch=(--no_ssh --node_rank "$NODE_RANK")
    ;;
*) fail "LAUNCHER=$LAUNCHER is not known; take pdsh or none" ;;
esac

# ssh carries no variables along, and DeepSpeed few. Tokens are left out: a command line is for all to read.
mapfile -t names < <(compgen -e | grep -E '^((DEEPSPEED|DS|GLOO|NCCL|OMP|PYTORCH|TORCH)_|(HF_HOME|HF_HUB_OFFLINE)$)' |
    grep -v -i -E 'token|key|secret|password')
variables=()
for name in "${names[@]}"; do
    variables+=("$name=${!name}")
done
# As one word in base64, which no shell on the way reads anything into.
rank_command=$(printf '%s\0' env "${variables[@]}" "$(type -P python)" -u -m pipeline train --config "$recipe" "$@" |
    base64 --wrap 0)
exec deepspeed --hostfile "$hostfile" "${launch[@]}" \
    --master_addr "${MASTER_ADDR:-${first_host#*@}}" --master_port "${MASTER_PORT:-29500}" \
    --no_local_rank --no_python launchers/rank.sh "$rank_command"
