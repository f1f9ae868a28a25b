// The running gateway; see gateway.h. The only file that knows all parts: it makes them, tells each what the
// others report, and takes them apart.
#include "gateway/run/gateway.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/loop_lag.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/disk_reserve.h"
#include "gateway/broker/roll_call.h"
#include "gateway/broker/store.h"
#include "gateway/channels/captures.h"
#include "gateway/channels/channel.h"
#include "gateway/channels/held.h"
#include "gateway/channels/road.h"
#include "gateway/channels/session.h"
#include "gateway/commands/commands.h"
#include "gateway/config/notes.h"
#include "gateway/geolocation/locator.h"
#include "gateway/run/metrics.h"
#include "gateway/run/reload.h"
#include "gateway/run/subscriptions.h"
#include "gateway/state/rivals.h"
#include "gateway/state/state.h"

#define DRAIN_TIME          10000 // milliseconds to hand over what waits when stopping
#define HAND_OVER_INTERVAL  100   // milliseconds between looks at whether all is handed over
#define MINUTE              60000 // milliseconds
#define FORGETTING_INTERVAL 100   // milliseconds between looks at whether the silent ones have gone
#define THREAD_TIME         1000  // milliseconds to wait for an attempt to connect when stopping

struct gateway {
    uv_loop_t loop;
    struct loop_lag lag;
    struct config *config;
    struct registry *registry;
    struct store *store;
    struct outbox *outbox;
    struct subscriptions subscriptions;
    struct mqtt_link *link;
    struct bus *bus;
    struct roll_call *roll_call;
    struct rivals *rivals;
    struct gate *gate;
    struct captures *captures;
    struct locator *locator;
    struct held *held;
    struct session_table sessions;
    struct channel_observer observer;
    struct channel_parts parts;
    struct channel *channels; // config->channel_count of them
    struct state *state;
    struct commands *commands;
    struct metrics *metrics;
    const struct gateway_guest *guest; // or NULL
    struct reload *reload;
    uv_signal_t signals[4];
    uv_timer_t minute_timer; // looks after devices outside the registry
    uv_timer_t admit_timer;  // gives some of these a place, until all were looked at
    struct service service;
    uv_timer_t drain_timer;
    uint64_t drain_until; // by uv_now()
    struct outbox_waiter drained;
    int64_t started; // microseconds since 1970
    bool stopping, stopped;
    size_t left; // messages that the broker did not have when we stopped
};

// New devices outside the registry, from one address.
static unsigned strangers_per_minute(const struct config *config) {
    unsigned share = (unsigned)config->limits.unknown_devices / 10;
    return share > 10 ? share : 10;
}

// What devices outside the registry may say in a second, over UDP: so much more than from one address.
static unsigned records_in_all(const struct config *config) {
    return (unsigned)config->limits.datagrams_per_second * 10;
}

// --- what the outbox reports ---

static size_t resume_channels(void *context, size_t count) {
    struct gateway *gateway = context;
    size_t resumed = 0;
    for (size_t i = 0; i < gateway->config->channel_count; i++)
        resumed += channel_resume(&gateway->channels[i], count);
    return resumed;
}

static void on_intake(void *context, enum outbox_intake intake) {
    struct gateway *gateway = context;
    if (gate_set_intake(gateway->gate, intake))
        state_publish_instance(gateway->state, true);
}

static void on_set_aside_written(void *context, bool ok) {
    struct gateway *gateway = context;
    if (!ok) // the store tries again
        store_when_written(gateway->store, on_set_aside_written, gateway);
    else if (!gateway->stopped)
        state_publish_instance(gateway->state, true);
}

// The instance's state has the count, which is known once the message is on disk.
static void on_set_aside(void *context) {
    struct gateway *gateway = context;
    store_when_written(gateway->store, on_set_aside_written, gateway);
}

// --- what the link reports ---

static void on_link_connected(void *context) {
    struct gateway *gateway = context;
    roll_call_begin(gateway->roll_call);
    rivals_connected(gateway->rivals);
    commands_link_connected(gateway->commands, mqtt_link_is_resumed(gateway->link));
    state_link_connected(gateway->state);
}

static void tell_whether_commands_come(struct gateway *gateway) {
    const char *filter = gateway->subscriptions.commands;
    if (filter != NULL)
        state_commands_come(gateway->state, mqtt_link_has(gateway->link, filter));
}

static void on_link_up(void *context) {
    struct gateway *gateway = context;
    tell_whether_commands_come(gateway);
    state_publish_instance(gateway->state, true);
    roll_call_ask(gateway->roll_call);
    outbox_link_up(gateway->outbox);
    state_link_up(gateway->state);
    metrics_link(gateway->metrics, true);
}

static void on_link_down(void *context, enum mqtt_end end) {
    struct gateway *gateway = context;
    state_link_down(gateway->state); // it looks at what the broker has taken
    outbox_link_down(gateway->outbox, end);
    roll_call_lost(gateway->roll_call);
    metrics_link(gateway->metrics, false);
}

// The broker has answered a subscription that it had refused for now.
static void on_granted(void *context, const struct mqtt_subscription *subscription, bool granted) {
    struct gateway *gateway = context;
    if (!mqtt_link_is_up(gateway->link) || subscription->filter != gateway->subscriptions.commands)
        return;
    tell_whether_commands_come(gateway);
    state_publish_instance(gateway->state, true);
}

static void on_published(void *context, int mid, enum mqtt_answer answer, const char *reason) {
    struct gateway *gateway = context;
    outbox_published(gateway->outbox, mid, answer, reason);
}

static void take_state(struct gateway *gateway, const char *topic, const struct mqtt_received *received) {
    const char *instance = topic_after(topic, TOPIC_INSTANCES);
    if (instance != NULL)
        rivals_received(gateway->rivals, instance, received);
    state_received(gateway->state, topic, received);
    roll_call_received(gateway->roll_call, topic, received);
    commands_received(gateway->commands, topic, received);
}

static void take_registry(struct gateway *gateway, const char *ident, const struct mqtt_received *received) {
    state_received_registry(gateway->state, ident, received);
    roll_call_received(gateway->roll_call, ident, received);
}

static void on_received(void *context, const struct mqtt_received *received) {
    struct gateway *gateway = context;
    const char *command = bus_topic_after(gateway->bus, received->topic, TOPIC_COMMAND);
    const char *state = bus_topic_after(gateway->bus, received->topic, TOPIC_STATE);
    const char *device = bus_topic_after(gateway->bus, received->topic, TOPIC_LOG TOPIC_DEVICES);
    const char *request = bus_topic_after(gateway->bus, received->topic, TOPIC_REQUEST);
    const char *listed = bus_topic_after(gateway->bus, received->topic, TOPIC_REGISTRY TOPIC_DEVICES);
    // Also while stopping: the broker has been told that we have it, and will not say it again.
    if (command != NULL)
        commands_take_in(gateway->commands, received);
    else if (state != NULL)
        take_state(gateway, state, received);
    else if (device != NULL)
        session_heard(&gateway->parts, strtoll(device, NULL, 10), received->payload, received->length);
    else if (listed != NULL)
        take_registry(gateway, listed, received);
    else if (request != NULL)
        captures_request(gateway->captures, received->payload, received->length);
    else
        state_heard_home_assistant(gateway->state, received);
}

static void on_link_ready(void *context) {
    struct gateway *gateway = context;
    outbox_link_ready(gateway->outbox);
    state_link_ready(gateway->state);
}

static bool subscribe(void *context, const char *filter) {
    return mqtt_link_subscribe(context, filter);
}

static void unsubscribe(void *context, const char *filter) {
    mqtt_link_unsubscribe(context, filter);
}

static void hear_others(void *context, const char *filter) {
    mqtt_link_listen(context, filter);
}

static void hear_no_more(void *context, const char *filter) {
    mqtt_link_drop(context, filter);
}

static void hear_no_more_of_earlier(void *context, const char *filter) {
    mqtt_link_drop_inherited(context, filter);
}

static bool echoes(void *context) {
    return mqtt_link_version(context) != 5;
}

static const struct mqtt_link_handlers link_handlers = {.ready = on_link_ready,
                                                        .connected = on_link_connected,
                                                        .up = on_link_up,
                                                        .down = on_link_down,
                                                        .published = on_published,
                                                        .received = on_received,
                                                        .granted = on_granted};

static void on_answered(void *context) {
    struct gateway *gateway = context;
    state_roll_call_answered(gateway->state);
}

static void on_settled(void *context) {
    struct gateway *gateway = context;
    rivals_settled(gateway->rivals);
    state_roll_call_settled(gateway->state);
    commands_roll_call_settled(gateway->commands);
}

static void on_unheard(void *context) {
    struct gateway *gateway = context;
    mqtt_link_unheard(gateway->link, gateway->subscriptions.own);
}

static void on_same_id(void *context) {
    struct gateway *gateway = context;
    mqtt_link_rival(gateway->link);
}

// --- what the channels report ---

static void on_arrived(void *context, const struct session *session, const struct config_channel *channel) {
    struct gateway *gateway = context;
    state_arrived(gateway->state, session, channel);
}

static void on_left(void *context, const struct session *session) {
    struct gateway *gateway = context;
    state_left(gateway->state, session);
}

static void on_reported(void *context, const struct session *session, const struct channel_report *report) {
    struct gateway *gateway = context;
    state_reported(gateway->state, session, report);
}

static void on_talks(void *context, const struct session *session) {
    struct gateway *gateway = context;
    int64_t device_id = session->device.known ? session->device.id : -1;
    commands_device_talks(gateway->commands, device_id, session_any_peer(session)->channel->id,
                          session->ident);
}

static void on_device_answered(void *context, const struct road *from, const struct codec_answer *answer) {
    struct gateway *gateway = context;
    commands_answered(gateway->commands, from, answer);
}

static void on_changed(void *context, const struct config_channel *channel) {
    struct gateway *gateway = context;
    state_channel_changed(gateway->state, channel);
}

static bool find_road(void *context, int64_t device_id, const char *ident, struct road *road) {
    const struct gateway *gateway = context;
    return road_find(&gateway->parts, device_id, ident, road);
}

static bool whois(void *context, int64_t device_id, const char **ident, const struct codec **codec) {
    const struct gateway *gateway = context;
    const struct session *session = session_by_device_id(&gateway->sessions, device_id);
    if (session == NULL)
        return false;
    const struct peer *peer = session_any_peer(session);
    *ident = session->ident;
    *codec = peer != NULL ? peer->channel->codec : NULL;
    return true;
}

static bool knows(void *context, int64_t device_id) {
    const struct gateway *gateway = context;
    return state_knows(gateway->state, device_id);
}

static void on_device_gone(void *context, int64_t device_id) {
    struct gateway *gateway = context;
    commands_device_gone(gateway->commands, device_id);
}

static bool has_others(void *context) {
    const struct gateway *gateway = context;
    return state_has_others(gateway->state);
}

// --- stopping ---

static void on_thread_timeout(uv_timer_t *timer) {
    uv_stop(timer->loop);
}

static void stop_signals(struct gateway *gateway) {
    for (size_t i = 0; i < sizeof gateway->signals / sizeof gateway->signals[0]; i++) {
        int number = gateway->signals[i].signum;
        uv_close((uv_handle_t *)&gateway->signals[i], NULL);
        signal(number, SIG_IGN); // it would end the process before the store is closed
    }
}

static void stop_parts(struct gateway *gateway) {
    uv_close((uv_handle_t *)&gateway->minute_timer, NULL);
    uv_close((uv_handle_t *)&gateway->admit_timer, NULL);
    state_publish_instance(gateway->state, false); // when the link is down, the Last Will says it
    reload_stop(gateway->reload);
    loop_lag_end(&gateway->lag); // the link waits for the broker to close the connection
    mqtt_link_stop(gateway->link);
    outbox_stop(gateway->outbox);
    gate_stop(gateway->gate);
    metrics_stop(gateway->metrics);
    captures_stop(gateway->captures);
    held_stop(gateway->held);
    locator_stop(gateway->locator);
    roll_call_stop(gateway->roll_call);
    state_stop(gateway->state);
    commands_stop(gateway->commands);
    store_stop(gateway->store);
    service_end(&gateway->service);
    stop_signals(gateway);
}

static void stop_now(struct gateway *gateway) {
    if (gateway->stopped)
        return;
    gateway->stopped = true;
    gateway->left = outbox_count(gateway->outbox);
    stop_parts(gateway);
    // All that can still keep the loop alive is a thread that connects.
    uv_timer_start(&gateway->drain_timer, on_thread_timeout, THREAD_TIME, 0);
    uv_unref((uv_handle_t *)&gateway->drain_timer);
}

static void on_drain_timeout(uv_timer_t *timer) {
    stop_now(timer->data);
}

static void on_drained(struct outbox_waiter *waiter, bool safe);

// Calls on_drained() when the outbox is empty, and stops when that takes too long.
static void wait_until_drained(struct gateway *gateway) {
    uint64_t now = uv_now(&gateway->loop), until = gateway->drain_until;
    uv_timer_start(&gateway->drain_timer, on_drain_timeout, until > now ? until - now : 0, 0);
    gateway->drained.first = gateway->drained.last = UINT64_MAX; // when nothing is left at all
    gateway->drained.done = on_drained;
    outbox_when_safe(gateway->outbox, &gateway->drained);
}

// What devices have left behind may be more than the outbox takes at once.
static void on_look_again(uv_timer_t *timer) {
    struct gateway *gateway = timer->data;
    state_publish(gateway->state);
    if (outbox_count(gateway->outbox) > 0)
        wait_until_drained(gateway);
    else
        stop_now(gateway);
}

// Nothing is done from here: the outbox may be in the middle of publishing, and the link has just called.
static void on_drained(struct outbox_waiter *waiter, bool safe) {
    struct gateway *gateway = (struct gateway *)((char *)waiter - offsetof(struct gateway, drained));
    uv_timer_start(&gateway->drain_timer, on_look_again, 0, 0);
}

static void stop(struct gateway *gateway) {
    if (gateway->stopping) {
        stop_now(gateway); // told twice: without waiting
        return;
    }
    gateway->stopping = true;
    service_stopping(&gateway->service);
    log_info("stopping: no more connections, %zu message%s to hand over", outbox_count(gateway->outbox),
             TEXT_S(outbox_count(gateway->outbox)));
    for (size_t i = 0; i < gateway->config->channel_count; i++) {
        channel_close(&gateway->channels[i]);
        channel_log_counters(&gateway->channels[i]);
    }
    captures_end(gateway->captures);
    gateway->drain_until = uv_now(&gateway->loop) + (mqtt_link_is_up(gateway->link) ? DRAIN_TIME : 0);
    state_finish(gateway->state);
    wait_until_drained(gateway);
}

// --- handing over what an earlier run has left ---

static void on_hand_over_timer(uv_timer_t *timer) {
    struct gateway *gateway = timer->data;
    if (!gateway->stopping && state_is_answered(gateway->state) && roll_call_is_done(gateway->roll_call) &&
        state_publish(gateway->state) && outbox_count(gateway->outbox) == 0)
        stop(gateway);
}

static void remove_store(const char *path) {
    disk_reserve_remove(path);
    if (unlink(path) == 0)
        log_info("store %s removed: the broker has everything that waited in it", path);
    else
        log_error("the store %s cannot be removed: %s", path, strerror(errno));
}

// --- devices outside the registry ---

static void admit_some(uv_timer_t *timer) {
    struct gateway *gateway = timer->data;
    if (gateway->stopping)
        return;
    if (state_is_forgetting(gateway->state))
        uv_timer_start(timer, admit_some, FORGETTING_INTERVAL, 0);
    else if (!sessions_admit_some(&gateway->parts))
        uv_timer_start(timer, admit_some, 1, 0);
}

// Those that are silent make room for others, who get it when all of the silent ones have gone.
static void on_minute(uv_timer_t *timer) {
    struct gateway *gateway = timer->data;
    if (gateway->stopping)
        return;
    state_forget_silent(gateway->state);
    if (gateway->sessions.admits == NULL) // otherwise some are still to be looked at
        sessions_admit_begin(&gateway->sessions);
    admit_some(&gateway->admit_timer);
}

// Each minute, or more often when that is how long a device may be silent.
static void start_minutes(struct gateway *gateway) {
    uint64_t interval = (uint64_t)gateway->config->limits.forget_unknown_after * 1000 / 2;
    interval = interval < MINUTE ? interval : MINUTE;
    uv_timer_start(&gateway->minute_timer, on_minute, interval, interval);
}

// --- signals ---

// Those parts of the configuration that somebody has a copy of.
static void pass_on_settings(struct gateway *gateway) {
    const struct config *config = gateway->config;
    log_setup(config->log_level, config->log_format, config->worker);
    gate_allow_connections(gateway->gate, config->limits.connections);
    gateway->parts.datagram_limiter.per_second = (unsigned)config->limits.datagrams_per_second;
    gateway->parts.records_limiter.per_second = records_in_all(config);
    locator_reload(gateway->locator);
    registry_set_unknown(gateway->registry, config->unknown_devices, (size_t)config->limits.unknown_devices);
    gateway->parts.stranger_limiter.per_second = strangers_per_minute(config);
    for (size_t i = 0; i < config->channel_count; i++)
        channel_set_timeouts(&gateway->channels[i]);
    start_minutes(gateway);
}

static void on_taken(void *context, const char *restart, size_t devices) {
    pass_on_settings(context);
    if (*restart != '\0')
        log_warning("needs a restart: %s", restart);
    log_info("the configuration is read again: the registry has %zu device%s", devices, TEXT_S(devices));
}

static void log_counters(struct gateway *gateway) {
    for (size_t i = 0; i < gateway->config->channel_count; i++)
        channel_log_counters(&gateway->channels[i]);
    log_info("outbox: %zu message%s", outbox_count(gateway->outbox), TEXT_S(outbox_count(gateway->outbox)));
    log_info("the longest turn of the last minute took %u ms", loop_lag_longest(&gateway->lag));
}

static void on_signal(uv_signal_t *signal, int number) {
    struct gateway *gateway = signal->data;
    if (number == SIGUSR1)
        log_counters(gateway);
    else if (number == SIGHUP)
        reload_begin(gateway->reload);
    else if (number != SIGTERM || !gateway->stopping || gateway->config->worker == 0)
        stop(gateway); // a worker may hear SIGTERM twice, from its supervisor and from a service manager
}

static void catch_signals(struct gateway *gateway) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGUSR1, SIGHUP};
    sigset_t heard;
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&heard);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        uv_signal_init(&gateway->loop, &gateway->signals[i]);
        gateway->signals[i].data = gateway;
        uv_signal_start(&gateway->signals[i], on_signal, numbers[i]);
        sigaddset(&heard, numbers[i]);
    }
    sigprocmask(SIG_UNBLOCK, &heard, NULL); // a worker begins with them blocked
}

// --- making the parts ---

// False when there is none, which is logged.
static bool open_store(struct gateway *gateway) {
    char *reason;
    gateway->store = store_open(&gateway->loop, gateway->config->store_path, &reason);
    if (gateway->store == NULL)
        log_error("%s", reason);
    free(reason);
    return gateway->store != NULL;
}

// The store must be open.
static void make_broker(struct gateway *gateway) {
    const struct config *config = gateway->config;
    const struct roll_call_handlers handlers = {
        .context = gateway, .answered = on_answered, .settled = on_settled, .unheard = on_unheard};
    char will_topic[TOPIC_MAX];
    gateway->outbox =
        outbox_new(&gateway->loop, gateway->store, config->mqtt.topic_prefix, (unsigned)config->mqtt.inflight,
                   config->store_max_bytes, &(struct outbox_handlers){gateway, on_intake, on_set_aside});
    subscriptions_fill(&gateway->subscriptions, config);
    snprintf(will_topic, sizeof will_topic, "%s/" TOPIC_STATE TOPIC_INSTANCES "%s", config->mqtt.topic_prefix,
             config->mqtt.client_id);
    gateway->link =
        mqtt_link_new(&gateway->loop, config, gateway->subscriptions.list, gateway->subscriptions.count,
                      config->commands.intake ? MQTT_SESSION_LASTING : MQTT_SESSION_NONE, will_topic,
                      state_last_will(), &link_handlers, gateway);
    outbox_set_carrier(gateway->outbox, mqtt_link_carrier(gateway->link));
    gateway->bus = bus_new(config->mqtt.topic_prefix, config->mqtt.client_id, gateway->outbox,
                           mqtt_link_carrier(gateway->link));
    gateway->roll_call = roll_call_new(&gateway->loop, gateway->bus, &handlers);
    gateway->rivals = rivals_new(config, gateway->bus, gateway->started, on_same_id, gateway);
}

static void make_channels(struct gateway *gateway) {
    const struct config *config = gateway->config;
    struct channel_parts *parts = &gateway->parts; // all zero, and large: it has the limiters
    gateway->gate = gate_new(&gateway->loop, resume_channels, gateway);
    gateway->captures = captures_new(&gateway->loop, gateway->bus);
    gateway->observer = (struct channel_observer){.context = gateway,
                                                  .arrived = on_arrived,
                                                  .left = on_left,
                                                  .reported = on_reported,
                                                  .talks = on_talks,
                                                  .answered = on_device_answered,
                                                  .changed = on_changed};
    parts->loop = &gateway->loop;
    parts->config = config;
    gateway->locator = locator_new(&gateway->loop, config, gateway->store);
    gateway->held = held_new(parts, gateway->locator);
    parts->registry = gateway->registry;
    parts->outbox = gateway->outbox;
    parts->bus = gateway->bus;
    parts->gate = gateway->gate;
    parts->captures = gateway->captures;
    parts->held = gateway->held;
    parts->sessions = &gateway->sessions;
    parts->observer = &gateway->observer;
    parts->log_limiter.per_second = LOG_LINES;
    parts->datagram_limiter.per_second = (unsigned)config->limits.datagrams_per_second;
    parts->records_limiter.per_second = records_in_all(config);
    parts->stranger_limiter.per_second = strangers_per_minute(config);
    gateway->channels = must_have(calloc(config->channel_count + 1, sizeof *gateway->channels));
    parts->places = must_have(calloc(config->channel_count + 1, sizeof *parts->places));
}

static void make_state(struct gateway *gateway) {
    gateway->state =
        state_new(&(struct state_parts){.loop = &gateway->loop,
                                        .config = gateway->config,
                                        .registry = gateway->registry,
                                        .bus = gateway->bus,
                                        .outbox = gateway->outbox,
                                        .asker = {gateway->link, subscribe, unsubscribe, hear_others,
                                                  hear_no_more, hear_no_more_of_earlier, echoes},
                                        .sessions = &gateway->sessions,
                                        .channels = gateway->channels,
                                        .channel_count = gateway->config->channel_count,
                                        .started = gateway->started,
                                        .store = gateway->store,
                                        .device_gone = on_device_gone,
                                        .context = gateway});
}

static void make_commands(struct gateway *gateway) {
    gateway->commands =
        commands_new(&(struct commands_parts){.loop = &gateway->loop,
                                              .config = gateway->config,
                                              .registry = gateway->registry,
                                              .store = gateway->store,
                                              .outbox = gateway->outbox,
                                              .bus = gateway->bus,
                                              .roll_call = gateway->roll_call,
                                              .roads = {gateway, find_road, whois, knows, has_others}});
}

static void tell_guest(void *context, const char *text) {
    struct gateway *gateway = context;
    if (gateway->guest != NULL)
        gateway->guest->told(gateway->guest->context, gateway->config->mqtt.client_id, text);
}

static void make_metrics(struct gateway *gateway) {
    gateway->metrics = metrics_new(&(struct metrics_parts){.loop = &gateway->loop,
                                                           .lag = &gateway->lag,
                                                           .config = gateway->config,
                                                           .bus = gateway->bus,
                                                           .outbox = gateway->outbox,
                                                           .store = gateway->store,
                                                           .channels = gateway->channels,
                                                           .sessions = &gateway->sessions,
                                                           .state = gateway->state,
                                                           .commands = gateway->commands,
                                                           .locator = gateway->locator,
                                                           .held = gateway->held,
                                                           .started = gateway->started,
                                                           .told = tell_guest,
                                                           .context = gateway});
}

static void make_parts(struct gateway *gateway) {
    make_broker(gateway);
    make_channels(gateway);
    make_state(gateway);
    make_commands(gateway);
    make_metrics(gateway);
    gateway->reload = reload_new(&(struct reload_parts){.loop = &gateway->loop,
                                                        .config = gateway->config,
                                                        .registry = gateway->registry,
                                                        .state = gateway->state,
                                                        .sessions = &gateway->sessions,
                                                        .taken = on_taken,
                                                        .context = gateway});
    commands_start(gateway->commands);
}

// Returns how many messages and commands are lost with it. Only now is it known what is on disk.
static size_t close_store(struct gateway *gateway) {
    size_t kept, lost = store_close_counting(gateway->store, &kept);
    size_t left = gateway->left < kept ? gateway->left : kept; // damage may have cost some
    if (lost == 0 && left > 0)
        log_warning("%zu messages that the broker has not taken stay on disk for the next start", left);
    log_info("stopped");
    return lost;
}

// The same.
static size_t free_parts(struct gateway *gateway) {
    reload_free(gateway->reload);
    state_free(gateway->state);
    mqtt_link_free(gateway->link);
    outbox_free(gateway->outbox);
    registry_free(gateway->registry);
    free(gateway->channels);
    free(gateway->parts.places);
    commands_free(gateway->commands);
    metrics_free(gateway->metrics);
    roll_call_free(gateway->roll_call);
    rivals_free(gateway->rivals);
    bus_free(gateway->bus);
    gate_free(gateway->gate);
    captures_free(gateway->captures);
    held_free(gateway->held);
    locator_free(gateway->locator);
    size_t lost = close_store(gateway);
    subscriptions_free(&gateway->subscriptions);
    uv_loop_close(&gateway->loop);
    return lost;
}

// --- running ---

static void log_note(void *context, const char *path, const char *problem) {
    log_warning("%s: %s", path, problem);
}

// One of several workers serves the page, and nobody who only hands over what an earlier run has left.
static bool start_guest(struct gateway *gateway, const struct gateway_guest *guest) {
    const struct config *config = gateway->config;
    if (guest == NULL || config->worker > 1 || config->hand_over)
        return true;
    if (!guest->start(guest->context, config))
        return false;
    gateway->guest = guest;
    return true;
}

// Opens the channels and begins to connect to the broker. Returns 1, and stops, when there is nothing to do.
static int begin(struct gateway *gateway, const struct gateway_guest *guest) {
    const struct config *config = gateway->config;
    size_t listening = 0;
    if (!start_guest(gateway, guest)) {
        stop(gateway);
        return 1;
    }
    for (size_t i = 0; i < config->channel_count; i++)
        listening += channel_open(&gateway->channels[i], &gateway->parts, &config->channels[i]);
    if (listening == 0 && !config->hand_over) {
        log_error("no tracker can connect: no channel could be opened");
        stop(gateway);
        return 1;
    }
    mqtt_link_start(gateway->link);
    metrics_start(gateway->metrics);
    store_begin_check(gateway->store);
    if (config->hand_over)
        uv_timer_start(&gateway->drain_timer, on_hand_over_timer, HAND_OVER_INTERVAL, HAND_OVER_INTERVAL);
    return 0;
}

// A thread that connects may wait for the network for minutes, and nothing can call it back.
static void end_without_the_thread(struct gateway *gateway, int code) {
    while (store_is_writing(gateway->store))
        uv_run(&gateway->loop, UV_RUN_ONCE);
    _exit(close_store(gateway) > 0 ? 1 : code);
}

static void take_config(struct gateway *gateway, struct config *config) {
    gateway->started = clock_now();
    gateway->config = config;
    gateway->registry =
        registry_new(config->devices, config->unknown_devices, (size_t)config->limits.unknown_devices);
    config->devices = NULL; // the registry has them
}

// False when a thread of the guest goes on.
static bool stop_guest(const struct gateway *gateway) {
    return gateway->guest == NULL || gateway->guest->stop(gateway->guest->context);
}

int gateway_run(struct config *config, struct sign *sign, const struct gateway_guest *guest) {
    static struct gateway gateway;
    log_setup(config->log_level, config->log_format, config->worker);
    config_notes(config, log_note, NULL); // the registry then takes the devices
    take_config(&gateway, config);
    uv_loop_init(&gateway.loop);
    uv_timer_init(&gateway.loop, &gateway.minute_timer);
    uv_timer_init(&gateway.loop, &gateway.admit_timer);
    gateway.minute_timer.data = gateway.admit_timer.data = &gateway;
    loop_lag_begin(&gateway.lag, &gateway.loop);
    uv_timer_init(&gateway.loop, &gateway.drain_timer);
    gateway.drain_timer.data = &gateway;
    if (!open_store(&gateway))
        return 1;
    make_parts(&gateway);
    catch_signals(&gateway);
    gate_allow_connections(gateway.gate, config->limits.connections);
    start_minutes(&gateway);
    int code = begin(&gateway, guest);
    if (code == 0)
        service_ready(&gateway.service, &gateway.loop, sign);
    uv_run(&gateway.loop, UV_RUN_DEFAULT);
    bool alone = stop_guest(&gateway);
    if (!alone || mqtt_link_is_connecting(gateway.link) || state_is_connecting(gateway.state) ||
        locator_is_resolving(gateway.locator))
        end_without_the_thread(&gateway, code);
    uv_close((uv_handle_t *)&gateway.drain_timer, NULL);
    uv_run(&gateway.loop, UV_RUN_DEFAULT);
    if (free_parts(&gateway) > 0)
        code = 1;
    if (config->hand_over && gateway.left == 0)
        remove_store(config->store_path);
    return code;
}
