#!/bin/sh
# deps.sh NEED...: installs the needs that this machine does not meet, and says what it does. Silent when
# it meets them all.
#
# A need is a capability (a C compiler that works, a libzmq that pkg-config finds) or a program on
# the PATH. It is looked for, never assumed from what a package manager believes.
set -eu
cd "$(dirname "$0")/.."

say() { echo "gone: $*" >&2; }
die() { say "$*"; exit 1; }

has() {
	case $1 in
	cc) echo '#include <stdlib.h>' | $(go env CC) -fsyntax-only -x c - 2>/dev/null ;;
	pkg-config) command -v "$(go env PKG_CONFIG)" >/dev/null ;;
	libzmq) "$(go env PKG_CONFIG)" --exists libzmq 2>/dev/null ;;
	# Debian keeps the server off the PATH.
	postgres) command -v "$1" >/dev/null || ls /usr/lib/postgresql/*/bin/"$1" >/dev/null 2>&1 ;;
	# As chromedp looks for it.
	chromium)
		for browser in chromium chromium-browser google-chrome google-chrome-stable; do
			if command -v $browser >/dev/null; then return; fi
		done
		[ -e /Applications/Chromium.app ] || [ -e "/Applications/Google Chrome.app" ] ;;
	# A bare Debian has none, and then Go downloads no module. Other systems always have them.
	certificates) [ -e /etc/ssl/certs/ca-certificates.crt ] || [ "$manager" != apt-get ] ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

package() { # need: what $manager calls it
	case $manager:$1 in
	apt-get:cc) echo gcc libc6-dev ;;
	apk:cc) echo gcc musl-dev ;;
	*:cc) echo gcc ;;
	dnf:pkg-config) echo pkgconf-pkg-config ;;
	apt-get:pkg-config) echo pkg-config ;;
	*:pkg-config) echo pkgconf ;;
	apt-get:libzmq) echo libzmq3-dev ;;
	dnf:libzmq) echo zeromq-devel ;;
	apk:libzmq) echo zeromq-dev ;;
	brew:libzmq) echo zeromq ;;
	*:certificates) echo ca-certificates ;;
	apt-get:redis-server) echo redis-server ;;
	*:redis-server) echo redis ;;
	apt-get:etcd) echo etcd-server ;;
	dnf:postgres) echo postgresql-server ;;
	*:postgres) echo postgresql ;;
	brew:chromium) echo --cask chromium ;;
	dnf:promtool) echo golang-github-prometheus ;;
	*:promtool) echo prometheus ;;
	dnf:ip) echo iproute ;;
	*:ip) echo iproute2 ;;
	*:nft) echo nftables ;;
	*) echo "$1" ;;
	esac
}

missing() {
	for need in $needs; do
		has "$need" || echo "$need"
	done
}

install() { # package...
	case $manager in
	apt-get)
		say "apt-get update"
		# One broken third-party list is no reason to stop.
		$root apt-get -qq update || true
		say "apt-get install" "$@"
		$root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
			apt-get -qq -y -o DPkg::Lock::Timeout=120 install --no-install-recommends "$@"
		;;
	dnf) $root dnf -q -y install "$@" ;;
	apk) $root apk -q add "$@" ;;
	brew) brew install -q "$@" ;;
	esac
}

# Debian starts a service as it installs it, now and at every boot. Nobody asked for one: the tests
# start their own. Without systemd, RUNLEVEL=1 above has already kept it from starting now.
quiet_services() { # need...
	[ "$manager" = apt-get ] || return 0
	for need in "$@"; do
		case $need in
		postgres) service=postgresql ;;
		promtool) service=prometheus ;;
		redis-server | ngircd | etcd | pgbouncer) service=$need ;;
		*) continue ;;
		esac
		$root update-rc.d "$service" disable
		[ ! -d /run/systemd/system ] || $root systemctl stop "$service"
	done
}

needs=$*
root=
manager=none
for known in apt-get dnf apk brew; do
	if command -v $known >/dev/null; then
		manager=$known
		break
	fi
done

why=$(go list -m 2>&1) ||
	die "this needs Go $(sed -n 's/^go //p' go.mod) or newer, see https://go.dev/dl/ ($why)"

missing=$(missing)
[ -n "$missing" ] || exit 0

packages=$(for need in $missing; do package "$need"; done)
# Unquoted from here on: lists of words, newlines between them.
[ $manager != none ] ||
	die "missing:" $missing "- and found no apt-get, dnf, apk or brew to install it with."
if [ $manager != brew ] && [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null ||
		die "missing:" $missing "- as root, run: $manager install" $packages
	root=sudo
fi

say "not here:" $missing "- installing" $packages "with $manager, which may take some minutes"
# What it does is seen as it does it.
install $packages >&2 || die "$manager could not install" $packages
quiet_services $missing

missing=$(missing)
[ -z "$missing" ] || die "still missing after the installation:" $missing
say "installed"
