// A client of libmosquitto for one attempt to connect; see link_client.h.
#include "gateway/broker/link_client.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/base/libmosquitto.h"
#include "gateway/base/memory.h"
#include "gateway/broker/protocol_version.h"

#define KEEPALIVE       30         // seconds
#define SESSION_LASTING 604800     // seconds that the broker keeps commands for a gateway that is away
#define SESSION_BRIEF   600        // seconds
#define WILL_DELAY      1          // seconds; some brokers never send the Last Will at 0
#define PACKET_SIZE_MAX (1U << 20) // bytes of what we take in
#define PROBE_TIME      5000       // milliseconds that an address may take to answer

// --- setting up ---

static int set_tls(struct mosquitto *client, const struct link_attempt *attempt) {
    const struct config *config = attempt->config;
    if (!attempt->address.tls)
        return MOSQ_ERR_SUCCESS;
    if (config->mqtt.ca_file == NULL)
        mosquitto_int_option(client, MOSQ_OPT_TLS_USE_OS_CERTS, 1);
    if (config->mqtt.ca_file == NULL && config->mqtt.cert_file == NULL)
        return MOSQ_ERR_SUCCESS;
    return mosquitto_tls_set(client, config->mqtt.ca_file,
                             config->mqtt.ca_file == NULL ? "/etc/ssl/certs" : NULL, config->mqtt.cert_file,
                             config->mqtt.key_file, NULL);
}

static int set_will(struct mosquitto *client, const struct link_attempt *attempt) {
    if (attempt->will_topic == NULL)
        return MOSQ_ERR_SUCCESS;
    mosquitto_property *properties = NULL; // the client's, once it has taken them
    if (attempt->version == MQTT_5)
        mosquitto_property_add_int32(&properties, MQTT_PROP_WILL_DELAY_INTERVAL, WILL_DELAY);
    int result =
        mosquitto_will_set_v5(client, attempt->will_topic, (int)strlen(attempt->will_payload),
                              attempt->will_payload, attempt->will_qos, attempt->will_retained, properties);
    if (result != MOSQ_ERR_SUCCESS)
        mosquitto_property_free_all(&properties);
    return result;
}

static void set_options(struct mosquitto *client, const struct link_attempt *attempt) {
    mosquitto_int_option(client, MOSQ_OPT_PROTOCOL_VERSION, attempt->version);
    // With the usual 20 Mosquitto 2.0.11 (and max_inflight_messages 0) never sends what it has for us beyond
    // that.
    mosquitto_int_option(client, MOSQ_OPT_RECEIVE_MAXIMUM, 65535);
    mosquitto_int_option(client, MOSQ_OPT_SEND_MAXIMUM, attempt->config->mqtt.inflight);
    mosquitto_int_option(client, MOSQ_OPT_TCP_NODELAY, 1);
    // There are no threads. But then nothing is written before mosquitto_loop_write().
    mosquitto_threaded_set(client, true);
}

// Seconds that the broker keeps the session; with MQTT 3.1.1, which knows no time, whether it does.
static uint32_t session_time(const struct link_attempt *attempt) {
    switch (attempt->session) {
    case MQTT_SESSION_LASTING:
        return SESSION_LASTING;
    case MQTT_SESSION_BRIEF:
        return attempt->version == MQTT_5 ? SESSION_BRIEF : 0;
    default:
        return 0;
    }
}

struct mosquitto *link_client_new(const struct link_attempt *attempt, int *result) {
    const struct config *config = attempt->config;
    // Without a clean start, what came while we were away is delivered.
    struct mosquitto *client =
        must_have(mosquitto_new(config->mqtt.client_id, session_time(attempt) == 0, attempt->context));
    set_options(client, attempt);
    *result = mosquitto_username_pw_set(client, config->mqtt.username, config->mqtt.password);
    if (*result == MOSQ_ERR_SUCCESS)
        *result = set_will(client, attempt);
    if (*result == MOSQ_ERR_SUCCESS)
        *result = set_tls(client, attempt);
    return client;
}

// --- connecting ---

static bool answers(const struct addrinfo *info) {
    int handle = socket(info->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct pollfd poller = {.fd = handle, .events = POLLOUT};
    int error = 0;
    socklen_t size = sizeof error;
    if (handle < 0)
        return false;
    if (connect(handle, info->ai_addr, info->ai_addrlen) != 0) {
        bool done = errno == EINPROGRESS && poll(&poller, 1, PROBE_TIME) == 1 &&
                    getsockopt(handle, SOL_SOCKET, SO_ERROR, &error, &size) == 0;
        errno = done ? error : errno == EINPROGRESS ? ETIMEDOUT : errno;
    } else {
        errno = 0;
    }
    error = errno;
    close(handle);
    errno = error;
    return error == 0;
}

// The library has no bound of its own for the time that a connection takes: minutes when an address is dead.
static bool probe(const struct broker_address *address, char cause[CAUSE_MAX]) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
    char port[8];
    bool found = false;
    snprintf(port, sizeof port, "%d", address->port);
    int result = getaddrinfo(address->host, port, &hints, &list);
    if (result != 0) {
        snprintf(cause, CAUSE_MAX, "%s", gai_strerror(result));
        return false;
    }
    for (const struct addrinfo *info = list; info != NULL && !found; info = info->ai_next)
        found = answers(info);
    if (!found)
        snprintf(cause, CAUSE_MAX, "%s", strerrordesc_np(errno));
    freeaddrinfo(list);
    return found;
}

static mosquitto_property *connect_properties(const struct link_attempt *attempt) {
    mosquitto_property *properties = NULL;
    if (attempt->version != MQTT_5)
        return NULL;
    mosquitto_property_add_int32(&properties, MQTT_PROP_MAXIMUM_PACKET_SIZE, PACKET_SIZE_MAX);
    if (session_time(attempt) > 0)
        mosquitto_property_add_int32(&properties, MQTT_PROP_SESSION_EXPIRY_INTERVAL, session_time(attempt));
    return properties;
}

int link_client_connect(struct mosquitto *client, const struct link_attempt *attempt, char cause[CAUSE_MAX]) {
    const struct broker_address *address = &attempt->address;
    if (attempt->probe && !probe(address, cause))
        return MOSQ_ERR_CONN_LOST;
    mosquitto_property *properties = connect_properties(attempt);
    errno = 0;
    int result = mosquitto_connect_bind_v5(client, address->host, address->port, KEEPALIVE, NULL, properties);
    if (result == MOSQ_ERR_ERRNO)
        snprintf(cause, CAUSE_MAX, "%s", strerrordesc_np(errno));
    mosquitto_property_free_all(&properties);
    return result;
}
