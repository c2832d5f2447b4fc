#!/usr/bin/env bash
# Tags a release of all modules, in this clone only: nothing is pushed.
#
#   scripts/release.sh v1.0.0-rc.1
#
# The root is tagged as it is. A module below it says here `replace …/go-one => ../` and
# requires v0.0.0. What users get must do neither: `go install` refuses replace, and there
# is no v0.0.0. So each of them is tagged at a commit of its own, which only its tag keeps,
# with the released versions in its go.mod and go.sum. At last a program gets all of them,
# as a user would. docs/releasing.md says what comes before and after.
set -euo pipefail

version=${1:?the version, like v1.0.0-rc.1}
root=github.com/Diggs/go-one
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repo=$(git rev-parse --show-toplevel)

# Those that users import or install, each after those that it needs.
modules=()
for m in goredislock etcdlock pglock goneprom goneotel gonehttp cmd/gone; do
	[ -f "$m/go.mod" ] && modules+=("$m")
done

die() { echo "release: $*" >&2; exit 1; }
[[ $version =~ ^v1\.[0-9]+\.[0-9]+(-rc\.[0-9]+)?$ ]] || die "$version is no version of v1"
[ -z "$(git status --porcelain)" ] || die "there are changes that are not committed"
grep -q "^## ${version#v}" CHANGELOG.md || die "CHANGELOG.md has nothing about ${version#v}"
for tag in "$version" "${modules[@]/%//$version}"; do
	! git rev-parse -q --verify "refs/tags/$tag" >/dev/null || die "there is a tag $tag"
done

tmp=$(mktemp -d)
made=()
finish() {
	status=$?
	git worktree remove --force "$tmp/tree" 2>/dev/null || true
	rm -rf "$tmp"
	if [ $status -ne 0 ] && [ ${#made[@]} -gt 0 ]; then
		git tag -d "${made[@]}" >/dev/null
		echo "release: failed; the tags are removed again" >&2
	fi
}
trap finish EXIT

# The go command gets these modules from this clone, all others as always, and leaves
# nothing of it in the user's cache.
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.file://$repo.insteadOf" GIT_CONFIG_VALUE_0="https://$root"
export GOPROXY="file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY)"
export GOMODCACHE="$tmp/cache" GOPRIVATE="$root,$root/*" GOFLAGS="-modcacherw -buildvcs=false" GOWORK=off CGO_ENABLED=1

tag() {
	git tag -a -m "$1" "$1" "$2"
	made+=("$1")
}

tag "$version" HEAD
git worktree add --quiet --detach "$tmp/tree"
for m in "${modules[@]}"; do
	echo "release: $m"
	(
		cd "$tmp/tree/$m"
		for ours in "$root" "${modules[@]/#/$root/}"; do
			go mod edit -dropreplace="$ours"
			if grep -qE "^\s*(require )?$ours v" go.mod; then
				go mod edit -require="$ours@$version"
			fi
		done
		! grep -q '^replace' go.mod || die "$m replaces something else"
		go mod tidy
		go build ./...
		git commit --quiet --all --message "$m: as released in $version"
	)
	tag "$m/$version" "$(git -C "$tmp/tree" rev-parse HEAD)"
done

echo "release: as a user gets it"
mkdir "$tmp/user"
cd "$tmp/user"
go mod init example.com/user 2>/dev/null
{
	echo "package main"
	echo "import _ \"$root\""
	for m in "${modules[@]}"; do
		[[ $m == cmd/* ]] || echo "import _ \"$root/$m\""
	done
	echo "func main() {}"
} >main.go
go get "$root@$version" $(printf "$root/%s@$version " "${modules[@]}")
go build -o /dev/null .
for m in "${modules[@]}"; do
	[[ $m != cmd/* ]] || GOBIN="$tmp/bin" go install "$root/$m@$version"
done
go list -m all | grep "^$root"
cd "$repo"
echo "release: tagged ${made[*]}"
