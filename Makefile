# SPDX-License-Identifier: GPL-2.0
#
# karena: `make help` lists the targets.

KDIR ?= /lib/modules/$(shell uname -r)/build
DESTDIR ?=
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
MANDIR ?= $(PREFIX)/share/man
OUT := $(CURDIR)/build

VERSION := $(shell cat VERSION)
ABI := $(shell sed -n 's/^ABI := //p' libuser/Makefile)
# Release of the kernel of KDIR, which need not be the running one.
RELEASE := $(shell sed -n 's/^.define UTS_RELEASE "\(.*\)"$$/\1/p' \
	$(KDIR)/include/generated/utsrelease.h 2>/dev/null)
MODULE_DIR = $(DESTDIR)/lib/modules/$(RELEASE)/updates
module = $(OUT)/module/$(RELEASE)/karena.ko
results := $(OUT)/bench/results
report := $(OUT)/bench/report
# The results of the last run that is kept, and three pictures; $(kept).md is about them.
kept := Documentation/performance
bench_report = selftests/bench/report $(results)/*.jsonl --out $(report)
# Built only if liburing is installed.
uring_library = $(OUT)/lib/libkarena-uring.so.$(ABI)

# Kbuild reads VERSION, too.
module_sources := Kbuild VERSION kmod uapi

# A page can be read under each name in its NAME line. page_place is the path of a page
# below MANDIR, page_others are the paths under its other names, which refer to it.
pages := $(sort $(wildcard Documentation/man/*.[1-9]))
page_place = man$(patsubst .%,%,$(suffix $(1)))/$(notdir $(1))
page_names = $(shell sed -n '/^\.SH NAME/,/\\-/{/^\.SH/d; s/\\-.*//; s/,/ /g; p;}' $(1))
page_others = $(filter-out $(call page_place,$(1)),$(patsubst %,$(dir \
	$(call page_place,$(1)))%$(suffix $(1)),$(call page_names,$(1))))

all: library $(if $(RELEASE),module,no-module)

help:
	@echo 'make            build the library, the tool and, with kernel headers, the module'
	@echo 'make module     build the module; KDIR= selects other kernel headers'
	@echo 'make library    build only the library, the adapters and the tool'
	@echo 'make demo       boot a guest, load the module, run Python on it, show statistics'
	@echo 'make check      build all, run all tests: here, in guests with 6.1, 6.12 and a'
	@echo '                debug kernel (built once: 15 minutes), and the static checkers;'
	@echo '                K="here 6.1" runs only those lanes'
	@echo 'make test T=sysfs  build and run one program of tests; K=6.12, debug, here, asan,'
	@echo '                tsan or valgrind says where'
	@echo 'make shell      a guest with the module loaded, to type in; K=6.12 or debug'
	@echo 'make check-programs  the suites of other programs, with and without karena'
	@echo 'make bench      compare malloc with others, here, in time and memory'
	@echo 'make bench-guest  measure the module in guests, by the clock and counted'
	@echo 'make bench-report  write build/bench/report/tables.md from the results'
	@echo 'make bench-check  compare the results with those that are kept'
	@echo 'make bench-keep  keep the results and the pictures in Documentation'
	@echo 'make lint       the static checkers alone'
	@echo 'make htmldocs   build Documentation as HTML in build/docs/html'
	@echo 'make install    install under DESTDIR and PREFIX ($(PREFIX))'
	@echo 'make uninstall  remove the installed files'
	@echo 'make clean      remove all built files'

setup:
	@selftests/vm/packages build

library: setup
	@$(MAKE) --no-print-directory -C libuser OUT=$(OUT) PREFIX=$(PREFIX) LIBDIR=$(LIBDIR)

# Modules for several kernels can be built side by side, each in its own directory with
# links to the sources.
module:
	@test -n '$(RELEASE)' || { echo 'no kernel headers in $(KDIR)'; exit 1; }
	@selftests/vm/packages build
	@mkdir -p $(OUT)/module/$(RELEASE)
	@cp -rsf $(addprefix $(CURDIR)/,$(module_sources)) $(OUT)/module/$(RELEASE)
	$(MAKE) -C $(KDIR) M=$(OUT)/module/$(RELEASE) W=1 KCFLAGS=-Werror modules

no-module:
	@echo 'No kernel headers in $(KDIR): the module is not built.'
	@echo 'Install linux-headers-$(shell uname -r), or set KDIR=.'

demo: library
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

check-programs: library
	selftests/programs

# New results replace the last ones only when the run is complete.
bench: library
	@mkdir -p $(results)
	selftests/bench/native --results $(results)/native.new
	python3 selftests/bench/results.py $(results)/native.new native
	mv $(results)/native.new $(results)/native.jsonl
	$(bench_report)

# The benchmarks with one thread and without memory pressure also count instructions.
bench-guest: library
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

# Without kernel headers, the library is installed alone; it does not need the module.
install: library $(if $(RELEASE),module,no-module)
	install -d $(DESTDIR)$(LIBDIR)/karena $(DESTDIR)$(LIBDIR)/pkgconfig \
		$(DESTDIR)$(INCLUDEDIR)/karena $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(OUT)/lib/libkarena.so.$(ABI) $(OUT)/lib/libkarena.a \
		$(OUT)/lib/libkarena-malloc.so.$(ABI) \
		$(OUT)/lib/libkarena-malloc-checked.so.$(ABI) $(DESTDIR)$(LIBDIR)
	cp -P $(OUT)/lib/libkarena-malloc.so $(OUT)/lib/libkarena-malloc.so.1 \
		$(OUT)/lib/libkarena-malloc-checked.so \
		$(OUT)/lib/libkarena-malloc-checked.so.1 $(DESTDIR)$(LIBDIR)
	cp -P $(OUT)/lib/libkarena.so $(OUT)/lib/libkarena.so.1 $(DESTDIR)$(LIBDIR)
	install -m 644 $(OUT)/lib/karena/libkarena-cpython.so $(DESTDIR)$(LIBDIR)/karena
	install -m 644 libuser/include/karena/karena.h libuser/include/karena/domain.h \
		libuser/include/karena/debug.h libuser/include/karena/trace.h \
		$(DESTDIR)$(INCLUDEDIR)/karena
	install -d $(DESTDIR)$(INCLUDEDIR)/karena/linux
	install -m 644 uapi/linux/karena.h $(DESTDIR)$(INCLUDEDIR)/karena/linux
	$(fill_in) libuser/karena.pc.in >$(DESTDIR)$(LIBDIR)/pkgconfig/karena.pc
	if [ -e $(uring_library) ]; then \
		set -e; \
		install -m 644 $(uring_library) $(OUT)/lib/libkarena-uring.a \
			$(DESTDIR)$(LIBDIR); \
		cp -P $(OUT)/lib/libkarena-uring.so $(OUT)/lib/libkarena-uring.so.1 \
			$(DESTDIR)$(LIBDIR); \
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
ifneq ($(RELEASE),)
	install -D -m 644 $(module) $(MODULE_DIR)/karena.ko
	install -D -m 644 kmod/karena.rules $(DESTDIR)/usr/lib/udev/rules.d/60-karena.rules
	install -D -m 644 kmod/karena.sysusers $(DESTDIR)/usr/lib/sysusers.d/karena.conf
	install -D -m 644 kmod/karena.modules-load $(DESTDIR)/usr/lib/modules-load.d/karena.conf
endif
ifeq ($(DESTDIR),)
	ldconfig
ifneq ($(RELEASE),)
	depmod $(RELEASE)
	getent group karena >/dev/null || groupadd --system karena
	-udevadm control --reload
endif
endif

uninstall:
	rm -f $(DESTDIR)$(LIBDIR)/libkarena.so $(DESTDIR)$(LIBDIR)/libkarena.so.1 \
		$(DESTDIR)$(LIBDIR)/libkarena.so.$(ABI) \
		$(DESTDIR)$(LIBDIR)/libkarena.a \
		$(DESTDIR)$(LIBDIR)/libkarena-uring.so \
		$(DESTDIR)$(LIBDIR)/libkarena-uring.so.1 \
		$(DESTDIR)$(LIBDIR)/libkarena-malloc.so \
		$(DESTDIR)$(LIBDIR)/libkarena-malloc.so.1 \
		$(DESTDIR)$(LIBDIR)/libkarena-malloc.so.$(ABI) \
		$(DESTDIR)$(LIBDIR)/libkarena-malloc-checked.so \
		$(DESTDIR)$(LIBDIR)/libkarena-malloc-checked.so.1 \
		$(DESTDIR)$(LIBDIR)/libkarena-malloc-checked.so.$(ABI) \
		$(DESTDIR)$(LIBDIR)/libkarena-uring.so.$(ABI) \
		$(DESTDIR)$(LIBDIR)/libkarena-uring.a \
		$(DESTDIR)$(LIBDIR)/pkgconfig/karena-uring.pc \
		$(DESTDIR)$(INCLUDEDIR)/karena/uring.h \
		$(DESTDIR)$(LIBDIR)/karena/libkarena-cpython.so \
		$(DESTDIR)$(INCLUDEDIR)/karena/karena.h \
		$(DESTDIR)$(INCLUDEDIR)/karena/domain.h \
		$(DESTDIR)$(INCLUDEDIR)/karena/debug.h \
		$(DESTDIR)$(INCLUDEDIR)/karena/trace.h \
		$(DESTDIR)$(INCLUDEDIR)/karena/linux/karena.h \
		$(DESTDIR)$(LIBDIR)/pkgconfig/karena.pc $(DESTDIR)$(PREFIX)/bin/karena \
		$(addprefix $(DESTDIR)$(MANDIR)/,$(foreach page,$(pages), \
			$(call page_place,$(page)) $(call page_others,$(page)))) \
		$(MODULE_DIR)/karena.ko \
		$(DESTDIR)/usr/lib/udev/rules.d/60-karena.rules \
		$(DESTDIR)/usr/lib/sysusers.d/karena.conf \
		$(DESTDIR)/usr/lib/modules-load.d/karena.conf
	-rmdir $(DESTDIR)$(LIBDIR)/karena $(DESTDIR)$(INCLUDEDIR)/karena/linux \
		$(DESTDIR)$(INCLUDEDIR)/karena
ifeq ($(DESTDIR),)
	ldconfig
	$(if $(RELEASE),depmod $(RELEASE))
endif

clean:
	rm -rf $(OUT)

.PHONY: all help setup library module no-module demo runner check test shell check-debug \
	check-programs bench bench-guest bench-report bench-check bench-keep lint htmldocs install uninstall clean
