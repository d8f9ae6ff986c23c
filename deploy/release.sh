#!/usr/bin/env bash
# Writes all that a release consists of to dist/: the image as an OCI archive, the static binary, the chart, the manifests,
# an SBOM (CycloneDX) and the checksums of all of them.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly CYCLONEDX=0.5.9
version=$(sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/dcr-operator"

say() { printf 'release: %s\n' "$*" >&2; }

grep -q "^## \[$version\]" CHANGELOG.md || say "CHANGELOG.md has no section [$version] yet: write it before you publish this"
rm -rf dist
archive=$(deploy/image.sh | tail -n 1)

# The binary as it is in the image.
binary="dist/dcr-operator-$version-linux-$(uname -m)"
unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
tar -C "$unpacked" -xf "$archive"
for layer in "$unpacked"/blobs/sha256/*; do
  tar -C "$unpacked" -xzf "$layer" dcr-operator 2>/dev/null || true
done
install -m 0755 "$unpacked/dcr-operator" "$binary"

# A chart's time is that of its packing; the archive is packed anew with a fixed one.
"$(tests/tools/build.sh | tail -n 1)/helm" package charts/dcr-operator --destination "$unpacked" >/dev/null
mkdir "$unpacked/chart"
tar -C "$unpacked/chart" -xzf "$unpacked/dcr-operator-$version.tgz"
tar -C "$unpacked/chart" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - dcr-operator | gzip -n >"dist/dcr-operator-$version.tgz"

kubectl="$(tests/control-plane/build.sh | tail -n 1)/kubectl"
"$kubectl" kustomize crds >"dist/crds-$version.yaml"
"$kubectl" kustomize deploy/base >"dist/install-$version.yaml"

tool="$cache/cargo-cyclonedx-$CYCLONEDX"
[ -x "$tool/bin/cargo-cyclonedx" ] || cargo install cargo-cyclonedx --version "$CYCLONEDX" --locked --root "$tool" >&2
SOURCE_DATE_EPOCH=0 "$tool/bin/cargo-cyclonedx" cyclonedx --quiet --format json --spec-version 1.5 \
  --target "$(uname -m)-unknown-linux-musl" --override-filename dcr-operator-sbom >&2
# It names this crate by its path on this machine.
sed "s|path+file://$PWD|path+file:///source|g" dcr-operator-sbom.json >"dist/dcr-operator-$version.cdx.json"
rm dcr-operator-sbom.json

(cd dist && sha256sum -- * >SHA256SUMS)
say "dist/ has:"
ls -l dist >&2
