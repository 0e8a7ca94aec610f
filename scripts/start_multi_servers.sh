#!/usr/bin/env bash
# num_gpus=8 bash scripts/start_multi_servers.sh [--start_port N] [CONFIG]
# One service with a replica for each GPU, at one URL: what used to be a server for each GPU on consecutive ports.
set -euo pipefail

arguments=(--replicas "${num_gpus:?set num_gpus to the number of replicas, e.g. num_gpus=8}")
for argument in "$@"; do
    arguments+=("${argument/#--start_port/--port}")
done
exec "$(dirname "${BASH_SOURCE[0]}")/serve" "${arguments[@]}"
