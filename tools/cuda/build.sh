#!/usr/bin/env bash
# Builds Larder for NVIDIA GPUs, or checks that it would build, on a machine that has neither a GPU nor CUDA nor LLVM.
#
#   tools/cuda/build.sh check            type-checks the model crate with the feature; what `make check-cuda` calls
#   tools/cuda/build.sh release [DIR]    leaves `larder` and `bench-gpu` in DIR (target/cuda): carry them to a machine with a GPU
#
# Burn's CUDA backend depends on a crate whose build downloads LLVM. Our kernels go through CUDA C++ and NVRTC instead (cubecl's feature
# cuda-cpp), which calls nothing of it, so cubecl-llvm beside this file stands in for it. It is patched into a copy of the project: the
# project's own manifest and lock stay as they are. The copy's files get new times, because cargo tells two states of a package
# in one target folder apart by nothing else. LARDER_CUDA_FEATURE chooses between cuda-tuned, the default, and cuda.
set -euo pipefail

usage() { sed -n '4,5s/^# *//p' "$0" >&2; exit 2; }
what=${1:-}
[ "$what" = check ] || [ "$what" = release ] || usage
project=$(cd "$(dirname "$0")/../.." && pwd)
output=${2:-$project/target/cuda}
feature=${LARDER_CUDA_FEATURE:-cuda-tuned}
work=$HOME/.cache/larder/cuda
export CARGO_TARGET_DIR=$HOME/.cache/larder/cuda-target
# The CUDA version that the bindings are for, which they would otherwise ask nvcc.
export CUDARC_CUDA_VERSION=13000

mkdir -p "$work"
exec 9>"$work/lock"
flock 9
# Touched only when it differs: everything of Burn's that knows CUDA is compiled anew after it.
if ! diff -rq "$project/tools/cuda/cubecl-llvm" "$work/cubecl-llvm" >/dev/null 2>&1; then
  rm -rf "$work/cubecl-llvm"
  cp -r "$project/tools/cuda/cubecl-llvm" "$work/"
fi
rm -rf "$work/project"
mkdir "$work/project"
(cd "$project" && tar -c --exclude=./target --exclude=./.git --exclude=./data --exclude=./tools/cuda .) | tar -xm -C "$work/project"
if [ -f "$HOME/.cache/larder/setup.env" ]; then . "$HOME/.cache/larder/setup.env"; fi
cd "$work/project"

patch="patch.crates-io.cubecl-llvm.path=\"$work/cubecl-llvm\""
cargo metadata --format-version 1 --config "$patch" >/dev/null # puts the stand-in into the copy's lock
# Up to the binary: what serve and tools pass on is checked here too.
if cargo tree --locked --package larder --config "$patch" --features "$feature" --prefix none | grep -E '^(tracel-llvm|llvm-sys)'; then
  echo "cuda: LLVM is still among the dependencies" >&2
  exit 1
fi
if [ "$what" = check ]; then
  cargo check --locked --package larder-model --all-targets --features "$feature" --config "$patch"
  touch "$CARGO_TARGET_DIR/checked"
  exit
fi
cargo build --locked --release --package larder --features "$feature" --config "$patch"
bench=$(cargo build --locked --release --package larder-benches --bench gpu --features "$feature" --config "$patch" --message-format json |
  python3 -c 'import json, sys; print(*(m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable") and m["target"]["name"] == "gpu"))')
mkdir -p "$output"
install -s "$CARGO_TARGET_DIR/release/larder" "$output/larder"
install -s "$bench" "$output/bench-gpu"
ls -l "$output"
