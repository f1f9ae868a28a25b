// Why a connection did not come about or ended; see link_cause.h.
#include "gateway/broker/link_cause.h"

#include <stdio.h>
#include <string.h>

#include "gateway/base/libmosquitto.h"
#include "gateway/broker/protocol_version.h"

const char link_cause_speaks_tls[] = "this port speaks TLS: mqtts:// instead of mqtt:// in mqtt.url";
const char link_cause_speaks_plain[] =
    "this port does not speak TLS: mqtt:// instead of mqtts:// in mqtt.url";

// The reason of MQTT 5 that a return code of 3.1.1 is like. MQTT 5 itself refuses with none below 0x80.
static int reason_of(int reason) {
    static const int reasons[] = {0,
                                  MQTT_RC_UNSUPPORTED_PROTOCOL_VERSION,
                                  MQTT_RC_CLIENTID_NOT_VALID,
                                  MQTT_RC_SERVER_UNAVAILABLE,
                                  MQTT_RC_BAD_USERNAME_OR_PASSWORD,
                                  MQTT_RC_NOT_AUTHORIZED};
    return reason < (int)(sizeof reasons / sizeof reasons[0]) ? reasons[reason] : reason;
}

static void write_not_authorized(char cause[CAUSE_MAX], const struct config *config, const char *will_topic) {
    int length =
        snprintf(cause, CAUSE_MAX,
                 "Not authorized: look at mqtt.username, mqtt.password and the rights of client id '%s'",
                 config->mqtt.client_id);
    if (will_topic != NULL && length < CAUSE_MAX)
        snprintf(cause + length, CAUSE_MAX - (size_t)length,
                 "; some brokers also refuse when the Last Will, %s, may not be published", will_topic);
}

void link_cause_of_refusal(char cause[CAUSE_MAX], int version, int reason, const struct config *config,
                           const char *will_topic) {
    switch (reason_of(reason)) {
    case MQTT_RC_UNSUPPORTED_PROTOCOL_VERSION:
        snprintf(cause, CAUSE_MAX, "it does not know MQTT %s", version == MQTT_5 ? "5" : "3.1.1");
        break;
    case MQTT_RC_BAD_USERNAME_OR_PASSWORD:
        snprintf(cause, CAUSE_MAX, "Bad user name or password: look at mqtt.username and mqtt.password");
        break;
    case MQTT_RC_NOT_AUTHORIZED:
        write_not_authorized(cause, config, will_topic);
        break;
    case MQTT_RC_CLIENTID_NOT_VALID:
        snprintf(cause, CAUSE_MAX, "it does not accept the client id '%s': look at mqtt.client_id",
                 config->mqtt.client_id);
        break;
    default:
        snprintf(cause, CAUSE_MAX, "%s", mosquitto_reason_string(reason_of(reason)));
    }
}

void link_cause_of_goodbye(char cause[CAUSE_MAX], int reason, const struct config *config) {
    if (reason == MQTT_RC_SESSION_TAKEN_OVER)
        link_cause_of_rival(cause, config);
    else
        snprintf(cause, CAUSE_MAX, "%s", mosquitto_reason_string(reason));
}

void link_cause_of_silence(char cause[CAUSE_MAX], bool tls, bool in_tls) {
    if (in_tls)
        snprintf(
            cause, CAUSE_MAX,
            "it closed the connection while TLS was set up: does this port speak TLS, and does it ask for "
            "mqtt.cert_file?");
    else
        snprintf(cause, CAUSE_MAX,
                 "it closed the connection without an answer to CONNECT: does it know this version of MQTT, "
                 "%sand is there a broker behind this port?",
                 tls ? "" : "does this port speak TLS, ");
}

void link_cause_of_rival(char cause[CAUSE_MAX], const struct config *config) {
    snprintf(cause, CAUSE_MAX, "another client uses the id '%s'", config->mqtt.client_id);
}

bool link_cause_is_tls(const unsigned char *bytes, size_t length) {
    return length >= 2 && (bytes[0] == 0x15 || bytes[0] == 0x16) && bytes[1] == 0x03;
}

bool link_cause_is_plain(const char *line) {
    return strstr(line, "wrong version number") != NULL;
}

bool link_cause_is_close(const char *line) {
    return strstr(line, "unexpected eof") != NULL;
}
