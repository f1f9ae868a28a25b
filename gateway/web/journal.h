// The last log entries, or messages, of all devices, in one ring with a bound; the oldest go first.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "gateway/web/text_out.h"

struct journal;

struct journal *journal_new(size_t entries, size_t bytes);
void journal_free(struct journal *journal);

// ident: of the device, "" when no device is known. text is JSON on one line, which is taken over.
void journal_add(struct journal *journal, const char *ident, char *text, size_t length);

// Calls fn with each of a device, the newest first. text is JSON.
void journal_each(const struct journal *journal, const char *ident,
                  void (*fn)(void *context, const char *text, size_t length), void *context);
// Writes those of a device ("": those of no device) as a JSON array, the newest first, at most so many.
void journal_write(const struct journal *journal, const char *ident, size_t most, struct text_out *out);
