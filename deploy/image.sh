#!/usr/bin/env bash
# Builds the image: a static binary (musl) on nothing. The last line on stdout is the archive, in OCI format. Two builds of
# the same sources with the same Rust give the same digest.
#
# Needs Rust, buildah, musl-gcc and the CA certificates of the system; as root on Debian it installs what is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'image: %s\n' "$*" >&2; }

packages=()
command -v musl-gcc >/dev/null || packages+=(musl-tools)
command -v buildah >/dev/null || packages+=(buildah)
readonly CERTIFICATES=/etc/ssl/certs/ca-certificates.crt
[ -e "$CERTIFICATES" ] || packages+=(ca-certificates)
if [ ${#packages[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing ${packages[*]}"
    { apt-get update -qq && apt-get install -y --no-install-recommends "${packages[@]}"; } >&2
  else
    say "these Debian packages are needed, or what has their place on your system: ${packages[*]}"
    exit 1
  fi
fi

readonly TARGET="$(uname -m)-unknown-linux-musl"
if command -v rustup >/dev/null; then
  rustup target list --installed | grep -qx "$TARGET" || rustup target add "$TARGET" >&2
fi

version=$(sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/dcr-operator/image"
# Its own, so that a fresh clone compiles only this crate; the path is the same in every clone.
export CARGO_TARGET_DIR="${DCR_OPERATOR_IMAGE_TARGET:-$cache/$( (rustc -V; cat Cargo.lock) | sha256sum | cut -c1-16)}"
# No path of this machine is in the binary; those of this crate are relative anyway.
home="${CARGO_HOME:-$HOME/.cargo}"
export RUSTFLAGS="--remap-path-prefix=$home=/cargo --remap-path-prefix=$CARGO_TARGET_DIR=/target"
export CARGO_PROFILE_RELEASE_LTO=fat
# Of C code too (aws-lc-rs).
export CFLAGS="-ffile-prefix-map=$home=/cargo -ffile-prefix-map=$CARGO_TARGET_DIR=/target"
cargo build --release --locked --target "$TARGET" --bin dcr-operator >&2

mkdir -p dist "$cache"
# One at a time: buildah's storage and the archive are shared.
exec 9>"$cache/lock"
flock 9
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
install -m 0755 "$CARGO_TARGET_DIR/$TARGET/release/dcr-operator" "$context/dcr-operator"
install -m 0644 "$CERTIFICATES" "$context/ca-certificates.crt"
readonly STORAGE=(--root "$context/storage" --runroot "$context/run" --storage-driver vfs)
archive="dist/dcr-operator-$version.oci.tar"
# The time of everything in it, because that of the build is in no source.
buildah "${STORAGE[@]}" build --isolation chroot --format oci --timestamp 0 --quiet \
  --label org.opencontainers.image.title=dcr-operator --label "org.opencontainers.image.version=$version" \
  --label org.opencontainers.image.licenses=Apache-2.0 \
  --file deploy/Dockerfile --tag "dcr-operator:$version" "$context" >&2
rm -f "$archive"
buildah "${STORAGE[@]}" push --quiet "dcr-operator:$version" "oci-archive:$archive:dcr-operator:$version" >&2
say "dcr-operator:$version is in $archive"
echo "$PWD/$archive"
