# SPDX-License-Identifier: MIT
#
# For tests of what is preloaded, sourced: $here is this folder, $build the build directory,
# which BUILD names, $library the library, and $dir a folder that goes when the test ends.
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
. "$here/../../selftests/tap.sh"
build=$(realpath "${BUILD:-$here/../../build}")
library=$build/lib/libkarena-malloc.so
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
