#!/usr/bin/env bash
# Finds or builds etcd, kube-apiserver, kube-controller-manager and kubectl; the last line on stdout is their folder.
# First of: $KUBEBUILDER_ASSETS, the cache, a build from Go modules (once; about ten minutes on two cores).
set -euo pipefail
cd "$(dirname "$0")"

readonly KUBERNETES=v1.37.1
readonly BINARIES=(etcd kube-apiserver kube-controller-manager kubectl)

say() { printf 'control-plane: %s\n' "$*" >&2; }

complete() {
  local binary
  for binary in "${BINARIES[@]}"; do
    [ -x "$1/$binary" ] || { missing=$binary; return 1; }
  done
}

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  if complete "$KUBEBUILDER_ASSETS"; then
    (cd "$KUBEBUILDER_ASSETS" && pwd)
    exit
  fi
  say "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no $missing, so it is not used"
fi

cache="${XDG_CACHE_HOME:-$HOME/.cache}/dcr-operator/control-plane"
folder="$cache/$(cat go.mod go.sum build.sh | sha256sum | cut -c1-16)"
if complete "$folder"; then
  echo "$folder"
  exit
fi

mkdir -p "$cache"
exec 9>"$cache/lock"
flock --nonblock 9 || { say "another build is running, waiting for it"; flock 9; }
if ! complete "$folder"; then
  command -v go >/dev/null || { say "Go is needed to build the control plane (https://go.dev/doc/install)"; exit 1; }
  say "building Kubernetes $KUBERNETES and etcd into $folder; this takes about ten minutes, once"
  # A build that is cut short leaves only this folder behind, never a half-filled cache entry.
  partial=$(mktemp -d "$cache/partial.XXXXXX")
  trap 'rm -rf "$partial"' EXIT
  export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS="-mod=readonly -trimpath -buildvcs=false"
  minor=${KUBERNETES#v1.}
  stamp="-s -w"
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    stamp="$stamp -X $package.gitVersion=$KUBERNETES -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
    stamp="$stamp -X $package.gitTreeState=clean -X $package.gitCommit=0000000000000000000000000000000000000000"
    stamp="$stamp -X $package.buildDate=1970-01-01T00:00:00Z"
  done
  go build -ldflags "-s -w" -o "$partial/etcd" go.etcd.io/etcd/server/v3
  for command in kube-apiserver kube-controller-manager kubectl; do
    say "building $command"
    go build -ldflags "$stamp" -o "$partial/$command" "k8s.io/kubernetes/cmd/$command"
  done
  chmod 755 "$partial"
  rm -rf "$folder"
  mv "$partial" "$folder"
fi
echo "$folder"
