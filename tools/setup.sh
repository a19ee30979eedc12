#!/usr/bin/env bash
# Makes this machine able to build Larder: a C++ compiler and libclang (RocksDB's bindings are generated at build time),
# and pip, where the encoder's weights may have to come from the package registry. Fast and silent when nothing is
# missing; run it as often as you like.
#
# Missing packages are installed with apt-get when this is root or may use sudo without a password. Where it may not,
# libclang alone still comes as a Python wheel, unzipped into the cache; for anything else the packages are named.
# What a build must know about this machine is left in ~/.cache/larder/setup.env, which the Makefile reads.
set -euo pipefail

readonly CACHE=$HOME/.cache/larder
readonly LIBCLANG_WHEEL=libclang==18.1.1
readonly LIBCLANG_WHEEL_SHA256=(
  c533091d8a3bbf7460a00cb6c1a71da93bffe148f172c7d03b1c31fbf8aa2a0b # x86_64
  54dda940a4a0491a9d1532bf071ea3ef26e6dbaf03b5000ed94dd7174e8f9592 # aarch64
)

say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
have_compiler() { have c++ && have cc; }
# pip itself, or what an environment with pip is made from. Only looked for, not imported: that takes a second.
have_pip() { python3 -c 'import sys; from importlib.util import find_spec as has; sys.exit(not (has("pip") or has("ensurepip") and has("venv")))'; }

# A folder with a libclang that bindgen can load, or nothing.
libclang_folder() {
  local folder file
  for folder in "${LIBCLANG_PATH:-}" /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu /usr/lib64 /usr/lib /usr/local/lib "$CACHE/libclang"; do
    for file in "$folder"/libclang.so "$folder"/libclang.so.* "$folder"/libclang-[0-9]*.so*; do
      if [ -n "$folder" ] && [ -e "$file" ]; then echo "$folder"; return; fi
    done
  done
}

# clang's own stddef.h and friends, which a bare libclang lacks; gcc's serve as well.
have_clang_headers() { compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null || compgen -G '/usr/lib/clang/*/include/stddef.h' >/dev/null; }

apt_install() {
  local root=()
  if [ "$(id -u)" != 0 ]; then
    { have sudo && sudo -n true 2>/dev/null; } || return 1
    root=(sudo -n)
  fi
  have apt-get || return 1
  say "installing $*"
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 &&
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# A Python with pip: the machine's own, or one in an environment in the cache.
python_with_pip() {
  if python3 -m pip --version >/dev/null 2>&1; then echo python3; return; fi
  local environment=$CACHE/python
  [ -x "$environment/bin/python3" ] || python3 -m venv --clear "$environment" >/dev/null 2>&1 || return 1
  echo "$environment/bin/python3"
}

libclang_from_wheel() {
  local python work hash
  python=$(python_with_pip) || return 1
  say "fetching $LIBCLANG_WHEEL as a Python wheel"
  mkdir -p "$CACHE"
  work=$(mktemp -d "$CACHE/libclang.XXXXXX")
  { printf '%s' "$LIBCLANG_WHEEL"; for hash in "${LIBCLANG_WHEEL_SHA256[@]}"; do printf ' --hash=sha256:%s' "$hash"; done; } >"$work/wanted"
  if "$python" -m pip download --quiet --no-deps --only-binary=:all: --require-hashes --dest "$work" -r "$work/wanted" >&2 &&
    (cd "$work" && python3 -m zipfile -e libclang-*.whl unpacked); then
    mkdir -p "$CACHE/libclang"
    mv "$work"/unpacked/*/platlib/clang/native/libclang.so "$CACHE/libclang/"
    rm -rf "$work"
  else
    rm -rf "$work"
    return 1
  fi
}

have cargo || fail "Rust is missing; install it with rustup (the version stands in rust-toolchain.toml)"
have python3 || fail "python3 is missing; on a Debian-like machine: apt-get install python3"

packages=()
have_compiler || packages+=(g++)
[ -n "$(libclang_folder)" ] || packages+=(libclang-dev)
have_pip || packages+=(python3-pip)
if [ ${#packages[@]} -gt 0 ]; then
  apt_install "${packages[@]}" || say "cannot install packages here (no root, no password-free sudo, or no apt-get)"
  [ -n "$(libclang_folder)" ] || libclang_from_wheel || true
fi
have_compiler || fail "a C++ compiler is missing; on a Debian-like machine: apt-get install g++"
folder=$(libclang_folder)
[ -n "$folder" ] || fail "libclang is missing; on a Debian-like machine: apt-get install libclang-dev (or set LIBCLANG_PATH)"
have_pip || say "python3 has no pip: fine as long as the encoder's weights come from the hub, else apt-get install python3-pip"

mkdir -p "$CACHE"
{
  echo "# Written by tools/setup.sh."
  # Where bindgen looks by itself it is left to: a changed LIBCLANG_PATH makes cargo build RocksDB anew.
  if [ "$folder" = "$CACHE/libclang" ]; then echo "export LIBCLANG_PATH='$folder'"; fi
  if [ "$folder" = "$CACHE/libclang" ] || ! have_clang_headers; then
    echo "export BINDGEN_EXTRA_CLANG_ARGS='-isystem $(cc -print-file-name=include)'"
  fi
} >"$CACHE/setup.env.$$"
mv "$CACHE/setup.env.$$" "$CACHE/setup.env"
