# Interim: replaced by the build step. `make` builds build/libkvant.a from src/.
CFLAGS ?= -std=c11 -O3 -g -D_GNU_SOURCE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Iinclude -Isrc -fvisibility=hidden
