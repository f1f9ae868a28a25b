// Watching the fleet through the broker: a screen on a terminal, otherwise a line per event.
#pragma once

#include "gateway/config/config.h"

// Watches until SIGINT, SIGTERM, q or the end of standard output; once in a process. device is the only one
// to show, by its ident, id or name, or NULL for all. Puts a client_id of its own into config, which is not valid after this. Returns
// the exit code.
int watch_run(struct config *config, const char *device);
