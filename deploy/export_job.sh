#!/bin/sh
# The export job of compose.yaml: the checkpoint in /checkpoint, or the demo voice if that folder is
# empty, into the model repository /models/repository. It does nothing if that has been done before.
set -eu
cd /opt/voicereel
repository=/models/repository
# What the result depends on: the checkpoint's files, this image's code, and the options.
wanted=$({ ls -lLR /checkpoint; find engine ensemble export families model_repository -name '*.p[by]*' \
  -exec cat {} +; echo "$*"; } | sha256sum)
if [ "$(cat /models/exported 2>/dev/null)" = "$wanted" ]; then
  echo "export: $repository is up to date"
  exit 0
fi
rm -f /models/exported
checkpoint=/checkpoint
if [ -z "$(ls /checkpoint)" ]; then
  echo "export: /checkpoint is empty, so the demo voice is exported"
  checkpoint=/tmp/demo
  python3 -m export make-checkpoint demo --out "$checkpoint" --force
fi
python3 -m export run "$checkpoint" --repository "$repository" "$@"
echo "$wanted" > /models/exported
