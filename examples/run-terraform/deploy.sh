#!/bin/sh
# What a CI job runs under `singletrack run`. Terraform takes no lock of its own: the slot is the lock, and nobody has to
# `force-unlock` it after a runner has died.
set -eu
cd "$(dirname "$0")"
terraform init -input=false -no-color >/dev/null
singletrack fence check # Still ours? An apply is the dangerous step.
# With exec, Terraform itself hears the SIGTERM of a cancel: it stops after the step under way and writes its state.
exec terraform apply -auto-approve -input=false -no-color -lock=false "$@"
