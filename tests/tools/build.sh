#!/usr/bin/env bash
# Finds or builds the tools that judge the chart: helm, promtool and verdicts; the last line on stdout is their folder.
# First of: $DCR_OPERATOR_TOOLS, the cache, a build from Go modules (once; some minutes on two cores).
set -euo pipefail
cd "$(dirname "$0")"

readonly BINARIES=(helm promtool verdicts)

say() { printf 'tools: %s\n' "$*" >&2; }

complete() {
  local binary
  for binary in "${BINARIES[@]}"; do
    [ -x "$1/$binary" ] || { missing=$binary; return 1; }
  done
}

if [ -n "${DCR_OPERATOR_TOOLS:-}" ]; then
  if complete "$DCR_OPERATOR_TOOLS"; then
    (cd "$DCR_OPERATOR_TOOLS" && pwd)
    exit
  fi
  say "DCR_OPERATOR_TOOLS=$DCR_OPERATOR_TOOLS has no $missing, so it is not used"
fi

cache="${XDG_CACHE_HOME:-$HOME/.cache}/dcr-operator/tools"
folder="$cache/$(cat go.mod go.sum build.sh verdicts/*.go | sha256sum | cut -c1-16)"
if complete "$folder"; then
  echo "$folder"
  exit
fi

mkdir -p "$cache"
exec 9>"$cache/lock"
flock --nonblock 9 || { say "another build is running, waiting for it"; flock 9; }
if ! complete "$folder"; then
  command -v go >/dev/null || { say "Go is needed to build the tools (https://go.dev/doc/install)"; exit 1; }
  say "building ${BINARIES[*]} into $folder; this takes some minutes, once"
  # A build that is cut short leaves only this folder behind, never a half-filled cache entry.
  partial=$(mktemp -d "$cache/partial.XXXXXX")
  trap 'rm -rf "$partial"' EXIT
  export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS="-mod=readonly -trimpath -buildvcs=false"
  # Charts ask for Helm's version; without the stamp it is that of a development build.
  helm=$(go list -m -f '{{.Version}}' helm.sh/helm/v4)
  go build -ldflags "-s -w -X helm.sh/helm/v4/internal/version.version=$helm" -o "$partial/helm" helm.sh/helm/v4/cmd/helm
  go build -ldflags "-s -w" -o "$partial/promtool" github.com/prometheus/prometheus/cmd/promtool
  go build -ldflags "-s -w" -o "$partial/verdicts" ./verdicts
  chmod 755 "$partial"
  rm -rf "$folder"
  mv "$partial" "$folder"
fi
echo "$folder"
