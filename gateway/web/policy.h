// What must hold before the page is served: found by `trackbus check`, and again when it starts.
#pragma once

#include <stdbool.h>

#include "gateway/config/config.h"

// Checks what config->web says, with listen in place of its own (NULL: as it is). Reports each fault and returns how many; nothing is
// to be served: none. What is said of a port that somebody listens on is no fault, as that may be the gateway itself: it goes to
// *in_use (for the caller to free), which is NULL otherwise.
unsigned policy_check(const struct config *config, const char *listen, config_fault_fn *fault, void *context,
                      char **in_use);
