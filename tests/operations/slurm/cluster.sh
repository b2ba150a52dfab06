#!/usr/bin/env bash
# A one-node Slurm with two GPUs that are device files only, without systemd; everything it writes lies below DIR.
# usage: tests/operations/slurm/cluster.sh start|stop DIR
# Needs root and Debian's slurmctld, slurmd, slurm-client and munge. CPUs and memory are claimed, not measured, so that jobs
# may ask for what they ask for on a real cluster. /etc/slurm/slurm.conf leads here meanwhile: the Snakemake plugin clears
# SLURM_CONF from the environment of its jobs.
set -euo pipefail
action=$1 dir=$2
host=$(hostname -s)
conf=$dir/slurm.conf link=/etc/slurm/slurm.conf

stop() { # the daemons that this script started, by their process ids
  for name in slurmd slurmctld munged; do
    if [ -s "$dir/$name.pid" ]; then kill "$(cat "$dir/$name.pid")" 2>/dev/null || true; fi
  done
  if [ "$(readlink "$link")" = "$conf" ]; then rm "$link"; fi
}

write_configuration() {
  cat >"$conf" <<CONF
ClusterName=swiftkv
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
Prolog=$dir/prolog.sh
Epilog=$dir/epilog.sh
MinJobAge=3600
KillWait=2
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 RealMemory=512000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  echo "NodeName=$host Name=gpu File=$dir/gpu[0-1]" >"$dir/gres.conf"
  for number in 0 1; do mknod "$dir/gpu$number" c 1 3; done
  # Which job holds which devices, from when to when, as the node says.
  for event in prolog epilog; do
    printf '#!/bin/sh\necho "$(date +%%s.%%N) %s $SLURM_JOB_ID ${SLURM_JOB_GPUS:--}" >>%s/devices.log\n' \
      "$event" "$dir" >"$dir/$event.sh"
    chmod +x "$dir/$event.sh"
  done
}

start() {
  if [ -e "$link" ]; then
    echo "cluster.sh: $link exists: this machine has a Slurm of its own" >&2
    exit 2
  fi
  mkdir -p "$dir/state" "$dir/spool" "$(dirname "$link")"
  ln -sfn "$conf" "$link"
  chmod 700 "$dir"
  write_configuration
  head -c 1024 /dev/urandom >"$dir/munge.key"
  chmod 400 "$dir/munge.key"
  munged --force --key-file "$dir/munge.key" --socket "$dir/munge.socket" --pid-file "$dir/munged.pid" \
    --log-file "$dir/munged.log" --seed-file "$dir/munged.seed"
  SLURM_CONF=$conf slurmctld
  SLURM_CONF=$conf slurmd -N "$host"
  for _ in $(seq 30); do
    if [ "$(sinfo --noheader --format=%T)" = idle ]; then return; fi
    sleep 1
  done
  echo "cluster.sh: the node is not idle after 30 s; see $dir/*.log" >&2
  sinfo >&2
  stop
  exit 1
}

case "$action" in
  start) start ;;
  stop) stop ;;
  *) echo "cluster.sh: $action: allowed are start, stop" >&2; exit 2 ;;
esac
