#!/usr/bin/env bash
# Starts the service: the same as scripts/serve, under the name in the local API's guide.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/serve" "$@"
