#!/usr/bin/env bash
# A SLURM of this one machine, for tests: slurm_node.sh start FOLDER | stop FOLDER. Needs root, and Debian's slurm-wlm and
# munge. After start: export SLURM_CONF=FOLDER/slurm.conf; sinfo; sbatch --wrap hostname.
set -euo pipefail
what=$1; mkdir -p "$2"; d=$(cd "$2" && pwd); h=$(hostname -s)
if [ "$what" = stop ]; then
    for p in slurmd ctld munged; do
        pid=$(cat "$d/$p.pid" 2>/dev/null) || continue
        kill "$pid" 2>/dev/null || continue
        # It writes its state while it ends.
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null && sleep 0.1 || break; done
    done
    exit 0
fi
mkdir -p "$d/spool" "$d/state" "$d/log" /run/munge /etc/munge
[ -s /etc/munge/munge.key ] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 2>/dev/null
chown -R munge:munge /etc/munge /run/munge /var/lib/munge /var/log/munge
chmod 700 /etc/munge /var/lib/munge /var/log/munge; chmod 400 /etc/munge/munge.key; chmod 755 /run/munge
cat >"$d/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$h(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$d/state
SlurmdSpoolDir=$d/spool
SlurmctldPidFile=$d/ctld.pid
SlurmdPidFile=$d/slurmd.pid
SlurmctldLogFile=$d/log/ctld.log
SlurmdLogFile=$d/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName=$h NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1100)) State=UNKNOWN
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
# A munged that already ran is not stopped.
munge -n 2>/dev/null | unmunge >/dev/null 2>&1 ||
    { su -s /bin/sh munge -c "/usr/sbin/munged --force"; cp /run/munge/munged.pid "$d/munged.pid"; }
export SLURM_CONF="$d/slurm.conf"
slurmctld -f "$SLURM_CONF"; sleep 2; slurmd -f "$SLURM_CONF"
for _ in $(seq 30); do sinfo -h -o %t 2>/dev/null | grep -q idle && { sinfo; exit 0; }; sleep 1; done
echo "no idle node after 30 s; see $d/log" >&2; exit 1
