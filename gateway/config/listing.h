// One device of the registry as it is written: an entry of `devices`, or the payload of its topic in the broker, for which
// the same rules hold.
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "gateway/config/faults.h"
#include "gateway/config/settings.h"

// What JSON (an object that the rules have allowed) says of the device of that ident. Its texts are json's and ident's.
struct config_device listing_of(const char *ident, const json_t *json);

// The rules for a payload: those of `devices`, without the ident, which stands in the topic. For the caller to release.
json_t *listing_rules(void);

// Reads a payload for an ident. NULL when anything is wrong, which is reported with paths as in "$.name"; otherwise
// JSON for the caller to release, and *device is what it says.
json_t *listing_read(const json_t *rules, const char *ident, const char *payload, size_t length,
                     config_fault_fn *fault, void *context, struct config_device *device);
