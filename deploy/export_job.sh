#!/bin/sh
# The export job of compose.yaml: the checkpoint in /checkpoint, or the demo voice if CHECKPOINT (the
# folder's name outside) is not set, into the model repository /models/repository. It does nothing if
# that has been done before.
set -eu
cd /opt/voicereel
repository=/models/repository
unreadable=$(find -L /checkpoint ! -readable 2>/dev/null | head -n 1)
if [ -n "$unreadable" ]; then
  echo "export: user $(id -u) may not read $unreadable of CHECKPOINT=${CHECKPOINT:-}. Let it: chmod -R a+rX DIR" >&2
  exit 1
fi
# What the result depends on: the checkpoint's files, this image's code, and the options.
wanted=$({ ls -lLR /checkpoint; find engine ensemble export families model_repository -name '*.p[by]*' \
  -exec cat {} +; echo "${CHECKPOINT:+given} $*"; } | sha256sum)
if [ "$(cat /models/exported 2>/dev/null)" = "$wanted" ]; then
  echo "export: $repository is up to date"
  exit 0
fi
rm -f /models/exported
checkpoint=/checkpoint
if [ -z "${CHECKPOINT:-}" ]; then
  echo "export: CHECKPOINT is not set, so the demo voice is exported"
  checkpoint=/tmp/demo
  python3 -m export make-checkpoint demo --out "$checkpoint" --force
fi
python3 -m export run "$checkpoint" --repository "$repository" "$@"
echo "$wanted" > /models/exported
