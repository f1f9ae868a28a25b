// The running gateway: puts the parts together, and takes them apart when it is told to stop. Everything runs
// on one thread, the loop's.
#pragma once

#include "gateway/config/config.h"
#include "gateway/run/service.h"

// Runs until SIGINT or SIGTERM. Returns the exit code. Takes config->devices over; the rest stays the
// caller's. sign: where a worker gives signs of life; NULL: to the service manager.
int gateway_run(struct config *config, struct sign *sign);
