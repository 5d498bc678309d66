#!/bin/sh
# A commit that changes what a run trains starts that run; any other starts nothing.
#
#   retrain.sh [--push]
#
# Renders every run file of $CONFIGS (default: configs) to $RUNS/NAME-HASH.yaml (default: runs), which `launcher render --out`
# writes only where it is not there yet, and commits what is new. Beside configs/NAME.yaml may lie configs/NAME.manifest.json, a
# copy of the manifest.json of the data set (DATA/tokens/manifest.json): its SHA-256 is then the run's data fingerprint.
# $LAUNCHER is the command (default: launcher), $NAMESPACE the runs' namespace (default: default).
set -eu

configs=${CONFIGS:-configs}
runs=${RUNS:-runs}
namespace=${NAMESPACE:-default}
launcher=${LAUNCHER:-launcher}

cd "$(git rev-parse --show-toplevel)"
if [ "$(git rev-parse --is-shallow-repository)" = true ]; then
  echo "retrain: this clone has no history, and retired runs could not be told from new ones; fetch all of it" >&2
  exit 2
fi

for file in "$configs"/*.yaml; do
  if [ ! -e "$file" ]; then
    echo "retrain: no run files in $configs" >&2
    exit 2
  fi
  manifest="${file%.yaml}.manifest.json"
  fingerprint=
  if [ -e "$manifest" ]; then
    fingerprint="--set fingerprints.data=$(sha256sum "$manifest" | cut -d ' ' -f 1)"
  fi
  # shellcheck disable=SC2086 # both may be several words
  $launcher render -f "$file" --set gitops=true $fingerprint --namespace "$namespace" --out "$runs" >/dev/null
done

names=
for file in $(git ls-files --others --exclude-standard -- "$runs"); do
  name=$(basename "$file" .yaml)
  if [ -n "$(git log -1 --format=%h --diff-filter=D -- "$file")" ]; then
    echo "retrain: $name was trained and retired; to have it again, render it by hand and commit it" >&2
    rm "$file"
  else
    git add -- "$file"
    names="$names $name"
    echo "$file"
  fi
done
if [ -z "$names" ]; then
  echo "retrain: nothing new to train" >&2
  exit 0
fi
git commit --quiet --message "Start$names" -- "$runs"
if [ "${1:-}" = --push ]; then
  # somebody else may have pushed in between; a run's file has a name of its own, so this cannot conflict
  git push --quiet || { git pull --quiet --rebase && git push --quiet; }
fi
