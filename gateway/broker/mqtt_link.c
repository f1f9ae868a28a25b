// The link to the broker; see mqtt_link.h. What libmosquitto 2.0.11 asks of its user:
//
//  - mosquitto_loop_start() uses select() and never connects once there are more than 1024 descriptors, so
//  the
//    loop here drives loop_read, loop_write and loop_misc.
//  - The library closes its socket before on_disconnect, and the next socket often has the same number. So
//  the
//    descriptor is compared after every turn of the loop, and each connection has a fresh uv_poll_t.
//  - A publish inside a callback only queues, so the interest in writing is renewed in every turn.
//  - Connecting resolves the name and waits for the connection, and only the blocking call takes the
//  properties
//    of MQTT 5. It runs on libuv's thread pool, where it may block; the client is handed over to the loop
//    when it returns, and no two threads ever use it at once. The name stays with the client, which TLS
//    needs.
#include "gateway/broker/mqtt_link.h"

#include <errno.h>
#include <fcntl.h>
#include <mosquitto.h>
#include <mqtt_protocol.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"

#define KEEPALIVE       30     // seconds
#define BACKOFF_MIN     1000   // milliseconds
#define BACKOFF_MAX     30000  // milliseconds
#define CONNACK_TIMEOUT 10000  // milliseconds from the connection to the broker's answer
#define MISC_INTERVAL   1000   // milliseconds
#define CLOSE_TIME      500    // milliseconds that the broker is given to close the connection at the end
#define SESSION_EXPIRY  604800 // seconds that the broker keeps commands for a gateway that is away
#define READ_PACKETS    256    // packets to read or write in one turn

enum state { IDLE, CONNECTING, WAITING_CONNACK, SUBSCRIBING, UP, STOPPED };

struct mqtt_link {
    uv_loop_t *loop;
    const struct config *config;
    char *name; // for the log
    const struct mqtt_subscription *subscriptions;
    size_t subscription_count, subscribed;
    bool persistent;
    char *will_topic, *will_payload;
    const struct mqtt_link_handlers *handlers;
    void *context;
    enum state state;
    struct mosquitto *client;
    uv_poll_t *poll; // on the heap: libuv frees it after the next one has begun
    int polled;      // descriptor of poll
    int interest;    // events of poll
    bool broken;     // to be torn down at the end of this turn
    bool by_us;      // we broke it: the broker was silent, or left something out
    const char *why; // a constant, or NULL
    unsigned backoff;
    uv_work_t work;
    int connect_result;
    uv_timer_t timer;     // the next attempt, or the wait for CONNACK
    uv_timer_t misc;      // keep-alive
    uv_prepare_t prepare; // renews what is polled, once a turn
    struct mqtt_carrier carrier;
};

static void attempt(struct mqtt_link *link);

// The library's calls report a broken connection by their result; it is torn down outside of its callbacks.
static void note_result(struct mqtt_link *link, int result) {
    if (result == MOSQ_ERR_SUCCESS || link->broken)
        return;
    link->broken = true;
    if (link->why == NULL)
        link->why = mosquitto_strerror(result);
}

// --- polling ---

static void free_poll(uv_handle_t *handle) {
    free(handle);
}

static void stop_polling(struct mqtt_link *link) {
    if (link->poll != NULL)
        uv_close((uv_handle_t *)link->poll, free_poll);
    link->poll = NULL;
    link->polled = -1;
}

static void on_poll(uv_poll_t *poll, int status, int events) {
    struct mqtt_link *link = poll->data;
    if (link->poll != poll || link->client == NULL)
        return; // closed in this turn
    if (status < 0)
        note_result(link, MOSQ_ERR_CONN_LOST);
    if (!link->broken && (events & UV_READABLE) != 0)
        note_result(link, mosquitto_loop_read(link->client, READ_PACKETS));
    if (!link->broken && (events & UV_WRITABLE) != 0)
        note_result(link, mosquitto_loop_write(link->client, READ_PACKETS));
    if (mqtt_link_is_up(link) && link->handlers->ready != NULL)
        link->handlers->ready(link->context);
}

static void renew_polling(struct mqtt_link *link) {
    int descriptor = mosquitto_socket(link->client);
    int interest = UV_READABLE | (mosquitto_want_write(link->client) ? UV_WRITABLE : 0);
    if (descriptor < 0) {
        note_result(link, MOSQ_ERR_NO_CONN);
        return;
    }
    if (descriptor != link->polled) {
        stop_polling(link);
        link->poll = must_have(calloc(1, sizeof *link->poll));
        link->poll->data = link;
        link->polled = descriptor;
        link->interest = 0;
        uv_poll_init(link->loop, link->poll, descriptor);
    }
    if (interest != link->interest)
        uv_poll_start(link->poll, interest, on_poll);
    link->interest = interest;
}

// --- connecting ---

static void drop_client(struct mqtt_link *link) {
    stop_polling(link);
    uv_timer_stop(&link->misc);
    if (link->client != NULL)
        mosquitto_destroy(link->client);
    link->client = NULL;
    link->broken = false;
}

static void on_retry(uv_timer_t *timer) {
    attempt(timer->data);
}

static void retry_later(struct mqtt_link *link) {
    unsigned delay = link->backoff / 2 + (unsigned)rand() % (link->backoff / 2 + 1);
    const char *why = link->why != NULL ? link->why : "the connection was lost";
    int length = (int)strcspn(why, "."); // the library's sentences end with one
    log_warning("%s: %.*s; retrying in %u.%u s", link->name, length, why, delay / 1000, delay % 1000 / 100);
    link->why = NULL;
    link->state = IDLE;
    uv_timer_start(&link->timer, on_retry, delay, 0);
    link->backoff = link->backoff * 2 < BACKOFF_MAX ? link->backoff * 2 : BACKOFF_MAX;
}

static void tear_down(struct mqtt_link *link) {
    bool was_up = link->state == UP, by_broker = !link->by_us;
    link->by_us = false;
    drop_client(link);
    retry_later(link);
    if (was_up)
        link->handlers->down(link->context, by_broker);
}

static void on_prepare(uv_prepare_t *prepare) {
    struct mqtt_link *link = prepare->data;
    if (link->client == NULL || link->state == CONNECTING)
        return;
    if (!link->broken)
        renew_polling(link);
    if (link->broken)
        tear_down(link);
}

static void on_misc(uv_timer_t *timer) {
    struct mqtt_link *link = timer->data;
    note_result(link, mosquitto_loop_misc(link->client));
}

static void on_connack_timeout(uv_timer_t *timer) {
    struct mqtt_link *link = timer->data;
    link->why = "no answer to CONNECT";
    note_result(link, MOSQ_ERR_CONN_LOST);
}

static void become_up(struct mqtt_link *link) {
    link->state = UP;
    link->backoff = BACKOFF_MIN;
    // It has no more to say than what the calls return, and would format a line for each packet.
    mosquitto_log_callback_set(link->client, NULL);
    uv_timer_stop(&link->timer);
    log_at(link->handlers->purpose == NULL ? LOG_INFO : LOG_DEBUG, "%s: connected", link->name);
    link->handlers->up(link->context);
}

static void on_connect(struct mosquitto *client, void *context, int reason, int flags,
                       const mosquitto_property *properties) {
    struct mqtt_link *link = context;
    if (reason != 0) {
        link->why = mosquitto_reason_string(reason);
        note_result(link, MOSQ_ERR_CONN_REFUSED);
        return;
    }
    link->state = SUBSCRIBING;
    link->subscribed = 0;
    link->handlers->connected(link->context);
    for (size_t i = 0; i < link->subscription_count; i++)
        note_result(link,
                    mosquitto_subscribe_v5(client, NULL, link->subscriptions[i].filter,
                                           link->subscriptions[i].qos, link->subscriptions[i].options, NULL));
}

// The answers come in the order of the requests.
static void on_subscribe(struct mosquitto *client, void *context, int mid, int count, const int *granted,
                         const mosquitto_property *properties) {
    struct mqtt_link *link = context;
    for (int i = 0; i < count && link->subscribed < link->subscription_count; i++, link->subscribed++)
        if (granted[i] >= 0x80)
            log_error("%s: subscription to %s rejected: %s", link->name,
                      link->subscriptions[link->subscribed].filter, mosquitto_reason_string(granted[i]));
    if (link->state == SUBSCRIBING && link->subscribed == link->subscription_count)
        become_up(link);
}

static void on_disconnect(struct mosquitto *client, void *context, int reason,
                          const mosquitto_property *properties) {
    struct mqtt_link *link = context;
    link->by_us = link->by_us || reason == MOSQ_ERR_KEEPALIVE;
    if (reason >= 0x80 && link->why == NULL)
        link->why = mosquitto_reason_string(reason);
    note_result(link, MOSQ_ERR_CONN_LOST);
}

// 0x80 and 0x83 say nothing of the message: Mosquitto says the latter of one that is too large, others when
// they are in trouble themselves.
static enum mqtt_answer answer_of(int reason) {
    if (reason < 0x80)
        return MQTT_TAKEN;
    switch (reason) {
    case MQTT_RC_QUOTA_EXCEEDED:
    case MQTT_RC_PACKET_ID_IN_USE:
        return MQTT_TAKEN_LATER;
    case MQTT_RC_UNSPECIFIED:
    case MQTT_RC_IMPLEMENTATION_SPECIFIC:
        return MQTT_NOT_TAKEN;
    default:
        return MQTT_NEVER_TAKEN;
    }
}

static void on_publish(struct mosquitto *client, void *context, int mid, int reason,
                       const mosquitto_property *properties) {
    struct mqtt_link *link = context;
    link->handlers->published(link->context, mid, answer_of(reason), mosquitto_reason_string(reason));
}

static char *read_instance(const mosquitto_property *properties) {
    char *name = NULL, *value = NULL;
    for (bool again = false; properties != NULL; again = true) {
        properties =
            mosquitto_property_read_string_pair(properties, MQTT_PROP_USER_PROPERTY, &name, &value, again);
        bool found = properties != NULL && strcmp(name, "instance") == 0;
        free(name);
        if (found)
            return value;
        free(value);
        name = value = NULL;
    }
    return NULL;
}

static void on_message(struct mosquitto *client, void *context, const struct mosquitto_message *message,
                       const mosquitto_property *properties) {
    struct mqtt_link *link = context;
    char *response_topic = NULL;
    void *correlation = NULL;
    uint16_t correlation_length = 0;
    char *instance = read_instance(properties);
    mosquitto_property_read_string(properties, MQTT_PROP_RESPONSE_TOPIC, &response_topic, false);
    mosquitto_property_read_binary(properties, MQTT_PROP_CORRELATION_DATA, &correlation, &correlation_length,
                                   false);
    link->handlers->received(link->context,
                             &(struct mqtt_received){.topic = message->topic,
                                                     .payload = message->payload,
                                                     .length = (size_t)message->payloadlen,
                                                     .retain = message->retain,
                                                     .instance = instance,
                                                     .response_topic = response_topic,
                                                     .correlation = correlation,
                                                     .correlation_length = correlation_length});
    free(instance);
    free(response_topic);
    free(correlation);
}

// What the library has to say of faults, such as why TLS failed. Also called on a thread of the pool.
static void on_log(struct mosquitto *client, void *context, int level, const char *text) {
    if (level == MOSQ_LOG_ERR || level == MOSQ_LOG_WARNING)
        log_warning("broker: libmosquitto: %s", text);
}

static int set_tls(struct mqtt_link *link) {
    const struct config *config = link->config;
    if (!config->mqtt.tls)
        return MOSQ_ERR_SUCCESS;
    if (config->mqtt.ca_file == NULL)
        mosquitto_int_option(link->client, MOSQ_OPT_TLS_USE_OS_CERTS, 1);
    if (config->mqtt.ca_file == NULL && config->mqtt.cert_file == NULL)
        return MOSQ_ERR_SUCCESS;
    return mosquitto_tls_set(link->client, config->mqtt.ca_file,
                             config->mqtt.ca_file == NULL ? "/etc/ssl/certs" : NULL, config->mqtt.cert_file,
                             config->mqtt.key_file, NULL);
}

static int make_client(struct mqtt_link *link) {
    const struct config *config = link->config;
    // Without a clean start, what came while we were away is delivered.
    link->client = must_have(mosquitto_new(config->mqtt.client_id, !link->persistent, link));
    mosquitto_int_option(link->client, MOSQ_OPT_PROTOCOL_VERSION, MQTT_PROTOCOL_V5);
    // With the usual 20 Mosquitto 2.0.11 (and max_inflight_messages 0) never sends what it has for us beyond
    // that.
    mosquitto_int_option(link->client, MOSQ_OPT_RECEIVE_MAXIMUM, 65535);
    mosquitto_int_option(link->client, MOSQ_OPT_SEND_MAXIMUM, config->mqtt.inflight);
    mosquitto_int_option(link->client, MOSQ_OPT_TCP_NODELAY, 1);
    mosquitto_log_callback_set(link->client, on_log);
    mosquitto_connect_v5_callback_set(link->client, on_connect);
    mosquitto_disconnect_v5_callback_set(link->client, on_disconnect);
    mosquitto_subscribe_v5_callback_set(link->client, on_subscribe);
    mosquitto_publish_v5_callback_set(link->client, on_publish);
    mosquitto_message_v5_callback_set(link->client, on_message);
    int result = mosquitto_username_pw_set(link->client, config->mqtt.username, config->mqtt.password);
    if (result == MOSQ_ERR_SUCCESS && link->will_topic != NULL)
        result = mosquitto_will_set_v5(link->client, link->will_topic, (int)strlen(link->will_payload),
                                       link->will_payload, 1, true, NULL);
    return result == MOSQ_ERR_SUCCESS ? set_tls(link) : result;
}

// On a thread of the pool.
static void connect_blocking(uv_work_t *work) {
    struct mqtt_link *link = work->data;
    mosquitto_property *properties = NULL;
    if (link->persistent)
        mosquitto_property_add_int32(&properties, MQTT_PROP_SESSION_EXPIRY_INTERVAL, SESSION_EXPIRY);
    errno = 0;
    link->connect_result = mosquitto_connect_bind_v5(link->client, link->config->mqtt.host,
                                                     link->config->mqtt.port, KEEPALIVE, NULL, properties);
    if (link->connect_result == MOSQ_ERR_ERRNO)
        link->why = strerrordesc_np(errno);
    mosquitto_property_free_all(&properties);
}

static void on_connected(uv_work_t *work, int status) {
    struct mqtt_link *link = work->data;
    if (link->state == STOPPED) {
        drop_client(link);
        return;
    }
    link->state = WAITING_CONNACK;
    note_result(link, link->connect_result);
    if (link->broken) {
        tear_down(link);
        return;
    }
    uv_timer_start(&link->timer, on_connack_timeout, CONNACK_TIMEOUT, 0);
    uv_timer_start(&link->misc, on_misc, MISC_INTERVAL, MISC_INTERVAL);
}

static void attempt(struct mqtt_link *link) {
    int result = make_client(link);
    link->state = CONNECTING;
    if (result != MOSQ_ERR_SUCCESS) {
        link->why = mosquitto_strerror(result);
        tear_down(link);
        return;
    }
    link->work.data = link;
    uv_queue_work(link->loop, &link->work, connect_blocking, on_connected);
}

// --- carrying messages ---

static bool carrier_is_up(void *context) {
    return mqtt_link_is_up(context);
}

static enum mqtt_publish_result result_of(struct mqtt_link *link, int result) {
    switch (result) {
    case MOSQ_ERR_SUCCESS:
        return MQTT_SENT;
    case MOSQ_ERR_INVAL:
    case MOSQ_ERR_MALFORMED_UTF8:
    case MOSQ_ERR_OVERSIZE_PACKET:
    case MOSQ_ERR_PAYLOAD_SIZE:
        return MQTT_REFUSED;
    default:
        note_result(link, result);
        return MQTT_NOT_NOW;
    }
}

static enum mqtt_publish_result publish(void *context, const struct mqtt_publish *publish, int *mid) {
    struct mqtt_link *link = context;
    mosquitto_property *properties = NULL;
    if (!mqtt_link_is_up(link))
        return MQTT_NOT_NOW;
    if (publish->correlation != NULL)
        mosquitto_property_add_binary(&properties, MQTT_PROP_CORRELATION_DATA, publish->correlation,
                                      (uint16_t)publish->correlation_length);
    if (publish->retain == MQTT_RETAINED_SIGNED)
        mosquitto_property_add_string_pair(&properties, MQTT_PROP_USER_PROPERTY, "instance",
                                           link->config->mqtt.client_id);
    int result =
        mosquitto_publish_v5(link->client, mid, publish->topic, (int)publish->length, publish->payload,
                             publish->qos, publish->retain != MQTT_NOT_RETAINED, properties);
    mosquitto_property_free_all(&properties);
    return result_of(link, result);
}

static void reset(void *context, const char *why) {
    struct mqtt_link *link = context;
    if (!mqtt_link_is_up(link))
        return;
    link->why = why;
    link->by_us = true;
    note_result(link, MOSQ_ERR_CONN_LOST);
}

// --- what others call ---

struct mqtt_link *mqtt_link_new(uv_loop_t *loop, const struct config *config,
                                const struct mqtt_subscription *subscriptions, size_t subscription_count,
                                bool persistent, const char *will_topic, const char *will_payload,
                                const struct mqtt_link_handlers *handlers, void *context) {
    struct mqtt_link *link = must_have(calloc(1, sizeof *link));
    mosquitto_lib_init();
    *link = (struct mqtt_link){
        .loop = loop,
        .config = config,
        .subscriptions = subscriptions,
        .subscription_count = subscription_count,
        .persistent = persistent,
        .will_topic = will_topic != NULL ? must_have(strdup(will_topic)) : NULL,
        .will_payload = will_topic != NULL ? must_have(strdup(will_payload)) : NULL,
        .handlers = handlers,
        .context = context,
        .polled = -1,
        .backoff = BACKOFF_MIN,
        .carrier = {.context = link, .is_up = carrier_is_up, .publish = publish, .reset = reset},
    };
    if (asprintf(&link->name, "broker %s:%d%s%s", config->mqtt.host, config->mqtt.port,
                 handlers->purpose != NULL ? ", " : "",
                 handlers->purpose != NULL ? handlers->purpose : "") < 0)
        must_have(NULL);
    uv_timer_init(loop, &link->timer);
    uv_timer_init(loop, &link->misc);
    uv_prepare_init(loop, &link->prepare);
    link->timer.data = link->misc.data = link->prepare.data = link;
    return link;
}

void mqtt_link_start(struct mqtt_link *link) {
    uv_prepare_start(&link->prepare, on_prepare);
    attempt(link);
}

bool mqtt_link_is_up(const struct mqtt_link *link) {
    return link->state == UP && !link->broken;
}

bool mqtt_link_is_connecting(const struct mqtt_link *link) {
    return link->client != NULL && link->state == STOPPED;
}

const struct mqtt_carrier *mqtt_link_carrier(const struct mqtt_link *link) {
    return &link->carrier;
}

bool mqtt_link_subscribe(struct mqtt_link *link, const char *filter) {
    if (!mqtt_link_is_up(link))
        return false;
    int result = mosquitto_subscribe_v5(link->client, NULL, filter, 0, MQTT_SUB_OPT_NO_LOCAL, NULL);
    note_result(link, result);
    return result == MOSQ_ERR_SUCCESS;
}

void mqtt_link_unsubscribe(struct mqtt_link *link, const char *filter) {
    if (mqtt_link_is_up(link))
        note_result(link, mosquitto_unsubscribe(link->client, NULL, filter));
}

// A socket that is closed with something unread in it is reset, and a broker that sees that before it has
// read the goodbye publishes the Last Will. So what it still says is read until it closes the connection.
// handle is a copy, because the library closes its own.
static void await_close(int handle) {
    struct pollfd poller = {.fd = handle, .events = POLLIN};
    uint64_t end = uv_hrtime() + CLOSE_TIME * (uint64_t)1000000;
    char bytes[4096];
    shutdown(handle, SHUT_WR);
    while (uv_hrtime() < end && poll(&poller, 1, CLOSE_TIME) == 1)
        if (recv(handle, bytes, sizeof bytes, MSG_DONTWAIT) <= 0)
            break;
    close(handle);
}

void mqtt_link_stop(struct mqtt_link *link) {
    bool connecting = link->state == CONNECTING;
    if (link->state >= WAITING_CONNACK && link->state < STOPPED && !link->broken) {
        int handle =
            link->will_topic != NULL ? fcntl(mosquitto_socket(link->client), F_DUPFD_CLOEXEC, 0) : -1;
        mosquitto_disconnect_v5(link->client, MQTT_RC_NORMAL_DISCONNECTION, NULL);
        mosquitto_loop_write(link->client, READ_PACKETS);
        if (handle >= 0)
            await_close(handle);
    }
    link->state = STOPPED;
    if (!connecting)
        drop_client(link); // otherwise on_connected() does
    uv_close((uv_handle_t *)&link->timer, NULL);
    uv_close((uv_handle_t *)&link->misc, NULL);
    uv_close((uv_handle_t *)&link->prepare, NULL);
}

void mqtt_link_free(struct mqtt_link *link) {
    free(link->will_topic);
    free(link->will_payload);
    free(link->name);
    free(link);
    mosquitto_lib_cleanup();
}
