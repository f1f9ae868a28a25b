// Several gateways on one machine, as processes that share the ports: trackbus run --workers N.
#pragma once

#include "gateway/config.h"

#define SUPERVISOR_WORKERS_MAX 64

// Runs count workers (2 to SUPERVISOR_WORKERS_MAX) until SIGINT or SIGTERM. Each is an instance of its own:
// the first has the configuration's client_id and store, and takes commands in if the configuration says so;
// worker i has "-i" behind both. A worker that dies is started again. Returns the exit code.
int supervisor_run(struct config *config, unsigned count);
