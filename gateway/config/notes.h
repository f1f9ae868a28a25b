// What is valid in a configuration and yet worth a word: it does not work, or hardly as it is meant.
#pragma once

#include "gateway/config/faults.h"
#include "gateway/config/settings.h"

// Calls note, as for a fault, for each.
void config_notes(const struct config *config, config_fault_fn *note, void *context);
