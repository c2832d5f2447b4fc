#!/usr/bin/env bash
# What has changed in the exported API since the last release. Incompatible changes end it
# with 1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
apidiff=${APIDIFF:?the command that runs apidiff}
compare() { $apidiff -m "$@" 2> >(grep -v '^Ignoring internal package' >&2); }

if ! last=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null); then
	echo "api: there is no release yet, and nothing to compare with"
	exit
fi
tmp=$(mktemp -d)
trap 'git worktree remove --force "$tmp/tree" 2>/dev/null || true; rm -rf "$tmp"' EXIT
git worktree add --quiet --detach "$tmp/tree" "$last"
broken=0
for m in . goredislock etcdlock pglock goneprom goneotel gonehttp; do
	[ -f "$tmp/tree/$m/go.mod" ] || continue
	(cd "$tmp/tree/$m" && compare -w "$tmp/old" "$(go list -m)")
	echo "== $m since $last"
	(cd "$m" && compare "$tmp/old" "$(go list -m)")
	incompatible=$(cd "$m" && compare -incompatible "$tmp/old" "$(go list -m)")
	[ -z "$incompatible" ] || broken=1
done
exit $broken
