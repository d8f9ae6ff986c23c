#!/usr/bin/env bash
# Finds or makes a Keycloak that starts in seconds: the distribution of Maven Central, built for its database, beside a
# database that holds the realm of realm.json. Once, outside the checkout; the last line on stdout is the folder.
# It needs Java 17 or later and Maven.
set -euo pipefail
cd "$(dirname "$0")"

readonly KEYCLOAK=26.7.3
readonly SHA256=77657f30b7e90d70f727712ce1c967f430fd6a5e9f458d32d8c6df0635345f47
readonly COPY=org.apache.maven.plugins:maven-dependency-plugin:3.9.0:copy

say() { printf 'keycloak: %s\n' "$*" >&2; }

cache="${XDG_CACHE_HOME:-$HOME/.cache}/dcr-operator/keycloak"
folder="$cache/$KEYCLOAK-$(cat install.sh java-options realm.json | sha256sum | cut -c1-16)"
if [ -d "$folder" ]; then
  echo "$folder"
  exit
fi

mkdir -p "$cache"
exec 9>"$cache/lock"
flock --nonblock 9 || { say "another installation is running, waiting for it"; flock 9; }
if ! [ -d "$folder" ]; then
  java="${JAVA_HOME:+$JAVA_HOME/bin/}java"
  for program in "$java" mvn; do
    command -v "$program" >/dev/null || { say "Java 17 or later and Maven are needed: there is no $program"; exit 1; }
  done
  say "installing Keycloak $KEYCLOAK into $folder; this takes about a minute, once"
  # An installation that is cut short leaves only this folder behind, never a half-filled cache entry.
  partial=$(mktemp -d "$cache/partial.XXXXXX")
  trap 'rm -rf "$partial"' EXIT
  archive="$partial/keycloak-quarkus-dist-$KEYCLOAK.tar.gz"
  mvn --batch-mode --quiet --strict-checksums "$COPY" -DoutputDirectory="$partial" \
    -Dartifact="org.keycloak:keycloak-quarkus-dist:$KEYCLOAK:tar.gz" >&2
  echo "$SHA256  $archive" | sha256sum --check --quiet >&2
  home="$partial/home"
  mkdir "$home"
  tar --extract --gzip --file "$archive" --directory "$home" --strip-components 1
  "$home/bin/kc.sh" build --db=dev-file >&2
  say "importing the realm"
  "$java" @java-options -Dkc.home.dir="$home" -cp "$home/lib/quarkus-run.jar" \
    io.quarkus.bootstrap.runner.QuarkusEntryPoint import --optimized --cache=local --file="$PWD/realm.json" >&2
  mv "$home" "$folder"
fi
echo "$folder"
