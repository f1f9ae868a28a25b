// The running gateway: puts the parts together, and takes them apart when it is told to stop. Everything runs
// on one thread, the loop's.
#pragma once

#include <stdbool.h>

#include "gateway/config/config.h"
#include "gateway/run/service.h"

// Somebody who lives beside the gateway in its process: the page. Called on the loop's thread.
struct gateway_guest {
    void *context;
    // Before anything is listened on. False when it cannot begin, which it has logged: the gateway then does not start.
    bool (*start)(void *context, const struct config *config);
    void (*told)(void *context, const char *instance, const char *metrics); // JSON text
    // False when a thread of it goes on, which cannot be called back.
    bool (*stop)(void *context);
};

// Runs until SIGINT or SIGTERM. Returns the exit code. Takes config->devices over; the rest stays the
// caller's. sign: where a worker gives signs of life; NULL: to the service manager. guest may be NULL.
int gateway_run(struct config *config, struct sign *sign, const struct gateway_guest *guest);
