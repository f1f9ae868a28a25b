// Watching the fleet through the broker: a screen on a terminal, otherwise a line per event.
#pragma once

#include "gateway/config/config.h"

// Watches until SIGINT, SIGTERM, q or the end of standard output; once in a process. ident is the only device
// to show, or NULL for all. Puts a client_id of its own into config, which is not valid after this. Returns
// the exit code.
int watch_run(struct config *config, const char *ident);
