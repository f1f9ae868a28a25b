// Why a connection to the broker did not come about or ended, in words that say what to look at.
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "gateway/config/config.h"

#define CAUSE_MAX 320 // bytes

// Of a refused CONNECT. version: that of MQTT; reason: of the answer.
void link_cause_of_refusal(char cause[CAUSE_MAX], int version, int reason, const struct config *config,
                           const char *will_topic);
// Of a broker that said goodbye (MQTT 5).
void link_cause_of_goodbye(char cause[CAUSE_MAX], int reason, const struct config *config);
// Of a connection that ended before any answer. in_tls: while TLS was being set up.
void link_cause_of_silence(char cause[CAUSE_MAX], bool tls, bool in_tls);
void link_cause_of_rival(char cause[CAUSE_MAX], const struct config *config);
// Of a broker that speaks TLS on a plain connection, and the reverse.
extern const char link_cause_speaks_tls[], link_cause_speaks_plain[];
// Whether bytes, the first from the broker, are TLS.
bool link_cause_is_tls(const unsigned char *bytes, size_t length);
// Whether a line of libmosquitto's says that the broker does not speak TLS.
bool link_cause_is_plain(const char *line);
// Whether it says no more than that the broker has closed the connection.
bool link_cause_is_close(const char *line);
