// Sending a command by way of the broker and following its life.
#pragma once

#include <jansson.h>

#include "gateway/config/config.h"

#define EXIT_WAITING 3

// device is an ident, an id or a name. Publishes the commands (an array of command objects, see parse.h; their
// meta is added to) and prints each step, until all have ended or seconds have passed. Returns the exit code: 0
// all were executed, 1 one was not, EXIT_WAITING. Changes config's client_id.
int sending_run(struct config *config, const char *device, json_t *commands, unsigned seconds);
