#!/usr/bin/env bash
# Finds or builds the tools that judge the chart: helm, promtool and verdicts; the last line on stdout is their folder.
# First of: $DCR_OPERATOR_TOOLS, the cache, a build from Go modules (once; about ten minutes on two cores).
set -euo pipefail
cd "$(dirname "$0")"
source ../find-or-build.sh

build() {
  local helm
  # Charts ask for Helm's version; without the stamp it is that of a development build.
  helm=$(go list -m -f '{{.Version}}' helm.sh/helm/v4)
  go build -ldflags "-s -w -X helm.sh/helm/v4/internal/version.version=$helm" -o "$1/helm" helm.sh/helm/v4/cmd/helm
  go build -ldflags "-s -w" -o "$1/promtool" github.com/prometheus/prometheus/cmd/promtool
  go build -ldflags "-s -w" -o "$1/verdicts" ./verdicts
}

find_or_build tools DCR_OPERATOR_TOOLS helm promtool verdicts
