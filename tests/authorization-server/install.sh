#!/usr/bin/env bash
# Installs the packages that package-lock.json names, once, outside the checkout; the last line on stdout is the folder that
# holds node_modules.
set -euo pipefail
cd "$(dirname "$0")"

cache="${XDG_CACHE_HOME:-$HOME/.cache}/dcr-operator/authorization-server"
folder="$cache/$(cat package.json package-lock.json | sha256sum | cut -c1-16)"

if ! [ -d "$folder" ]; then
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  flock 9
  if ! [ -d "$folder" ]; then
    # An installation that is cut short leaves only this folder behind, never a half-filled cache entry.
    partial=$(mktemp -d "$cache/partial.XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    cp package.json package-lock.json "$partial"
    npm ci --prefix "$partial" --ignore-scripts --no-audit --no-fund >&2
    chmod 755 "$partial"
    mv "$partial" "$folder"
  fi
fi
echo "$folder"
