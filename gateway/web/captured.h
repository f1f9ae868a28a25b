// Captures as the gateways tell of them: which of them run. Their bytes are a journal.
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "gateway/fleet/fleet.h"
#include "gateway/web/gateways.h"

#define CAPTURED_MAX 1000 // that are remembered; the oldest ones are forgotten

struct captured;

struct captured *captured_new(void);
void captured_free(struct captured *captured);

// What came on log/gw/captures/{word}. True when another one runs than before.
bool captured_take(struct captured *captured, const char *word, const json_t *entry);

// Those that run, as their gateways have announced them, the newest last: all, or with a device (or NULL) those that name
// it. What a gateway that is away, or was started again, had announced does not run. For the caller to release.
json_t *captured_json(const struct captured *captured, const struct gateways *gateways,
                      const struct fleet_device *device);
