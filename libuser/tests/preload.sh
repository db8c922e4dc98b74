# SPDX-License-Identifier: MIT
#
# For tests of preloaded libraries, which source this file. $here is this directory, $build
# the build directory, which BUILD names, $library the library, and $dir a temporary
# directory, which is removed at the end.
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
. "$here/../../selftests/tap.sh"
build=$(realpath "${BUILD:-$here/../../build}")
library=$build/lib/libkarena-malloc.so
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
