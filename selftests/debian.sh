# SPDX-License-Identifier: GPL-2.0
#
# Debian's packages of karena, for package-test and package-proof, in a chroot that
# selftests/vm/chroot makes. `root` is its directory.

# What the tests need to build, check and install the packages, so that they need no network
# once the chroot is in the cache.
test_packages="build-essential debhelper dh-dkms liburing-dev pkgconf bash-completion dkms
	linux-headers-amd64 lintian python3-minimal systemd-standalone-sysusers"

karena_packages="karena karena-dkms libkarena1 libkarena-dev libkarena-malloc1 libkarena-uring1"

# make_chroot SUITE PACKAGE...: make the chroot. End the test: with a skip if this machine has no
# mirror, else with a failure.
make_chroot() {
	local suite=$1 said status=0
	shift
	said=$(selftests/vm/chroot make "$suite" "$root" "$@" 2>&1) || status=$?
	[ $status -ne 77 ] || skip "$(echo "$said" | tail -n 1)"
	[ $status -eq 0 ] || {
		echo "$said" | sed 's/^/# /'
		echo "not ok 1 chroot_is_made # status $status"
		echo 1..1
		exit 1
	}
}

inside() { selftests/vm/chroot run "$root" "$@"; }

# Copy the files of this tree, also those that are not committed, to a directory.
copy_tree() {
	mkdir -p "$1"
	if git rev-parse --git-dir >/dev/null 2>&1; then
		git ls-files -z --cached --others --exclude-standard |
			while IFS= read -r -d '' file; do
				[ ! -f "$file" ] || printf '%s\0' "$file"
			done | tar -c --null -T - | tar -x -C "$1" --no-same-owner
	else
		tar -c --exclude=./build . | tar -x -C "$1" --no-same-owner
	fi
}

# build_tree DIRECTORY [OPTIONS]: build the packages of a tree in the chroot, with
# DEB_BUILD_OPTIONS. They lie beside the tree afterwards.
build_tree() {
	inside sh -c "cd $1 && DEB_BUILD_OPTIONS='$2' dpkg-buildpackage -us -uc"
}

# install_from DIRECTORY: install the packages there, without those of debugging symbols.
install_from() {
	inside sh -c "cd $1 && apt-get -q -y install \$(ls ./*.deb | grep -v dbgsym) </dev/null"
}

purge() {
	inside apt-get -q -y purge $karena_packages </dev/null
}

# dkms_state KERNEL: print what DKMS says about the module for a kernel.
dkms_state() {
	inside dkms status -m karena -k "$1" | sed 's/.*: *//'
}

# Print all files of the chroot, its accounts and its packages. Left out are /run, the data of
# apt and dpkg, logs, the kernel's lists of modules that depmod writes, the key of DKMS, and the
# backups that groupdel makes.
contents() {
	(cd "$root" && find . -xdev \( -path ./proc -o -path ./run -o -path ./tmp -o -path ./var/lib/dpkg \
		-o -path ./var/lib/apt -o -path ./var/cache -o -path ./var/log \
		-o -path ./packages -o -name __pycache__ -o -path './etc/*-' \
		-o -path './usr/lib/modules/*/modules.*' -o -path './var/lib/dkms/mok.*' \) \
		-prune -o -print | sort)
	cat "$root"/etc/passwd "$root"/etc/group "$root"/etc/gshadow
	inside dpkg-query -W -f '${Package} ${db:Status-Abbrev}\n'
}
