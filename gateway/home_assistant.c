// Home Assistant's MQTT discovery; see home_assistant.h.
#include "gateway/home_assistant.h"

#include "gateway/gateway.h"

void home_assistant_announce(struct gateway *gateway, struct device_state *state) {
}

void home_assistant_remove(struct gateway *gateway, int64_t device_id) {
}

void home_assistant_heard(struct gateway *gateway, const struct mqtt_received *received) {
}
