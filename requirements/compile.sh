#!/usr/bin/env bash
# Resolves pyproject.toml's dependencies into requirements/*.txt: exact versions with hashes, one file for Python 3.11 to
# 3.13 and every platform. Needs uv on the PATH. dev.txt goes first and constrains the others, so that the images run the
# very versions that the tests ran.
#   requirements/compile.sh            keeps the pinned versions wherever they still fit
#   requirements/compile.sh --upgrade  takes the newest versions that fit
set -euo pipefail
cd "$(dirname "$0")/.."

compile() {
  local output=$1
  shift
  uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file "requirements/$output" "$@" >/dev/null
}

compile dev.txt "$@" pyproject.toml --extra cpu --extra dev
compile cpu.txt "$@" pyproject.toml --extra cpu --constraint requirements/dev.txt
compile gpu.txt "$@" pyproject.toml --extra gpu --constraint requirements/dev.txt
compile build.txt "$@" requirements/build.in --constraint requirements/dev.txt
