// The commands that wait for their devices, as they stand retained under commands-queue.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "gateway/web/text_out.h"

// More are left out: of one place, in all, and in bytes of what they say.
#define WAITING_EACH_MAX  1000
#define WAITING_MAX       100000
#define WAITING_BYTES_MAX (64U << 20)

struct waiting;

struct waiting *waiting_new(void);
void waiting_free(struct waiting *waiting);

// place is the part of the topic that says whose it is: "devices/42". payload is JSON; NULL: it does not wait any more.
void waiting_set(struct waiting *waiting, const char *place, const char *id, char *payload);
void waiting_forget_all(struct waiting *waiting); // the connection was lost: they come again

size_t waiting_count(const struct waiting *waiting, const char *place);
bool waiting_has(const struct waiting *waiting, const char *place, const char *id);
// Writes them as members of a JSON array, the oldest first.
void waiting_write(const struct waiting *waiting, const char *place, struct text_out *out);
// Calls fn with each id.
void waiting_each(const struct waiting *waiting, const char *place, void (*fn)(void *context, const char *id),
                  void *context);
