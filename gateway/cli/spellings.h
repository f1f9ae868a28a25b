// Idents, the made-up ones that take their place, and all the ways that either may stand in bytes: as text, as
// hexadecimal digits, packed two digits a byte, as a number; an IMEI also without its last digit, which is a checksum.
// Nothing changes its length.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct spellings;

struct spellings *spellings_new(void);
void spellings_free(struct spellings *spellings);

void spellings_add(struct spellings *spellings, const char *ident);
// All have been added: from now on they can be replaced.
void spellings_end(struct spellings *spellings);

// What takes the place of an ident; NULL for one that was not added.
const char *spellings_made_up(const struct spellings *spellings, const char *ident);
// Whether these are fifteen digits of which the last one is right.
bool spellings_is_imei(const char *digits);

// The halves of bytes, one in each element: 2 * length. swapped: the second half of a byte comes first.
void spellings_halves(const uint8_t *bytes, size_t length, bool swapped, uint8_t *halves);

// Bytes without a gap: as they were, and as they become.
struct spellings_run {
    uint8_t *was, *is;
    size_t length;
};

// Also what stands of one at the beginning or the end, where the rest is missing.
void spellings_replace(const struct spellings *spellings, const struct spellings_run *run);
