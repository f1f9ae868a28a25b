// Which version of MQTT to speak with a broker; see protocol_version.h.
#include "gateway/broker/protocol_version.h"

#define AGAIN_AFTER ((uint64_t)24 * 3600 * 1000) // milliseconds
#define CLOSES      2

void protocol_version_init(struct protocol_version *version, enum config_mqtt_version wanted) {
    *version = (struct protocol_version){.wanted = wanted,
                                         .tried = wanted == MQTT_VERSION_3_1_1 ? MQTT_3_1_1 : MQTT_5};
}

static void begin_again(struct protocol_version *version) {
    protocol_version_init(version, version->wanted);
}

static void settle(struct protocol_version *version, uint64_t now) {
    version->tried = MQTT_3_1_1;
    version->closes = 0;
    version->settled = true;
    version->since = now;
}

int protocol_version_next(struct protocol_version *version, uint64_t now) {
    if (version->settled && now - version->since >= AGAIN_AFTER)
        begin_again(version);
    return version->tried;
}

bool protocol_version_is_trial(const struct protocol_version *version) {
    return version->tried == MQTT_3_1_1 && version->wanted == MQTT_VERSION_AUTO && !version->settled;
}

bool protocol_version_refused(struct protocol_version *version, uint64_t now) {
    if (version->wanted != MQTT_VERSION_AUTO)
        return false;
    if (version->tried == MQTT_3_1_1) {
        begin_again(version);
        return false;
    }
    settle(version, now);
    return true;
}

bool protocol_version_closed(struct protocol_version *version, uint64_t now) {
    if (version->wanted != MQTT_VERSION_AUTO || version->settled || version->knows_5)
        return false;
    if (version->knows_4) {
        settle(version, now);
        return true;
    }
    if (++version->closes < CLOSES)
        return false;
    version->closes = 0;
    version->tried = version->tried == MQTT_5 ? MQTT_3_1_1 : MQTT_5;
    return false;
}

bool protocol_version_accepted(struct protocol_version *version) {
    version->closes = 0;
    if (version->tried == MQTT_5) {
        version->knows_5 = true;
        version->knows_4 = false;
        return false;
    }
    if (!protocol_version_is_trial(version))
        return false;
    version->knows_4 = true;
    version->tried = MQTT_5;
    return true;
}
