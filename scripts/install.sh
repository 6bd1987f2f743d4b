#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Brings a checkout's dependencies and its own Node, when they are missing or the lock file has changed.
# Every npm script runs this first (pre-scripts), so it is plain sh: on a fresh clone there is nothing
# else, and the machine's Node may be too old for the rest. Does nothing, in a millisecond, when all is
# there. `npm ci` begins by emptying node_modules, so it runs only when it must, and never through a
# link into another checkout.
set -eu
cd "$(dirname "$0")/.."

node=node_modules/node/bin/node
installed=node_modules/.varve-lock.json

is_current() {
  [ -x "$node" ] || return 1
  if [ -f "$installed" ]; then
    cmp -s package-lock.json "$installed"
  else
    # Installed by hand: npm's own record tells.
    [ ! package-lock.json -nt node_modules/.package-lock.json ]
  fi
}

if [ -L node_modules ] || is_current; then
  exit 0
fi

echo "varve: installing dependencies (npm ci), once" >&2
npm ci --no-audit --no-fund --loglevel=error >&2
# The package `node` fetches its binary in an install script, which npm may be told to leave out.
if [ ! -x "$node" ]; then
  npm rebuild node --ignore-scripts=false --foreground-scripts --loglevel=error >&2
fi
if [ ! -x "$node" ]; then
  echo "varve: error: the checkout's own Node wasn't installed: $node is missing" >&2
  echo "varve: hint: look at what \"npm rebuild node --foreground-scripts\" says" >&2
  exit 1
fi
cp package-lock.json "$installed"
