// The page beside a gateway in one process: on a thread and a loop of its own, so that nothing that a browser does, be it
// the list of a hundred thousand devices, holds the gateway up. The two share the configuration, which nobody writes to,
// and what the gateway says of itself.
#pragma once

#include <stdbool.h>

#include "gateway/config/config.h"

struct web_beside;

struct web_beside *web_beside_new(void);
void web_beside_free(struct web_beside *beside);

// These take a struct web_beside. Listens, and goes on in a thread. False when it cannot listen, which is logged.
bool web_beside_start(void *beside, const struct config *config);
// The gateway's metrics as JSON text.
void web_beside_told(void *beside, const char *instance, const char *metrics);
// Ends the thread. False when an attempt to connect goes on, which cannot be called back.
bool web_beside_stop(void *beside);
