// Reading the configuration again while the gateway runs: what can change without a restart does, the rest is named.
#pragma once

#include "gateway/config/faults.h"
#include "gateway/config/settings.h"

// Reads the file of config and the environment again. NULL when there was any fault; each one is reported, and nothing
// has changed. Otherwise config has what can change, and the registry as it now is is returned, for the caller to
// free. *restart names what differs from what runs and cannot change: "mqtt.url, store.path"; empty when nothing
// does, and for the caller to free.
struct config_devices *config_reload(struct config *config, char **restart, config_fault_fn *fault,
                                     void *context);

// The second half of that, after config_load(): config has what can change of fresh. Returns fresh's devices, for the
// caller to free; the rest of fresh stays the caller's too.
struct config_devices *config_take(struct config *config, struct config *fresh, char **restart);
