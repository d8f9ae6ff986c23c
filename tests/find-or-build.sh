# Sourced by the build.sh of control-plane/ and tools/, which then call
#   find_or_build NAME VARIABLE PROGRAM...
# It prints the folder of these programs: the one that the environment VARIABLE names, the one in the cache, or a new
# one that the caller's function `build` has filled. `build` gets that folder as its argument.

say() { printf '%s: %s\n' "$name" "$*" >&2; }

complete() {
  local program
  for program in "${programs[@]}"; do
    [ -x "$1/$program" ] || { missing=$program; return 1; }
  done
}

find_or_build() {
  name=$1 programs=("${@:3}")
  local variable=$2
  local given=${!variable:-}
  if [ -n "$given" ]; then
    if complete "$given"; then
      (cd "$given" && pwd)
      return
    fi
    say "$variable=$given has no $missing, so it is not used"
  fi

  # Whatever makes a difference is in the caller's folder, or here.
  local cache key folder
  cache="${XDG_CACHE_HOME:-$HOME/.cache}/dcr-operator/$name"
  key=$({ find . -type f | LC_ALL=C sort | xargs cat; cat ../find-or-build.sh; } | sha256sum | cut -c1-16)
  folder="$cache/$key"
  if ! complete "$folder"; then
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock --nonblock 9 || { say "another build is running, waiting for it"; flock 9; }
  fi
  if ! complete "$folder"; then
    command -v go >/dev/null || { say "Go is needed to build ${programs[*]} (https://go.dev/doc/install)"; exit 1; }
    say "building ${programs[*]} into $folder; this takes about ten minutes, once"
    # A build that is cut short leaves only this folder behind, never a half-filled cache entry.
    partial=$(mktemp -d "$cache/partial.XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS="-mod=readonly -trimpath -buildvcs=false"
    build "$partial"
    chmod 755 "$partial"
    rm -rf "$folder"
    mv "$partial" "$folder"
  fi
  echo "$folder"
}
