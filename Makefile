# SPDX-License-Identifier: GPL-2.0
#
# karena: `make help` lists the targets. `libuser/Makefile` explains CC, CFLAGS and the other
# variables of the library, which can be set here, too.

KDIR ?= /lib/modules/$(shell uname -r)/build
DESTDIR ?=
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man
COMPLETION_DIR ?= $(PREFIX)/share/bash-completion/completions
MODULE_DIR ?= /lib/modules/$(RELEASE)/updates
DKMS_DIR ?= /usr/src/karena-$(VERSION)
RULES_DIR ?= /usr/lib/udev/rules.d
SYSUSERS_DIR ?= /usr/lib/sysusers.d
MODULES_LOAD_DIR ?= /usr/lib/modules-load.d
OUT := $(CURDIR)/build

VERSION := $(shell cat VERSION)
ABI := $(shell sed -n 's/^ABI := //p' libuser/Makefile)
# Release of the kernel of KDIR, which need not be the running one.
RELEASE := $(shell sed -n 's/^.define UTS_RELEASE "\(.*\)"$$/\1/p' \
	$(KDIR)/include/generated/utsrelease.h 2>/dev/null)
module = $(OUT)/module/$(RELEASE)/karena.ko
# KEEP has the meaning that libuser/Makefile gives it: WERROR of the module's last build.
module_settings := $(OUT)/module/$(RELEASE)/settings
ifneq ($(KEEP),)
$(eval $(file <$(module_settings)))
endif
WERROR ?= -Werror
# Kbuild reads VERSION, too.
module_sources := Kbuild VERSION kmod uapi
results := $(OUT)/bench/results
report := $(OUT)/bench/report
# The results of the last run that is kept, and three pictures; $(kept).md is about them.
kept := Documentation/performance
bench_report = selftests/bench/report $(results)/*.jsonl --out $(report)

# A page can be read under each name in its NAME line. page_place is the path of a page
# below MANDIR, page_others are the paths under its other names, which refer to it.
pages := $(sort $(wildcard Documentation/man/*.[1-9]))
page_place = man$(patsubst .%,%,$(suffix $(1)))/$(notdir $(1))
page_names = $(shell sed -n '/^\.SH NAME/,/\\-/{/^\.SH/d; s/\\-.*//; s/,/ /g; p;}' $(1))
page_others = $(filter-out $(call page_place,$(1)),$(patsubst %,$(dir \
	$(call page_place,$(1)))%$(suffix $(1)),$(call page_names,$(1))))

# The kernels for which DKMS builds the module; dkms.conf.in has those of arm64 last.
kernels := $(shell sed -n 's/^\t*BUILD_EXCLUSIVE_KERNEL="\(.*\)"$$/\1/p' dkms.conf.in | \
	if [ "$$(uname -m)" = aarch64 ]; then tail -n 1; else head -n 1; fi)
supported := $(shell echo '$(RELEASE)' | grep -E '$(kernels)')

all: library $(if $(supported),module,no-module)

help:
	@echo 'make            build the library, the tool and, with kernel headers, the module'
	@echo 'make deps       install the packages that this needs, on Debian and its relatives'
	@echo 'make module     build the module; KDIR= selects other kernel headers'
	@echo 'make library    build only the library, the adapters and the tool'
	@echo 'make demo       boot a guest, load the module, run Python on it, show statistics'
	@echo 'make check      build all, run all tests: here, in guests with 6.1, 6.12 and a'
	@echo '                debug kernel (built once: 15 minutes), and the static checkers;'
	@echo '                K="here 6.1" runs only those lanes'
	@echo 'make test T=sysfs  build and run one program of tests; K=6.12, debug, here, asan,'
	@echo '                tsan or valgrind says where'
	@echo 'make shell      a guest with the module loaded, to type in; K=6.12 or debug'
	@echo 'make check-reach  the tests with the newest kernel, a debug kernel of its series and'
	@echo '                three kernels for arm64, and of packages in two releases of Debian'
	@echo 'make check-programs  the suites of other programs, with and without karena'
	@echo 'make bench      compare malloc with others, here, in time and memory'
	@echo 'make bench-guest  measure the module in guests, by the clock and counted'
	@echo 'make bench-report  write build/bench/report/tables.md from the results'
	@echo 'make bench-check  compare the results with those that are kept'
	@echo 'make bench-keep  keep the results and the pictures in Documentation'
	@echo 'make lint       the static checkers alone'
	@echo 'make htmldocs   build Documentation as HTML in build/docs/html'
	@echo 'make install    install all that is built, under DESTDIR and PREFIX ($(PREFIX));'
	@echo '                install-library, install-config, install-module: a part of it'
	@echo 'make install-dkms  install the sources of the module for DKMS, which builds them'
	@echo '                again for each new kernel; instead of install-module'
	@echo 'make uninstall  remove the installed files'
	@echo 'make dist       pack the last commit as build/karena-$(VERSION).tar.gz'
	@echo 'make clean      remove all built files'

deps:
	@selftests/vm/packages deps

library:
	@$(MAKE) --no-print-directory -C libuser OUT=$(OUT) PREFIX=$(PREFIX) LIBDIR=$(LIBDIR)

# The library for the project's own tests, which install the packages that they need.
library-for-tests:
	@selftests/vm/packages build
	@$(MAKE) --no-print-directory library

# The module is built by the kernel's compiler. The tools and flags of the library do not reach
# the kernel's makefiles: of the variables on the command line only kernel_variables do.
kernel_variables := $(filter ARCH CROSS_COMPILE LLVM LLVM_IAS V C CF CHECK KCFLAGS DEB_%,$(.VARIABLES))
kernel_make = env $(foreach name,CC CXX AR OBJCOPY CPPFLAGS CFLAGS CXXFLAGS LDFLAGS,-u $(name)) \
	MAKEFLAGS="$${MAKEFLAGS%% -- *}" $(MAKE) -C $(KDIR) M=$(OUT)/module/$(RELEASE) \
	$(if $(WERROR),W=1 KCFLAGS=-Werror) \
	$(foreach name,$(kernel_variables),$(if $(filter command,$(origin $(name))),$(name)='$($(name))'))

# Modules for several kernels can be built side by side, each in its own directory with
# links to the sources.
module:
	@test -n '$(RELEASE)' || { \
		echo 'karena: no kernel headers in $(KDIR): run `make deps`, or set KDIR' >&2; exit 1; }
	@mkdir -p $(OUT)/module/$(RELEASE)
	@cp -rsf $(addprefix $(CURDIR)/,$(module_sources)) $(OUT)/module/$(RELEASE)
	+$(kernel_make) modules
	@echo 'WERROR := $(WERROR)' >$(module_settings)

no-module:
ifeq ($(RELEASE),)
	@echo 'karena: no kernel headers in $(KDIR), so there is no module: run `make deps`, or set KDIR'
else
	@echo 'karena: no module for Linux $(RELEASE): it supports 6.1 to 6.13 and 6.18 to 7.3; the' \
		'library works without it'
endif

demo: library-for-tests
	selftests/demo/run

runner:
	@selftests/vm/packages check

check: runner
	@selftests/check $(addprefix -k,$(K))

test: runner
	@test -n '$(T)' || { echo "make test: T= names the test program, for example T=sysfs, or" \
		"T=libuser/tests/heap K=asan; selftests/tests lists them"; exit 1; }
	@selftests/check -v $(addprefix -k,$(or $(K),first)) $(T)

shell: runner
	@selftests/vm/shell $(K)

check-debug: runner
	@selftests/check -k debug

check-reach: runner
	@selftests/check -k newest -k debug-newest -k arm64 -k chroot

check-programs: library-for-tests
	selftests/programs

# New results replace the last ones only when the run is complete.
bench: library-for-tests
	@mkdir -p $(results)
	selftests/bench/native --results $(results)/native.new
	python3 selftests/bench/results.py $(results)/native.new native
	mv $(results)/native.new $(results)/native.jsonl
	$(bench_report)

# The benchmarks with one thread and without memory pressure also count instructions.
bench-guest: library-for-tests
	@mkdir -p $(results)
	@rm -f $(results)/guest.new
	set -e; export KARENA_RESULTS=$(results)/guest.new; \
	for kernel in 6.1 6.12; do \
		KERNEL=$$kernel selftests/bench/run; \
		KERNEL=$$kernel COUNT=1 selftests/bench/run counts commit reuse fork; \
	done
	python3 selftests/bench/results.py $(results)/guest.new guests
	mv $(results)/guest.new $(results)/guest.jsonl
	$(bench_report)

bench-report:
	$(bench_report)

bench-check:
	selftests/bench/check $(kept)/results.jsonl $(results)/*.jsonl

# The numbers in $(kept).md are written by hand; test_report.py names those that are out of date.
bench-keep: bench-report
	@mkdir -p $(kept)
	cp $(report)/*.svg $(kept)
	cat $(results)/*.jsonl >$(kept)/results.jsonl
	selftests/bench/test_report.py

lint: runner
	@selftests/check -k lint

htmldocs:
	@selftests/vm/packages docs
	sphinx-build -q -d $(OUT)/docs/doctrees Documentation $(OUT)/docs/html
	@echo $(OUT)/docs/html/index.html

fill_in = sed -e 's,@PREFIX@,$(PREFIX),; s,@LIBDIR@,$(LIBDIR),' \
	-e 's,@INCLUDEDIR@,$(INCLUDEDIR),; s,@VERSION@,$(VERSION),'

# Each DIR below DESTDIR, or the nearest directory above it that exists, must be writable.
may_write = for dir in $(addprefix $(DESTDIR),$(1)); do \
		while [ ! -e "$$dir" ]; do dir=$$(dirname "$$dir"); done; \
		[ -d "$$dir" ] && [ -w "$$dir" ] || { \
			echo "karena: cannot write to $$dir: run \`sudo make $@\`, or set $(2)" >&2; \
			exit 1; }; \
	done

libraries := libkarena libkarena-malloc libkarena-malloc-checked libkarena-uring
library_files := $(foreach name,$(libraries),$(name).so $(name).so.$(basename $(basename $(ABI))) \
	$(name).so.$(ABI)) libkarena.a libkarena-uring.a

# `make install` builds what is missing, with the settings of the last build.
install: install-library install-config $(if $(supported),install-module,no-module)

install-library:
	@$(call may_write,$(LIBDIR) $(INCLUDEDIR) $(MANDIR) $(PREFIX)/bin,PREFIX or DESTDIR)
	@$(MAKE) --no-print-directory library KEEP=yes
	install -d $(DESTDIR)$(LIBDIR)/karena $(DESTDIR)$(LIBDIR)/pkgconfig \
		$(DESTDIR)$(INCLUDEDIR)/karena/linux $(DESTDIR)$(PREFIX)/bin
	set -e; for file in $(library_files); do \
		if [ -h $(OUT)/lib/$$file ]; then \
			cp -P $(OUT)/lib/$$file $(DESTDIR)$(LIBDIR); \
		elif [ -e $(OUT)/lib/$$file ]; then \
			install -m 644 $(OUT)/lib/$$file $(DESTDIR)$(LIBDIR); \
		fi; \
	done
	install -m 644 $(OUT)/lib/karena/libkarena-cpython.so $(DESTDIR)$(LIBDIR)/karena
	install -m 644 $(filter-out %/uring.h,$(wildcard libuser/include/karena/*.h)) \
		$(DESTDIR)$(INCLUDEDIR)/karena
	install -m 644 uapi/linux/karena.h $(DESTDIR)$(INCLUDEDIR)/karena/linux
	$(fill_in) libuser/karena.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/karena.pc
	if [ -e $(OUT)/lib/libkarena-uring.a ]; then \
		set -e; \
		install -m 644 libuser/include/karena/uring.h \
			$(DESTDIR)$(INCLUDEDIR)/karena; \
		$(fill_in) libuser/karena-uring.pc.in \
			>$(DESTDIR)$(LIBDIR)/pkgconfig/karena-uring.pc; \
	fi
	install $(OUT)/bin/karena $(DESTDIR)$(PREFIX)/bin
	@set -e; $(foreach page,$(pages), \
		install -D -m 644 $(page) $(DESTDIR)$(MANDIR)/$(call page_place,$(page)); \
		for other in $(call page_others,$(page)); do \
			echo .so $(call page_place,$(page)) \
				>$(DESTDIR)$(MANDIR)/$$other; \
		done;)
	install -D -m 644 libuser/tools/karena.bash-completion $(DESTDIR)$(COMPLETION_DIR)/karena
ifeq ($(DESTDIR),)
	[ "$$(id -u)" -ne 0 ] || ldconfig
endif

install-module:
	@$(call may_write,$(MODULE_DIR),DESTDIR or MODULE_DIR)
	@$(MAKE) --no-print-directory module KEEP=yes
	install -D -m 644 $(module) $(DESTDIR)$(MODULE_DIR)/karena.ko
ifeq ($(DESTDIR),)
	depmod $(RELEASE)
endif

# True if a Debian package has installed this file.
package_owns = dpkg -S "$(1)" >/dev/null 2>&1

# The device's group, and the module at boot. If a kernel has no module, systemd-modules-load
# logs that (since systemd 244) and does not fail. Files of a package stay as they are.
rules := $(RULES_DIR)/60-karena.rules
sysusers := $(SYSUSERS_DIR)/karena.conf
modules_load := $(MODULES_LOAD_DIR)/karena.conf

install-config:
	@$(call may_write,$(dir $(rules) $(sysusers) $(modules_load)),DESTDIR)
	@set -e; place() { \
		if $(call package_owns,$(DESTDIR)$$2); then \
			echo "karena: $$2 stays as it is: a package has installed it"; \
		else \
			set -x; \
			install -D -m 644 "$$1" "$(DESTDIR)$$2"; \
			{ set +x; } 2>/dev/null; \
		fi; \
	}; \
	place kmod/karena.rules $(rules); \
	place kmod/karena.sysusers $(sysusers); \
	place kmod/karena.modules-load $(modules_load)
ifeq ($(DESTDIR),)
	getent group karena >/dev/null || groupadd --system karena
	[ ! -e /run/udev/control ] || udevadm control --reload
endif

# Remove the module of each kernel, also of those without headers.
remove_modules = set -e; for file in $(DESTDIR)$(MODULE_DIR)/karena.ko \
			$(DESTDIR)/lib/modules/*/updates/karena.ko; do \
		[ -e "$$file" ] || continue; \
		rm "$$file"; \
		release=$${file\#*/lib/modules/}; \
		[ -n '$(DESTDIR)' ] || depmod "$${release%%/*}"; \
	done

# Remove all versions from DKMS, except one that a package owns. Their lines in `dkms status`
# begin with karena/VERSION, or with karena, VERSION before dkms 3.
remove_from_dkms = if [ "$$(id -u)" -eq 0 ] && command -v dkms >/dev/null; then \
		for version in $$(dkms status -m karena | \
				sed -n 's,^karena[/, ]*\([^,: ]*\).*,\1,p' | sort -u); do \
			! $(call package_owns,/usr/src/karena-$$version/dkms.conf) || continue; \
			dkms remove -m karena -v "$$version" --all; \
			rm -rf "/usr/src/karena-$$version"; \
		done; \
	fi

install_by_dkms = if ! command -v dkms >/dev/null; then \
		echo 'karena: dkms is not installed, so the module is not built: install the' \
			'package dkms, then run `make install-dkms` again'; \
	elif [ -z '$(RELEASE)' ]; then \
		dkms add -m karena -v $(VERSION) && \
		echo 'karena: no kernel headers in $(KDIR), so the module is not built: install' \
			'them, then run `dkms autoinstall`'; \
	else \
		dkms add -m karena -v $(VERSION) && \
		dkms build -m karena -v $(VERSION) -k $(RELEASE) && \
		dkms install -m karena -v $(VERSION) -k $(RELEASE); \
	fi

# DKMS builds in a copy of DKMS_DIR, which has Kbuild at its top like the copy of `make module`.
install-dkms:
	@$(call may_write,$(DKMS_DIR),DESTDIR)
# DKMS installs nothing where a module of the same version is.
ifeq ($(DESTDIR),)
	@! $(call package_owns,$(DKMS_DIR)/dkms.conf) || { \
		echo 'karena: a package has installed $(DKMS_DIR): remove it first' >&2; exit 1; }
	@$(remove_from_dkms)
	$(if $(filter /usr/src/%,$(DKMS_DIR)),@$(remove_modules))
endif
	rm -rf $(DESTDIR)$(DKMS_DIR)
	install -d $(DESTDIR)$(DKMS_DIR)/kmod $(DESTDIR)$(DKMS_DIR)/uapi/linux
	install -m 644 Kbuild VERSION $(DESTDIR)$(DKMS_DIR)
	install -m 644 kmod/*.[ch] $(DESTDIR)$(DKMS_DIR)/kmod
	install -m 644 uapi/linux/*.h $(DESTDIR)$(DKMS_DIR)/uapi/linux
	$(fill_in) dkms.conf.in >$(DESTDIR)$(DKMS_DIR)/dkms.conf
ifeq ($(DESTDIR),)
	@$(install_by_dkms)
endif

uninstall:
	@$(call may_write,$(LIBDIR),PREFIX or DESTDIR)
	rm -f $(library_files:%=$(DESTDIR)$(LIBDIR)/%) \
		$(DESTDIR)$(LIBDIR)/karena/libkarena-cpython.so \
		$(DESTDIR)$(LIBDIR)/pkgconfig/karena.pc \
		$(DESTDIR)$(LIBDIR)/pkgconfig/karena-uring.pc \
		$(patsubst libuser/include/%,$(DESTDIR)$(INCLUDEDIR)/%, \
			$(wildcard libuser/include/karena/*.h)) \
		$(DESTDIR)$(INCLUDEDIR)/karena/linux/karena.h $(DESTDIR)$(PREFIX)/bin/karena \
		$(DESTDIR)$(COMPLETION_DIR)/karena \
		$(addprefix $(DESTDIR)$(MANDIR)/,$(foreach page,$(pages), \
			$(call page_place,$(page)) $(call page_others,$(page))))
	for file in $(addprefix $(DESTDIR),$(rules) $(sysusers) $(modules_load)); do \
		$(call package_owns,$$file) || rm -f "$$file"; \
	done
	rmdir $(DESTDIR)$(LIBDIR)/karena $(DESTDIR)$(INCLUDEDIR)/karena/linux \
		$(DESTDIR)$(INCLUDEDIR)/karena 2>/dev/null || true
ifeq ($(DESTDIR),)
	@$(remove_from_dkms)
	[ "$$(id -u)" -ne 0 ] || ldconfig
endif
	$(call package_owns,$(DESTDIR)$(DKMS_DIR)/dkms.conf) || rm -rf $(DESTDIR)$(DKMS_DIR)
	@$(remove_modules)

# Packed twice, a commit gives the same bytes.
archive = $(OUT)/karena-$(VERSION).tar.gz
dist:
	@[ -e .git ] || { \
		echo 'karena: `make dist` packs a commit, and this directory is no git checkout' >&2; \
		exit 1; }
	@git diff --quiet HEAD || echo 'karena: the archive lacks changes that are not committed' >&2
	@mkdir -p $(OUT)
	git archive --format=tar --prefix=karena-$(VERSION)/ -o $(OUT)/karena.tar HEAD
	gzip -9n <$(OUT)/karena.tar >$(archive)
	@rm $(OUT)/karena.tar
	@echo $(archive)

clean:
	rm -rf $(OUT)

.PHONY: all help deps library library-for-tests module no-module demo runner check test shell \
	check-debug check-reach check-programs bench bench-guest bench-report bench-check \
	bench-keep lint htmldocs install install-library install-module install-config \
	install-dkms uninstall dist clean
