#!/usr/bin/env bash
# Finds or builds etcd, kube-apiserver, kube-controller-manager and kubectl; the last line on stdout is their folder.
# First of: $KUBEBUILDER_ASSETS, the cache, a build from Go modules (once; about ten minutes on two cores).
set -euo pipefail
cd "$(dirname "$0")"
source ../find-or-build.sh

readonly KUBERNETES=v1.37.1

build() {
  local minor stamp package command
  minor=${KUBERNETES#v1.}
  stamp="-s -w"
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    stamp="$stamp -X $package.gitVersion=$KUBERNETES -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
    stamp="$stamp -X $package.gitTreeState=clean -X $package.gitCommit=0000000000000000000000000000000000000000"
    stamp="$stamp -X $package.buildDate=1970-01-01T00:00:00Z"
  done
  go build -ldflags "-s -w" -o "$1/etcd" go.etcd.io/etcd/server/v3
  for command in kube-apiserver kube-controller-manager kubectl; do
    say "building $command"
    go build -ldflags "$stamp" -o "$1/$command" "k8s.io/kubernetes/cmd/$command"
  done
}

find_or_build control-plane KUBEBUILDER_ASSETS etcd kube-apiserver kube-controller-manager kubectl
