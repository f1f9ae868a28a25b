// Log entries about the devices that there are: one has come into the registry or was first heard, was changed, or was
// removed or forgotten. A registry may change in many places at once, so they go out as the broker keeps up.
#pragma once

#include <stdint.h>

#include "gateway/broker/bus.h"
#include "gateway/state/publisher.h"

enum change {
    CHANGE_CREATED = 1,
    CHANGE_UPDATED = 2,
    CHANGE_DELETED = 3,
};

#define CHANGES_MAX 200000 // that wait, beyond which others are left out

struct changes;

// Adds itself to the publisher. Both stay the caller's.
struct changes *changes_new(const struct bus *bus, struct publisher *publisher);
void changes_free(struct changes *changes);

// Publishes log/gw/devices/{id}/created, updated or deleted when its turn has come. type_id is 0 for none. The texts are
// copied; name may be NULL. With CHANGES_MAX that wait it is left out, and the log says so.
void changes_tell(struct changes *changes, enum change change, int64_t id, int64_t type_id, const char *ident,
                  const char *name);
