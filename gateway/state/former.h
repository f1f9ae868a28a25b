// What the last run has announced to Home Assistant, as the store says: so that this one takes away what it does not
// announce any more, because it is switched off, or does so at another place or as another gateway. Who switches between the
// kinds of discovery is found by what the broker retains; see discovery.h.
#pragma once

#include <stdbool.h>

#include "gateway/broker/store.h"
#include "gateway/config/config.h"
#include "gateway/state/discovery.h"

struct former;

// node: of the gateway, as home_assistant_gateway_node() says it now. store may be NULL: then nothing is known, and nothing
// is remembered. All but node stays the caller's.
struct former *former_new(const struct config *config, const char *node, struct store *store);
void former_free(struct former *former);

// Where the last run announced trackers, and this one does not; prefix NULL: nowhere.
struct discovery_place former_of_trackers(const struct former *former);
// The same of the gateway itself, whose node was *node.
struct discovery_place former_of_gateway(const struct former *former, const char **node);

// Whether what this run announces differs from what the store says. Then it says this, from now on.
bool former_differs(const struct former *former);
void former_remember(struct former *former);
