// What `run` will need, tried by `check`: files that must be readable are part of the configuration's own check.
#pragma once

#include "gateway/config/config.h"

// The name of the user that this process runs as, or its number.
const char *trial_user(void);

// Tries whether the store can be written and the ports can be bound. Calls fault for what cannot work, and warning for a
// port that is in use: the gateway itself may be running. Returns the number of faults. Leaves nothing behind.
unsigned trial_run(const struct config *config, config_fault_fn *fault, config_fault_fn *warning,
                   void *context);
