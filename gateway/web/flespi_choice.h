// Whose values, messages or commands a request is about: of a large fleet found out in portions, between which the loop does
// other things.
#pragma once

#include "gateway/web/flespi_asked.h"

#define FLESPI_AT_ONCE_MAX 1000 // devices of a fleet that are looked at in one go

// What a request of flespi's API notes begins with what it is: see flespi_waits().
enum flespi_note { FLESPI_CHOOSES, FLESPI_WAITS };

struct flespi_devices {
    const struct fleet_device *device[FLESPI_DEVICES_MAX];
    size_t count; // one more: then there are too many
};

// Collects the devices of the first selector; those asked for by id that are not there are missing in the list. False, and
// *answer, when they are too many, or not known yet: then the request is asked again.
bool flespi_choose(struct flespi_asked *asked, struct flespi_devices *devices, struct http_answer *answer);

// What the request noted once they were known, which begins with FLESPI_WAITS; or NULL.
void *flespi_waits(const struct flespi_asked *asked);
