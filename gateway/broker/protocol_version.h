// Which version of MQTT to speak with a broker: 5, or 3.1.1 where the broker does not know 5.
//
// A broker that refuses 5 says so, or it closes the connection without an answer. The latter is also what a
// port does whose broker is away (a balancer, a container's proxy). So after two of them 3.1.1 is tried, and
// when that is accepted, 5 once more: closed again, the broker does not know it.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/config/config.h"

enum { MQTT_3_1_1 = 4, MQTT_5 = 5 }; // as the protocol numbers them

struct protocol_version {
    enum config_mqtt_version wanted;
    int tried;      // MQTT_3_1_1 or MQTT_5
    int closes;     // without an answer, in a row
    bool knows_5;   // the broker
    bool knows_4;   // and it accepted 3.1.1, while 5 is being tried once more
    bool settled;   // it does not know 5
    uint64_t since; // when that was found, in milliseconds
};

void protocol_version_init(struct protocol_version *version, enum config_mqtt_version wanted);

// The one for the next attempt. now in milliseconds, by a clock that only goes forward: after a day 5 is tried
// again.
int protocol_version_next(struct protocol_version *version, uint64_t now);
// Whether the attempt is only to learn whether the broker knows 3.1.1.
bool protocol_version_is_trial(const struct protocol_version *version);

// How the attempt ended. Each returns whether the next one should be made at once, with another version.
bool protocol_version_refused(struct protocol_version *version, uint64_t now);
bool protocol_version_closed(struct protocol_version *version, uint64_t now); // without an answer
bool protocol_version_accepted(struct protocol_version *version);
