// The places that a geolocation service has said, by surroundings: in memory, with a copy in the store that outlives the
// gateway. What was used longest ago goes first. A place holds for 30 days, since access points move; that a service knows
// none holds for 6 hours.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/geolocation/location.h"

struct places;
struct store;

enum places_verdict { PLACES_UNKNOWN, PLACES_FOUND, PLACES_NOWHERE };

// Reads those of the store, before anything is written there; of them the last most stay, and others go a few at a time. 0
// remembers nothing, and empties the store of them.
struct places *places_new(uv_loop_t *loop, struct store *store, size_t most);
// Writes what is not written yet, and closes the handle on the loop.
void places_stop(struct places *places);
void places_free(struct places *places);

// From now on so many. Those beyond go a few at a time, with 0 all at once; so much for the memory and the store.
void places_bound(struct places *places, size_t most);

// What is known of the surroundings of that key at this time (Unix seconds); fills place when it is found. Counts as used.
enum places_verdict places_find(struct places *places, uint64_t key, int64_t now, struct location *place);

// A service has said now where that is; NULL: that it does not know.
void places_remember(struct places *places, uint64_t key, int64_t now, const struct location *place);

size_t places_count(const struct places *places);
