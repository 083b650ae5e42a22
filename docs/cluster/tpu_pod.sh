#!/bin/bash
# A run on a TPU pod. All hosts mount one Filestore share (NFS) at /shared: checkpoints are renamed and locked, which a
# bucket cannot do. Set POD, ZONE and FILESTORE, the address and share of a Filestore instance in the same network.
set -euo pipefail
: "${POD:=bt-jax}" "${ZONE:=us-west4-a}" "${FILESTORE:?e.g. 10.0.0.2:/share}"

on_all() {
  gcloud compute tpus tpu-vm ssh "$POD" --zone="$ZONE" --worker=all --command="$1"
}

case "${1:?create, install, train or delete}" in
create)
  gcloud compute tpus tpu-vm create "$POD" --zone="$ZONE" --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite
  ;;
install) # the code is at /shared/bt_jax, the data set is built in /shared/data
  on_all "sudo apt-get update && sudo apt-get install -y nfs-common python3.11-venv && sudo mkdir -p /shared && \
sudo mount $FILESTORE /shared && python3.11 -m venv ~/venv && \
~/venv/bin/pip install -c /shared/bt_jax/constraints.txt '/shared/bt_jax[train,dicom,imagenet]' 'jax[tpu]'"
  ;;
train) # the same command resumes a run
  on_all "cd /shared/bt_jax && ~/venv/bin/python launch.py --config=configs/seg.py --workdir=/shared/runs/wide \
--config.data.dir=/shared/data --config.train.batch_size=64 --coordinator=auto"
  ;;
delete)
  gcloud compute tpus tpu-vm delete "$POD" --zone="$ZONE" --quiet
  ;;
*)
  echo "expected create, install, train or delete, not $1" >&2
  exit 1
  ;;
esac
