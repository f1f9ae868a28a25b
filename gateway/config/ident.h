// What devices call themselves.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// Whether a text may be an ident: 1 to CODEC_IDENT_MAX letters, digits, dots, dashes, underscores.
bool device_ident_valid(const char *ident);

// device.id of an unlisted ident: its number when it is at most 15 digits, else a stable hash of 53 bits (the
// upper bits of FNV-1a 64), so that it is exact in every JSON reader.
int64_t device_default_id(const char *ident);
