// The running gateway: puts the parts together, and takes them apart when it is told to stop. Everything runs
// on one thread, the loop's.
#pragma once

#include "gateway/config/config.h"

// Runs until SIGINT or SIGTERM. Returns the exit code. Takes config->devices over; the rest stays the
// caller's.
int gateway_run(struct config *config);
