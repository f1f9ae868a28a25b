// The broker, tried by `check`: whether it would take the gateway's connection.
#pragma once

#include "gateway/config/config.h"

// Connects once as `run` would, under a client_id with -check behind it, so that a gateway that runs keeps its
// connection, and subscribes to its state. Returns NULL, or what is wrong now, for the caller to free. Takes some
// seconds at most. Nothing is published, and nothing is logged. *hangs tells whether a thread still looks for the broker,
// and reads config: then nothing is to be done but to end the process.
char *broker_trial(const struct config *config, bool *hangs);
