// Asking the gateways for the bytes of a device, and collecting what comes.
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "gateway/config/config.h"

struct capture_order {
    const char *kind, *text; // "device", "channel" or "address", and which
    unsigned seconds;
    bool anonymize;
    const char *file; // to write; NULL: standard output
};

// Collects until the time is over, SIGINT or SIGTERM, says on standard error what comes, and writes the file. Returns
// the exit code: 0, or 1 when nothing came, nothing could be asked for or the file could not be written. Changes
// config's client_id.
int capturing_run(struct config *config, const struct capture_order *order);
