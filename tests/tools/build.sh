#!/usr/bin/env bash
# Finds or builds the tools that judge the chart: helm, promtool, kubeconform and verdicts, beside the CRDs of others whose
# kinds are used here; the last line on stdout is their folder.
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
  go build -ldflags "-s -w" -o "$1/kubeconform" github.com/yannh/kubeconform/cmd/kubeconform

  # The engines of Argo CD and Flux need a newer Go than the others; the go command fetches the one that go.mod names.
  export GOTOOLCHAIN=auto
  cd verdicts
  go build -ldflags "-s -w" -o "$1/verdicts" .
  mkdir "$1/crds"
  crds "$1" github.com/prometheus-operator/prometheus-operator@v0.85.0 \
    example/prometheus-operator-crd/monitoring.coreos.com_{podmonitors,servicemonitors,prometheusrules}.yaml
  crds "$1" github.com/fluxcd/source-controller@v1.10.1 config/crd/bases/source.toolkit.fluxcd.io_gitrepositories.yaml
  crds "$1" github.com/fluxcd/kustomize-controller@v1.10.1 \
    config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml
  crds "$1" github.com/argoproj/argo-cd/v3@v3.6.1 manifests/crds/application-crd.yaml
}

# Copies files of a module that has no package to import: crds FOLDER MODULE FILE...
crds() {
  local module file
  module=$(go mod download -json "$2" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  for file in "${@:3}"; do
    install -m 644 "$module/$file" "$1/crds"
  done
}

find_or_build tools DCR_OPERATOR_TOOLS helm promtool kubeconform verdicts crds
