// Which response topics a publisher may choose.
//
// Whoever may send commands chooses where we publish: a topic that a broker does not take would cost its
// connection, and one of ours would let him speak in our name.
#pragma once

#include "gateway/config/config.h"

#define RESPONSE_LEVELS_MAX 100 // Mosquitto closes the connection above 200, EMQX takes 128

// What is wrong with a response topic (for the caller to free), or NULL.
char *response_topic_fault(const struct config *config, const char *topic);
