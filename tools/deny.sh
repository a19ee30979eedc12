#!/usr/bin/env bash
# Checks the dependencies against deny.toml: bans, licences, sources; advisories too where their database can be reached.
#
# cargo-deny is built once into the cache when the machine has none (a few minutes): it is not part of the workspace.
set -euo pipefail

readonly VERSION=0.20.2
readonly ROOT=$HOME/.cache/larder/tools
readonly FETCH_SECONDS=30
export PATH="$ROOT/bin:$PATH"
cd "$(dirname "$0")/.."

if ! cargo deny --version 2>/dev/null | grep -qx "cargo-deny $VERSION"; then
  echo "deny: building cargo-deny $VERSION, once" >&2
  # Unoptimised: it runs for a second and is built for minutes. A target folder of its own leaves the workspace's alone.
  CARGO_TARGET_DIR="$ROOT/target" cargo install --quiet --locked --debug --root "$ROOT" --version "$VERSION" cargo-deny
  rm -rf "$ROOT/target"
fi

cargo deny --locked check --hide-inclusion-graph bans licenses sources
if timeout "$FETCH_SECONDS" cargo deny fetch db >/dev/null 2>&1; then
  cargo deny --locked check --hide-inclusion-graph --disable-fetch advisories
else
  echo "deny: advisories skipped, their database cannot be reached" >&2
fi
