#!/usr/bin/env bash
# Makes what Python programs need to call a node: a virtual environment with gRPC, pandas and pyarrow in the cache, and stubs of the proto
# files in the folder that is named. Does nothing that is done already. LARDER_LONG=1 adds what the long tests use.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
protos=$here/../../serve/proto
stubs=${1:?usage: tools/python/setup.sh STUBS_FOLDER}
venv=$HOME/.cache/larder/tools/python

requirements=("$here/requirements.txt")
if [ "${LARDER_LONG:-0}" != 0 ]; then
  requirements+=("$here/requirements-long.txt")
fi
for file in "${requirements[@]}"; do
  installed=$venv/$(basename "$file")
  if ! cmp -s "$file" "$installed"; then
    echo "python: installing $(grep -c '==' "$file") packages into $venv" >&2
    [ -x "$venv/bin/pip" ] || python3 -m venv "$venv"
    "$venv/bin/pip" install -q --disable-pip-version-check -r "$file"
    cp "$file" "$installed"
  fi
done

mkdir -p "$stubs"
files=("$protos"/larder/v1/*.proto)
sums=$(cat "${files[@]}" "$here/requirements.txt" | sha256sum)
if [ "$sums" != "$(cat "$stubs/made-from" 2>/dev/null)" ]; then
  rm -rf "$stubs/larder"
  "$venv/bin/python" -m grpc_tools.protoc -I "$protos" --python_out="$stubs" --pyi_out="$stubs" --grpc_python_out="$stubs" "${files[@]}"
  echo "$sums" >"$stubs/made-from"
fi
