// The page; see web.h. Puts the parts together, and takes what comes from the broker to those whom it concerns.
#include "gateway/web/web.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "gateway/base/clock.h"
#include "gateway/base/libmosquitto.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/mqtt_link.h"
#include "gateway/broker/topic.h"
#include "gateway/fleet/listener.h"
#include "gateway/web/api.h"
#include "gateway/web/captured.h"
#include "gateway/web/certificate.h"
#include "gateway/web/row.h"

#define TICK          500      // milliseconds; rows that have changed go out as often
#define TIDY_TICKS    10       // between looks at what is not looked at any more
#define GUARD_TICKS   2        // between looks at sessions that are over
#define BEAT_TICKS    30       // between signs of life on event streams
#define INTEREST      60000000 // microseconds after the last request that changes are told
#define ROWS_MAX      1000     // in a tick; the others wait for the next, each with what is last known then
#define LOG_ENTRIES   5000
#define LOG_BYTES     (8 << 20)
#define MESSAGES      2000
#define MESSAGE_BYTES (4 << 20)
#define CHUNKS        2000 // of captures
#define CHUNK_BYTES   (4 << 20)
#define PAYLOAD_MAX   65536 // bytes of a command
#define ENTRY_MAX                                                                                            \
    (1 << 18) // bytes of a log entry: one of a capture has what was read at once, in hexadecimal digits

// What it asks for besides what the listener does: of the log, and of what is retained.
static const char *const logs[] = {TOPIC_DEVICES "+/created",
                                   TOPIC_DEVICES "+/updated",
                                   TOPIC_DEVICES "+/deleted",
                                   TOPIC_DEVICES "+" TOPIC_QUEUE "+/+",
                                   TOPIC_CHANNELS "+" TOPIC_ERROR,
                                   TOPIC_CHANNELS "+" TOPIC_CONNECTIONS "+/+",
                                   TOPIC_CAPTURES "+",
                                   TOPIC_REFUSED};
static const char *const retained[] = {TOPIC_STATE TOPIC_INSTANCES "+",
                                       TOPIC_STATE TOPIC_INSTANCES "+/metrics",
                                       TOPIC_STATE TOPIC_CHANNELS "+",
                                       TOPIC_STATE TOPIC_DEVICES "+" TOPIC_QUEUE "+",
                                       TOPIC_STATE TOPIC_CHANNELS "+/+" TOPIC_QUEUE "+",
                                       TOPIC_REGISTRY TOPIC_DEVICES "+"};
#define OWN_FILTERS (sizeof logs / sizeof logs[0] + sizeof retained / sizeof retained[0])

struct web {
    const struct config *config;
    uv_loop_t *loop;
    uv_timer_t tick;
    uint64_t ticks;
    struct mqtt_link *link;
    struct mqtt_subscription subscriptions[LISTENER_SUBSCRIPTIONS_MAX + OWN_FILTERS];
    size_t subscription_count, listener_count; // the first are the listener's
    struct listener *listener;
    const char *states;                   // the filter that was asked for last, or NULL
    bool states_come;                     // since the last look
    const struct mqtt_received *received; // while it is being taken
    struct histories *histories;
    struct journal *log, *messages, *chunks;
    struct captured *captured;
    bool captures_changed;
    struct waiting *waiting;
    struct listed *listed;
    struct gateways *gateways;
    bool gateways_changed;
    struct dossiers *dossiers;
    struct events *events;
    struct streams *streams;
    struct login *login;
    struct desk *desk;
    struct api *api;
    struct http *http;
    int64_t asked; // by clock_ticks(): when somebody last wanted something
    char *certificate, *key;
    bool stopped;
};

static struct fleet *fleet_of(const struct web *web) {
    return listener_fleet(web->listener);
}

// --- events ---

static void tell(struct web *web, const char *type, const char *ident, struct text_out *out) {
    size_t length;
    char *text = text_out_take(out, &length);
    events_add(web->events, type, ident, text, length);
    free(text);
}

static void tell_nothing_more(struct web *web, const char *type, const char *ident) {
    struct text_out out = {0};
    text_out_bytes(&out, "{}", 2);
    tell(web, type, ident, &out);
}

static void tell_row(struct web *web, const struct fleet_device *device) {
    struct text_out out = {0};
    text_out_bytes(&out, "{", 1);
    row_write(device, web->waiting, &out);
    text_out_bytes(&out, "}", 1);
    tell(web, "device", NULL, &out);
}

static void tell_broker(struct web *web, bool up) {
    struct text_out out = {0};
    text_out_print(&out, "{\"up\":%s}", up ? "true" : "false");
    tell(web, "broker", NULL, &out);
    streams_wake(web->streams);
}

static void tell_gateways(struct web *web) {
    struct text_out out = {0};
    text_out_print(&out, "{\"online\":%zu}", gateways_online(web->gateways));
    tell(web, "gateways", NULL, &out);
}

// Whether anybody would read it.
static bool is_looked_at(const struct web *web) {
    return streams_count(web->streams) > 0 || clock_ticks() - web->asked < INTEREST;
}

static void tell_rows(struct web *web) {
    struct fleet_device *device;
    size_t told = 0;
    bool wanted = is_looked_at(web);
    while ((!wanted || told < ROWS_MAX) && (device = fleet_next_changed(fleet_of(web))) != NULL)
        if (wanted) {
            tell_row(web, device);
            told++;
        }
}

static void on_gone(void *context, struct fleet_device *device) {
    struct web *web = context;
    struct text_out out = {0};
    struct history *history = device->notes;
    if (history != NULL)
        history_drop(web->histories, (struct history **)&device->notes);
    text_out_bytes(&out, "{", 1);
    text_out_member_string(&out, "ident", device->ident);
    text_out_bytes(&out, "}", 1);
    tell(web, "gone", NULL, &out);
}

// --- messages ---

// As it came when that is one line, as our own messages are; otherwise made so. For the caller to free.
static char *one_line(const char *payload, size_t length) {
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)payload[i] < ' ') {
            json_t *json = json_loadb(payload, length, 0, NULL);
            char *text = json != NULL ? text_of_json(json, TEXT_TIME_DIGITS) : must_have(strdup("{}"));
            json_decref(json);
            return text;
        }
    return must_have(strndup(payload, length));
}

static void note_values(struct web *web, const struct report *report) {
    if (report->id < 0 || !dossier_has(web->dossiers, report->id))
        return;
    json_t *json = json_loadb(web->received->payload, web->received->length, 0, NULL);
    dossier_message(web->dossiers, report->id, json, (double)report->reported / 1e6);
    json_decref(json);
}

static void on_message(void *context, const struct report *report) {
    struct web *web = context;
    struct fleet_device *device = fleet_by_ident(fleet_of(web), report->ident);
    char *text = one_line(web->received->payload, web->received->length);
    size_t length = strlen(text);
    history_add(web->histories, (struct history **)&device->notes,
                &(struct history_point){.time = (double)report->reported / 1e6,
                                        .latitude = report->latitude,
                                        .longitude = report->longitude,
                                        .speed = report->speed,
                                        .battery = report->battery});
    note_values(web, report);
    if (streams_has(web->streams, report->ident))
        events_add(web->events, "message", report->ident, text, length);
    journal_add(web->messages, report->ident, text, length);
}

static void on_presence(void *context, const struct report *report) {
}

static void on_odd(void *context, const struct mqtt_received *received) {
    log_about(received->topic, LOG_DEBUG, "cannot understand the message on %s", received->topic);
}

// --- log entries ---

// The ident that an entry is about; "" when it is about no known device.
static const char *ident_of(const struct web *web, const char *topic, const json_t *entry) {
    const char *ident = json_string_value(json_object_get(entry, "ident"));
    const char *device = topic_after(topic, TOPIC_DEVICES), *end;
    int64_t id;
    if (ident != NULL && fleet_by_ident(fleet_of(web), ident) != NULL)
        return ident;
    const struct fleet_device *found =
        device != NULL && topic_read_id(device, &id, &end) ? fleet_by_id(fleet_of(web), id) : NULL;
    return found != NULL ? found->ident : "";
}

// Bytes of a capture are for who looks at the device, and push no other entry out. What is known of no device is not
// kept: `trackbus capture` has it.
static void take_chunk(struct web *web, const char *ident, char *text) {
    if (*ident == '\0') {
        free(text);
        return;
    }
    if (streams_has(web->streams, ident))
        events_add(web->events, "chunk", ident, text, strlen(text));
    journal_add(web->chunks, ident, text, strlen(text));
}

static bool is_chunk(const char *topic) {
    const char *last = strrchr(topic, '/');
    return topic_after(topic, TOPIC_CHANNELS) != NULL &&
           (strcmp(last, "/recv") == 0 || strcmp(last, "/send") == 0);
}

static void take_entry(struct web *web, const char *topic, const json_t *entry) {
    json_t *whole = json_pack("{s:s, s:O}", "topic", topic, "entry", entry);
    const char *ident = ident_of(web, topic, entry), *word = topic_after(topic, TOPIC_CAPTURES);
    char *text = whole != NULL ? text_of_json(whole, TEXT_TIME_DIGITS) : must_have(strdup("{}"));
    json_decref(whole);
    if (word != NULL && captured_take(web->captured, word, entry))
        web->captures_changed = true;
    if (is_chunk(topic)) {
        take_chunk(web, ident, text);
        return;
    }
    events_add(web->events, "log", *ident != '\0' ? ident : NULL, text, strlen(text));
    journal_add(web->log, ident, text, strlen(text));
}

// topic is what follows log/gw/.
static void take_log(struct web *web, const char *topic, const struct mqtt_received *received) {
    json_t *entry =
        received->length <= ENTRY_MAX ? json_loadb(received->payload, received->length, 0, NULL) : NULL;
    if (json_is_object(entry))
        take_entry(web, topic, entry);
    json_decref(entry);
}

// --- state ---

static void touch_place(struct web *web, const char *place) {
    const char *device = topic_after(place, TOPIC_DEVICES), *ident = strrchr(place, '/') + 1, *end;
    int64_t id;
    struct fleet_device *found = device == NULL                     ? fleet_by_ident(fleet_of(web), ident)
                                 : topic_read_id(device, &id, &end) ? fleet_by_id(fleet_of(web), id)
                                                                    : NULL;
    if (found == NULL)
        return;
    fleet_touch(fleet_of(web), found);
    tell_nothing_more(web, "waiting", found->ident);
}

// "devices/42/commands-queue/7": place and id are taken apart at queue.
static void take_command(struct web *web, const char *topic, const char *queue,
                         const struct mqtt_received *received) {
    char *place = must_have(strndup(topic, (size_t)(queue - topic)));
    json_t *entry = received->length > 0 && received->length <= PAYLOAD_MAX
                        ? json_loadb(received->payload, received->length, 0, NULL)
                        : NULL;
    const char *id = queue + strlen(TOPIC_QUEUE);
    if (received->length == 0 || json_is_object(entry)) {
        if (entry != NULL)
            json_object_set_new(entry, "id", json_string(id));
        waiting_set(web->waiting, place, id, entry != NULL ? text_of_json(entry, TEXT_TIME_DIGITS) : NULL);
        touch_place(web, place);
    }
    json_decref(entry);
    free(place);
}

// What the listener asks for; the rest below a device is for who looks at it.
static bool is_for_listener(const char *rest) {
    const char *name = topic_after(rest, TOPIC_TELEMETRY);
    if (name == NULL)
        return *rest == '\0' || strcmp(rest, TOPIC_CONNECTED) == 0 || strcmp(rest, TOPIC_ACTIVE) == 0;
    return strcmp(name, TOPIC_POSITION) == 0 || strcmp(name, "battery.voltage") == 0 ||
           strcmp(name, "server.timestamp") == 0;
}

static void take_device(struct web *web, const char *topic, const struct mqtt_received *received) {
    const char *rest;
    int64_t id;
    if (!topic_read_id(topic, &id, &rest))
        return;
    int64_t measured = received->measured != 0 || received->retain ? received->measured : clock_now();
    dossier_take(web->dossiers, id, rest, received->payload, received->length, (double)measured / 1e6);
    if (is_for_listener(rest) && listener_take(web->listener, received, clock_now()))
        web->states_come = true;
}

static void take_state(struct web *web, const char *topic, const struct mqtt_received *received) {
    const char *queue = strstr(topic, TOPIC_QUEUE), *device = topic_after(topic, TOPIC_DEVICES);
    if (queue != NULL)
        take_command(web, topic, queue, received);
    else if (device != NULL)
        take_device(web, device, received);
    else if (gateways_take(web->gateways, topic, received))
        web->gateways_changed = true;
}

static void take_listing(struct web *web, const char *ident, const struct mqtt_received *received) {
    listed_set(web->listed, ident, received->payload, received->length);
    if (!received->retain && fleet_by_ident(fleet_of(web), ident) != NULL)
        tell_nothing_more(web, "listing", ident);
}

static void on_received(void *context, const struct mqtt_received *received) {
    struct web *web = context;
    const char *topic = received->topic + strlen(web->config->mqtt.topic_prefix) + 1; // as subscribed
    const char *state = topic_after(topic, TOPIC_STATE), *log = topic_after(topic, TOPIC_LOG);
    const char *ident = topic_after(topic, TOPIC_REGISTRY TOPIC_DEVICES);
    web->received = received;
    if (ident != NULL) {
        take_listing(web, ident, received);
    } else if (state != NULL) {
        take_state(web, state, received);
    } else {
        const char *last = strrchr(topic, '/');
        bool presence =
            log != NULL && (strcmp(last, TOPIC_CONNECTED) == 0 || strcmp(last, TOPIC_DISCONNECTED) == 0);
        if (log == NULL || presence)
            listener_take(web->listener, received, clock_now());
        if (log != NULL)
            take_log(web, log, received);
    }
    web->received = NULL;
}

// --- the link ---

static void on_connected(void *context) {
    struct web *web = context;
    waiting_forget_all(web->waiting);
    listed_forget_all(web->listed);
}

// One topic after the other. What messages say as well is not listened to any longer than it takes to read what is
// retained.
static void ask_for_states(struct web *web) {
    if (web->states != NULL && strstr(web->states, TOPIC_TELEMETRY) != NULL)
        mqtt_link_unsubscribe(web->link, web->states);
    web->states = listener_states(web->listener);
    if (web->states != NULL && mqtt_link_subscribe(web->link, web->states))
        listener_states_asked(web->listener);
}

static void on_up(void *context) {
    struct web *web = context;
    web->states = NULL;
    ask_for_states(web);
    dossiers_connected(web->dossiers);
    web->gateways_changed = true; // those that are gone say nothing
    tell_broker(web, true);
}

static void on_down(void *context, enum mqtt_end end) {
    struct web *web = context;
    listener_lost(web->listener);
    gateways_lost(web->gateways);
    desk_lost(web->desk);
    tell_broker(web, false);
    http_wake(web->http);
}

static void on_published(void *context, int mid, enum mqtt_answer answer, const char *reason) {
    struct web *web = context;
    desk_published(web->desk, mid, answer, reason);
    http_wake(web->http);
}

static const struct mqtt_link_handlers link_handlers = {.purpose = "the page",
                                                        .stays = true,
                                                        .connected = on_connected,
                                                        .up = on_up,
                                                        .down = on_down,
                                                        .published = on_published,
                                                        .received = on_received};

static char *device_topic(const struct web *web, const char *topic) {
    return text_format("%s/" TOPIC_STATE TOPIC_DEVICES "%s", web->config->mqtt.topic_prefix, topic);
}

static void on_ask(void *context, const char *topic) {
    struct web *web = context;
    char *filter = device_topic(web, topic);
    mqtt_link_subscribe(web->link, filter);
    free(filter);
}

static void on_leave(void *context, const char *topic) {
    struct web *web = context;
    char *filter = device_topic(web, topic);
    if (mqtt_link_is_up(web->link))
        mqtt_link_unsubscribe(web->link, filter);
    free(filter);
}

// --- from time to time ---

static void keep_open(void *context, const char *ident) {
    struct web *web = context;
    const struct fleet_device *device = fleet_by_ident(fleet_of(web), ident);
    if (device != NULL && device->id >= 0)
        dossier_open(web->dossiers, device->id, clock_ticks());
}

static bool holds(void *context, uint64_t session) {
    struct web *web = context;
    return login_holds(web->login, session, clock_ticks());
}

static void tidy(struct web *web) {
    streams_each(web->streams, keep_open, web);
    dossiers_tidy(web->dossiers, clock_ticks());
}

// Who has logged out, or whose password has changed, sees no more.
static void end_sessions(struct web *web) {
    login_refresh(web->login);
    streams_end_sessions(web->streams, holds, web);
}

static void on_tick(uv_timer_t *timer) {
    struct web *web = timer->data;
    web->ticks++;
    if (mqtt_link_is_up(web->link) && !web->states_come)
        ask_for_states(web);
    web->states_come = false;
    tell_rows(web);
    if (web->gateways_changed)
        tell_gateways(web);
    if (web->captures_changed)
        tell_nothing_more(web, "captures", NULL);
    web->gateways_changed = web->captures_changed = false;
    if (web->ticks % TIDY_TICKS == 0)
        tidy(web);
    if (web->ticks % GUARD_TICKS == 0)
        end_sessions(web);
    if (web->ticks % BEAT_TICKS == 0)
        streams_beat(web->streams);
    else
        streams_wake(web->streams);
    http_wake(web->http);
}

// --- beginning and ending ---

static void subscribe(struct web *web, const char *topic, int options) {
    web->subscriptions[web->subscription_count++] = (struct mqtt_subscription){
        .filter = text_format("%s/%s", web->config->mqtt.topic_prefix, topic), .options = options};
}

static void subscribe_all(struct web *web) {
    const struct mqtt_subscription *first = listener_subscriptions(web->listener, &web->listener_count);
    char topic[TOPIC_MAX];
    memcpy(web->subscriptions, first, web->listener_count * sizeof *first);
    web->subscription_count = web->listener_count;
    for (size_t i = 0; i < sizeof retained / sizeof retained[0]; i++)
        subscribe(web, retained[i], 0);
    for (size_t i = 0; i < sizeof logs / sizeof logs[0]; i++) {
        snprintf(topic, sizeof topic, TOPIC_LOG "%s", logs[i]);
        subscribe(web, topic, MQTT_SUB_OPT_SEND_RETAIN_NEVER);
    }
}

static struct http_answer on_request(void *context, struct http_request *request) {
    struct web *web = context;
    web->asked = clock_ticks();
    return api_answer(web->api, request);
}

// NULL, and *reason, when it cannot listen there.
static struct http *listen_at(struct web *web, const char *address, char **reason) {
    const struct config *config = web->config;
    if (config->web.cert_file != NULL) {
        web->certificate = certificate_read(config->web.cert_file);
        web->key = certificate_read(config->web.key_file);
    }
    return http_new(web->loop,
                    &(struct http_setting){.address = address,
                                           .certificate = web->certificate,
                                           .key = web->key,
                                           .behind_proxy = config->web.behind_proxy,
                                           .handler = on_request,
                                           .refusal = api_refusal,
                                           .context = web},
                    reason);
}

static void make_knowledge(struct web *web) {
    const struct listener_handlers heard = {
        .context = web, .message = on_message, .presence = on_presence, .not_understood = on_odd};
    const struct dossier_handlers asking = {web, on_ask, on_leave};
    web->listener = listener_new(web->config, NULL, &heard);
    fleet_of(web)->gone = on_gone;
    fleet_of(web)->context = web;
    web->histories = histories_new((size_t)web->config->web.trail);
    web->log = journal_new(LOG_ENTRIES, LOG_BYTES);
    web->messages = journal_new(MESSAGES, MESSAGE_BYTES);
    web->chunks = journal_new(CHUNKS, CHUNK_BYTES);
    web->captured = captured_new();
    web->waiting = waiting_new();
    web->listed = listed_new();
    web->gateways = gateways_new();
    web->dossiers = dossiers_new(&asking);
    web->events = events_new((uint64_t)clock_now());
    web->streams = streams_new(web->events);
    web->login = login_new(web->config->web.users_file);
}

static void make_api(struct web *web) {
    const struct mqtt_carrier *carrier = mqtt_link_carrier(web->link);
    web->desk = desk_new(web->config->mqtt.topic_prefix, carrier);
    web->api = api_new(&(struct api_parts){.config = web->config,
                                           .fleet = fleet_of(web),
                                           .histories = web->histories,
                                           .log = web->log,
                                           .messages = web->messages,
                                           .chunks = web->chunks,
                                           .captured = web->captured,
                                           .waiting = web->waiting,
                                           .listed = web->listed,
                                           .gateways = web->gateways,
                                           .dossiers = web->dossiers,
                                           .events = web->events,
                                           .streams = web->streams,
                                           .login = web->login,
                                           .desk = web->desk,
                                           .carrier = carrier});
}

struct web *web_new(uv_loop_t *loop, const struct config *config, const char *listen, char **reason) {
    struct web *web = must_have(calloc(1, sizeof *web));
    web->config = config;
    web->loop = loop;
    web->http = listen_at(web, listen, reason);
    if (web->http == NULL) {
        free(web->certificate);
        free(web->key);
        free(web);
        return NULL;
    }
    make_knowledge(web);
    subscribe_all(web);
    web->link = mqtt_link_new(loop, config, web->subscriptions, web->subscription_count, false, NULL, NULL,
                              &link_handlers, web);
    make_api(web);
    uv_timer_init(loop, &web->tick);
    web->tick.data = web;
    log_info("the page is on %s://%s/", web->certificate != NULL ? "https" : "http", http_name(web->http));
    return web;
}

void web_start(struct web *web) {
    uv_timer_start(&web->tick, on_tick, TICK, TICK);
    mqtt_link_start(web->link);
}

void web_stop(struct web *web) {
    if (web->stopped)
        return;
    web->stopped = true;
    http_stop(web->http);
    mqtt_link_stop(web->link);
    uv_close((uv_handle_t *)&web->tick, NULL);
}

bool web_is_connecting(const struct web *web) {
    return mqtt_link_is_connecting(web->link);
}

void web_take_own(struct web *web, const char *instance, const char *metrics) {
    json_t *json = json_loads(metrics, 0, NULL);
    if (json == NULL)
        return;
    gateways_take_own(web->gateways, instance, json);
    web->gateways_changed = true;
}

void web_free(struct web *web) {
    mqtt_link_free(web->link);
    api_free(web->api);
    desk_free(web->desk);
    login_free(web->login);
    streams_free(web->streams);
    listener_free(web->listener);
    events_free(web->events);
    dossiers_free(web->dossiers);
    gateways_free(web->gateways);
    waiting_free(web->waiting);
    listed_free(web->listed);
    captured_free(web->captured);
    journal_free(web->chunks);
    journal_free(web->messages);
    journal_free(web->log);
    histories_free(web->histories);
    http_free(web->http);
    for (size_t i = web->listener_count; i < web->subscription_count; i++)
        free(web->subscriptions[i].filter);
    free(web->certificate);
    free(web->key);
    free(web);
}

// --- trackbus web ---

struct alone {
    uv_loop_t loop;
    uv_signal_t signals[2];
    struct web *web;
};

static void on_signal(uv_signal_t *handle, int number) {
    struct alone *alone = handle->data;
    web_stop(alone->web);
    for (size_t i = 0; i < 2; i++)
        uv_close((uv_handle_t *)&alone->signals[i], NULL);
    if (web_is_connecting(alone->web))
        uv_stop(&alone->loop); // on a thread, which cannot be interrupted
}

static void catch_signals(struct alone *alone) {
    static const int numbers[] = {SIGINT, SIGTERM};
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < 2; i++) {
        uv_signal_init(&alone->loop, &alone->signals[i]);
        alone->signals[i].data = alone;
        uv_signal_start(&alone->signals[i], on_signal, numbers[i]);
    }
}

// Several may serve, on several machines: each needs a client_id of its own.
static char *make_client_id(const struct config *config) {
    uint16_t chance = 0;
    if (getrandom(&chance, sizeof chance, 0) < 0)
        must_have(NULL);
    return text_format("%s-web-%d-%04x", config->mqtt.client_id, (int)getpid(), chance);
}

static int run(struct alone *alone, const struct config *config, const char *listen) {
    char *reason = NULL;
    uv_loop_init(&alone->loop);
    alone->web = web_new(&alone->loop, config, listen, &reason);
    if (alone->web == NULL) {
        log_error("%s", reason);
        free(reason);
        return 1;
    }
    catch_signals(alone);
    web_start(alone->web);
    uv_run(&alone->loop, UV_RUN_DEFAULT);
    if (web_is_connecting(alone->web))
        _exit(0);
    web_free(alone->web);
    uv_loop_close(&alone->loop);
    return 0;
}

int web_run(struct config *config, const char *listen) {
    static struct alone alone;
    struct config own = *config; // with a client_id of the page's own
    char *client_id = make_client_id(config);
    own.mqtt.client_id = client_id;
    log_setup(config->log_level, config->log_format, 0);
    int code = run(&alone, &own, listen != NULL ? listen : config->web.listen);
    free(client_id);
    return code;
}
