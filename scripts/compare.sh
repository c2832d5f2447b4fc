#!/usr/bin/env bash
# Sends and the lock of this tree beside those of the last release, or of the commit in
# SINCE: the benchmarks of both in turns, ROUNDS times (10), each for EACH (500ms).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
benchstat=${BENCHSTAT:?the command that runs benchstat}

since=${SINCE:-$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null || true)}
if [ -z "$since" ]; then
	echo "compare: there is no release yet; name a commit in SINCE"
	exit
fi
tmp=$(mktemp -d)
trap 'git worktree remove --force "$tmp/tree" 2>/dev/null || true; rm -rf "$tmp"' EXIT
git worktree add --quiet --detach "$tmp/tree" "$since"
(cd "$tmp/tree" && go test -c -o "$tmp/then" .)
go test -c -o "$tmp/now" .
measure() {
	"$tmp/$1" -test.run '^$' -test.bench "${BENCH:-SendData|LockAndUnlock}" -test.benchtime "${EACH:-500ms}" >>"$tmp/$1.txt" 2>"$tmp/log" ||
		{ cat "$tmp/log" >&2 && exit 1; }
}
for ((i = 0; i < ${ROUNDS:-10}; i++)); do
	if ((i % 2)); then measure now && measure then; else measure then && measure now; fi
done
$benchstat "$since=$tmp/then.txt" "now=$tmp/now.txt"
