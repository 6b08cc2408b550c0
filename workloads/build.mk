# SPDX-License-Identifier: Apache-2.0
# Builds the project's C programs with clang into OUT.
CC = clang
launcher = $(patsubst agentcg/launcher/%.c,$(OUT)/%.o,$(wildcard agentcg/launcher/*.c))

all: $(OUT)/agentcg-exec $(OUT)/agentcg-load

$(OUT)/agentcg-exec: $(launcher)
	$(CC) -static -o $@ $^

$(OUT)/agentcg-load: $(OUT)/load.o
	$(CC) -static -o $@ $^

$(OUT)/load.o: agentcg/replay/load/load.c
	@mkdir -p $(OUT)
	$(CC) -std=c11 $(CFLAGS) -c -o $@ $<

$(OUT)/%.o: agentcg/launcher/%.c
	@mkdir -p $(OUT)
	$(CC) -std=c11 $(CFLAGS) -c -o $@ $<
