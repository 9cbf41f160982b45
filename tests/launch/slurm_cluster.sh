#!/usr/bin/env bash
# A Slurm cluster of the two hosts of two_hosts.sh: started on tacit-a, it runs COMMAND there once both nodes are idle.
#     tests/launch/two_hosts.sh FOLDER tests/launch/slurm_cluster.sh FOLDER COMMAND...
# Needs slurm-wlm and munge beside what two_hosts.sh needs, which also ends what is started here.
set -euo pipefail
if (($# < 2)); then
    echo "usage: tests/launch/slurm_cluster.sh FOLDER COMMAND... (on a host of two_hosts.sh)" >&2
    exit 2
fi
folder=$(cd "$1" && pwd)
shift
export SLURM_CONF=$folder/slurm.conf
# No cgroups: a container or namespace seldom has them to give. Credentials expire fast, since that is how long a
# requeued job waits before it starts again.
cat >"$SLURM_CONF" <<SLURM
ClusterName=tacit
SlurmctldHost=tacit-a(10.77.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/slurm_state
SlurmdSpoolDir=$folder/slurmd.%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=tacit-a NodeAddr=10.77.0.1 CPUs=2
NodeName=tacit-b NodeAddr=10.77.0.2 CPUs=2
PartitionName=main Nodes=ALL Default=YES PriorityTier=1
PartitionName=grace Nodes=ALL PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL PriorityTier=2
SLURM
echo "CgroupPlugin=cgroup/v1" >"$folder/cgroup.conf" # slurmd will not start on autodetect where none are mounted
mkdir -p "$folder"/slurm_state "$folder"/slurmd.tacit-{a,b}
[[ -f $folder/munge.key ]] || (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munge.pid" \
    --log-file="$folder/munge.log" --seed-file="$folder/munge.seed" 2>"$folder/munge.warnings"
slurmctld -c # forget what an earlier cluster in this folder left
slurmd -N tacit-a
# shellcheck disable=SC2029  # expanded here
ssh tacit-b "SLURM_CONF=$folder/slurm.conf slurmd -N tacit-b"
for _ in {1..100}; do
    idle=$(sinfo --noheader --partition main --states idle --format %D 2>/dev/null || true)
    [[ $idle == 2 ]] && break
    sleep 0.2
done
[[ $idle == 2 ]] || { sinfo; exit 1; }
"$@"
