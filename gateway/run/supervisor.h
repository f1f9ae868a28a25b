// Several gateways on one machine, as processes that share the ports: trackbus run --workers N.
#pragma once

#include "gateway/config/config.h"
#include "gateway/run/gateway.h"

#define SUPERVISOR_WORKERS_MAX 64

// Runs count workers (1 to SUPERVISOR_WORKERS_MAX) until SIGINT or SIGTERM. Each is an instance of its own:
// the first has the configuration's client_id and store, and takes commands in if the configuration says so;
// worker i has "-i" appended to both. A worker that dies is started again. Where an earlier run with more
// workers left a store behind, an additional worker hands over what waits in it, removes it and ends. guest (or NULL) lives with the
// first. Returns the exit code.
int supervisor_run(struct config *config, unsigned count, const struct gateway_guest *guest);

// Logs which stores such a run has left behind.
void supervisor_warn_of_leftovers(const struct config *config);
