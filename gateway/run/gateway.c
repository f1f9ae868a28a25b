// The running gateway: puts the parts together, and takes them apart when it is told to stop.
#include "gateway/run/gateway.h"

#include <errno.h>
#include <mqtt_protocol.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/commands/intake.h"
#include "gateway/state/home_assistant.h"
#include "gateway/state/reader.h"

#define DRAIN_TIME         10000 // milliseconds to hand over what waits when stopping
#define OTHER_DESCRIPTORS  128   // that the gateway may need beside those of connections
#define RESUMED_AT_ONCE    4     // connections of a channel
#define TURN_BYTES         32768 // that are read from connections in a turn of the loop
#define SUBSCRIPTIONS_MAX  10
#define HAND_OVER_INTERVAL 100  // milliseconds between looks at whether all is handed over
#define THREAD_TIME        1000 // milliseconds to wait for an attempt to connect when stopping

struct running {
    struct gateway gateway;
    struct mqtt_subscription subscriptions[SUBSCRIPTIONS_MAX];
    size_t subscription_count;
    uv_signal_t signals[4];
    uv_timer_t drain_timer;
    uint64_t drain_until; // by uv_now()
    struct outbox_waiter drained;
    bool stopping, stopped;
    bool nothing_left; // the broker had everything when we stopped
};

int64_t gateway_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

uint64_t gateway_publish_text(struct gateway *gateway, const char *topic, const char *text, size_t length,
                              enum mqtt_retain retain) {
    if (outbox_is_full(gateway->outbox))
        return 0;
    return outbox_put(gateway->outbox,
                      &(struct mqtt_publish){
                          .topic = topic, .payload = text, .length = length, .qos = 1, .retain = retain});
}

uint64_t gateway_publish(struct gateway *gateway, const json_t *payload, enum mqtt_retain retain,
                         const char *format, ...) {
    if (outbox_is_full(gateway->outbox))
        return 0;
    char topic[1024];
    int prefix = snprintf(topic, sizeof topic, "%s/", gateway->config->mqtt.topic_prefix);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(topic + prefix, sizeof topic - (size_t)prefix, format, arguments);
    va_end(arguments);
    char *text = NULL;
    if (payload != NULL)
        text = must_have(
            json_dumps(payload, JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(16)));
    uint64_t number = gateway_publish_text(gateway, topic, text, text != NULL ? strlen(text) : 0, retain);
    free(text);
    return number;
}

// A broker waits while the devices are read: what is read at once is bounded.
static void on_turn(uv_prepare_t *turn) {
    struct gateway *gateway = turn->data;
    gateway->turn_left = TURN_BYTES;
}

bool gateway_reads(const struct gateway *gateway) {
    return !gateway->holding && gateway->turn_left > 0;
}

// A few in each turn of the loop: what they say may be as much as is taken now, and thousands would only be
// held again.
static void on_resume(uv_idle_t *resumer) {
    struct gateway *gateway = resumer->data;
    size_t resumed = 0;
    for (size_t i = 0; i < gateway->config->channel_count; i++)
        resumed += channel_resume(&gateway->channels[i], RESUMED_AT_ONCE);
    if (resumed == 0)
        uv_idle_stop(resumer);
}

void gateway_resume_soon(struct gateway *gateway) {
    if (!gateway->holding && !uv_is_closing((uv_handle_t *)&gateway->resumer))
        uv_idle_start(&gateway->resumer, on_resume);
}

// While the outbox is full nothing is read from devices: they keep what they have to say. While it is busy
// only datagrams are, which nobody keeps.
static void on_intake(void *context, enum outbox_intake intake) {
    struct running *running = context;
    struct gateway *gateway = &running->gateway;
    bool full = intake == OUTBOX_FULL, changed = full != gateway->paused;
    gateway->paused = full;
    gateway->holding = intake != OUTBOX_TAKES;
    if (changed && !full)
        log_warning("devices are read again; %llu datagrams were turned away",
                    (unsigned long long)gateway->turned_away);
    if (changed)
        gateway->turned_away = 0;
    if (gateway->holding)
        uv_idle_stop(&gateway->resumer);
    else
        gateway_resume_soon(gateway);
    if (changed)
        state_publish_instance(gateway, true);
}

// --- what the link reports ---

static void on_link_connected(void *context) {
    struct running *running = context;
    command_sync_begin(&running->gateway);
    state_link_connected(&running->gateway);
}

static void on_link_up(void *context) {
    struct running *running = context;
    state_publish_instance(&running->gateway, true);
    command_sync_ask(&running->gateway);
    outbox_link_up(running->gateway.outbox);
    state_link_up(&running->gateway);
}

static void on_link_down(void *context) {
    struct running *running = context;
    outbox_link_down(running->gateway.outbox);
    command_sync_lost(&running->gateway);
    state_link_down(&running->gateway);
}

static void on_published(void *context, int mid, enum mqtt_answer answer, const char *reason) {
    struct running *running = context;
    outbox_published(running->gateway.outbox, mid, answer, reason);
}

// The part of a topic behind {prefix}/{kind}, or NULL when it is another topic.
static const char *topic_after(const struct gateway *gateway, const char *topic, const char *kind) {
    size_t prefix = strlen(gateway->config->mqtt.topic_prefix), length = strlen(kind);
    bool same = strncmp(topic, gateway->config->mqtt.topic_prefix, prefix) == 0 && topic[prefix] == '/' &&
                strncmp(topic + prefix + 1, kind, length) == 0;
    return same ? topic + prefix + 1 + length : NULL;
}

static void take_state(struct gateway *gateway, const char *topic, const struct mqtt_received *received) {
    state_received(gateway, topic, received);
    command_sync_received(gateway, topic, received);
}

static void on_received(void *context, const struct mqtt_received *received) {
    struct running *running = context;
    struct gateway *gateway = &running->gateway;
    const char *command = topic_after(gateway, received->topic, "command/gw/");
    const char *state = topic_after(gateway, received->topic, "state/gw/");
    const char *device = topic_after(gateway, received->topic, "log/gw/devices/");
    // Also while stopping: the broker has been told that we have it, and will not say it again.
    if (command != NULL)
        command_intake(gateway, command, received);
    else if (state != NULL)
        take_state(gateway, state, received);
    else if (device != NULL)
        session_heard(gateway, strtoll(device, NULL, 10), received->payload, received->length);
    else
        home_assistant_heard(gateway, received);
}

static void on_link_ready(void *context) {
    struct running *running = context;
    outbox_link_ready(running->gateway.outbox);
}

static const struct mqtt_link_handlers link_handlers = {.ready = on_link_ready,
                                                        .connected = on_link_connected,
                                                        .up = on_link_up,
                                                        .down = on_link_down,
                                                        .published = on_published,
                                                        .received = on_received};

__attribute__((format(printf, 4, 5))) static void subscribe(struct running *running, int qos, int options,
                                                            const char *format, ...) {
    struct mqtt_subscription *subscription = &running->subscriptions[running->subscription_count++];
    char *filter;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&filter, format, arguments) < 0)
        must_have(NULL);
    va_end(arguments);
    subscription->filter = filter;
    subscription->qos = qos;
    subscription->options = options;
}

static void make_link(struct running *running) {
    struct gateway *gateway = &running->gateway;
    const struct config *config = gateway->config;
    char will_topic[300];
    const char *prefix = config->mqtt.topic_prefix;
    // Our own first, because a broker with a full queue drops what comes later. A command that somebody
    // retained by mistake would come again at every connection: no retained ones. The entries of the queue
    // are wanted with those that we wrote ourselves, which tells that the broker has them. Where devices and
    // what other instances were while we were away does not matter: QoS 0.
    subscribe(running, 1, 0, "%s/state/gw/instances/%s/#", prefix, config->mqtt.client_id);
    if (config->commands.intake)
        subscribe(running, 1, MQTT_SUB_OPT_SEND_RETAIN_NEVER, "%s/command/gw/#", prefix);
    subscribe(running, 1, 0, "%s/state/gw/devices/+/commands-queue/+", prefix);
    subscribe(running, 1, 0, "%s/state/gw/channels/+/+/commands-queue/+", prefix);
    subscribe(running, 0, 0, "%s/state/gw/instances/+", prefix);
    if (config->commands.intake)
        subscribe(running, 0, 0, "%s/state/gw/instances/+/channels/+", prefix);
    subscribe(running, 0, MQTT_SUB_OPT_NO_LOCAL | MQTT_SUB_OPT_SEND_RETAIN_NEVER,
              "%s/state/gw/devices/+/connected", prefix);
    subscribe(running, 0, MQTT_SUB_OPT_SEND_RETAIN_NEVER, "%s/log/gw/devices/+/connected", prefix);
    if (config->home_assistant.enabled)
        subscribe(running, 0, MQTT_SUB_OPT_SEND_RETAIN_NEVER, "%s/status", config->home_assistant.prefix);
    snprintf(will_topic, sizeof will_topic, "%s/state/gw/instances/%s", config->mqtt.topic_prefix,
             config->mqtt.client_id);
    gateway->link = mqtt_link_new(&gateway->loop, config, running->subscriptions, running->subscription_count,
                                  config->commands.intake, will_topic, "{\"state\":\"offline\"}",
                                  &link_handlers, running);
    outbox_set_link(gateway->outbox, gateway->link);
}

// --- stopping ---

static void on_thread_timeout(uv_timer_t *timer) {
    uv_stop(timer->loop);
}

static void stop_now(struct running *running) {
    size_t left = outbox_count(running->gateway.outbox);
    if (running->stopped)
        return;
    running->stopped = true;
    running->nothing_left = left == 0;
    if (left > 0)
        log_warning("%zu messages that the broker has not taken wait on disk for the next start", left);
    state_publish_instance(&running->gateway, false); // when the link is down, the Last Will says it
    mqtt_link_stop(running->gateway.link);
    outbox_stop(running->gateway.outbox);
    uv_close((uv_handle_t *)&running->gateway.resumer, NULL);
    uv_close((uv_handle_t *)&running->gateway.turn, NULL);
    command_sync_stop(&running->gateway);
    state_stop(&running->gateway);
    commands_stop(&running->gateway);
    store_stop(running->gateway.store);
    for (size_t i = 0; i < sizeof running->signals / sizeof running->signals[0]; i++) {
        int number = running->signals[i].signum;
        uv_close((uv_handle_t *)&running->signals[i], NULL);
        signal(number, SIG_IGN); // it would end the process before the store is closed
    }
    // All that can still keep the loop alive is a thread that connects.
    uv_timer_start(&running->drain_timer, on_thread_timeout, THREAD_TIME, 0);
    uv_unref((uv_handle_t *)&running->drain_timer);
}

static void on_drain_timeout(uv_timer_t *timer) {
    stop_now(timer->data);
}

static void on_drained(struct outbox_waiter *waiter, bool safe);

// Calls on_drained() when the outbox is empty, and stops when that takes too long.
static void wait_until_drained(struct running *running) {
    uint64_t now = uv_now(&running->gateway.loop), until = running->drain_until;
    uv_timer_start(&running->drain_timer, on_drain_timeout, until > now ? until - now : 0, 0);
    running->drained.first = running->drained.last = UINT64_MAX; // when nothing is left at all
    running->drained.done = on_drained;
    outbox_when_safe(running->gateway.outbox, &running->drained);
}

// What devices have left behind may be more than the outbox takes at once.
static void on_look_again(uv_timer_t *timer) {
    struct running *running = timer->data;
    state_publish(&running->gateway);
    if (outbox_count(running->gateway.outbox) > 0)
        wait_until_drained(running);
    else
        stop_now(running);
}

// Nothing is done from here: the outbox may be in the middle of publishing, and the link has just called.
static void on_drained(struct outbox_waiter *waiter, bool safe) {
    struct running *running = (struct running *)((char *)waiter - offsetof(struct running, drained));
    uv_timer_start(&running->drain_timer, on_look_again, 0, 0);
}

static void stop(struct running *running) {
    struct gateway *gateway = &running->gateway;
    if (running->stopping) {
        stop_now(running); // told twice: without waiting
        return;
    }
    running->stopping = true;
    log_info("stopping: no more connections, %zu messages to hand over", outbox_count(gateway->outbox));
    for (size_t i = 0; i < gateway->config->channel_count; i++) {
        channel_close(&gateway->channels[i]);
        channel_log_counters(&gateway->channels[i]);
    }
    running->drain_until = uv_now(&gateway->loop) + (mqtt_link_is_up(gateway->link) ? DRAIN_TIME : 0);
    state_publish(gateway);
    wait_until_drained(running);
}

// --- handing over what is left ---

static void on_hand_over_timer(uv_timer_t *timer) {
    struct running *running = timer->data;
    struct gateway *gateway = &running->gateway;
    if (!running->stopping && gateway->state.answered && command_sync_is_done(gateway) &&
        state_publish(gateway) && outbox_count(gateway->outbox) == 0)
        stop(running);
}

static void remove_store(const char *path) {
    if (unlink(path) == 0)
        log_info("the store %s is removed: the broker has what waited in it", path);
    else
        log_error("the store %s cannot be removed: %s", path, strerror(errno));
}

// --- the registry ---

static void log_registry_fault(void *context, const char *path, const char *problem) {
    log_error("%s: %s", path, problem);
}

static void reload_registry(struct gateway *gateway) {
    struct registry *old = gateway->registry;
    struct config_devices *devices = config_read_devices(gateway->config, log_registry_fault, NULL);
    if (devices == NULL) {
        log_error("the registry stays as it was");
        return;
    }
    log_info("the registry has %zu devices", devices->count);
    gateway->registry = registry_new(devices, gateway->config->unknown_devices);
    device_states_reload(gateway);
    sessions_reload(gateway);
    registry_free(old); // sessions pointed to its names until now
}

// --- signals ---

static void log_counters(const struct gateway *gateway) {
    for (size_t i = 0; i < gateway->config->channel_count; i++)
        channel_log_counters(&gateway->channels[i]);
    log_info("outbox: %zu messages", outbox_count(gateway->outbox));
}

static void on_signal(uv_signal_t *signal, int number) {
    struct running *running = signal->data;
    if (number == SIGUSR1)
        log_counters(&running->gateway);
    else if (number == SIGHUP)
        reload_registry(&running->gateway);
    else if (number != SIGTERM || !running->stopping || running->gateway.config->worker == 0)
        stop(running); // a worker may hear SIGTERM twice, from its supervisor and from a service manager
}

static void catch_signals(struct running *running) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGUSR1, SIGHUP};
    sigset_t heard;
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&heard);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        uv_signal_init(&running->gateway.loop, &running->signals[i]);
        running->signals[i].data = running;
        uv_signal_start(&running->signals[i], on_signal, numbers[i]);
        sigaddset(&heard, numbers[i]);
    }
    sigprocmask(SIG_UNBLOCK, &heard, NULL); // a worker begins with them blocked
}

// --- running ---

static void free_all(struct running *running) {
    struct gateway *gateway = &running->gateway;
    instances_free(gateway);
    state_free(gateway);
    mqtt_link_free(gateway->link);
    outbox_free(gateway->outbox);
    registry_free(gateway->registry);
    free(gateway->channels);
    commands_free(gateway);
    store_close(gateway->store);
    for (size_t i = 0; i < running->subscription_count; i++)
        free(running->subscriptions[i].filter);
    uv_loop_close(&gateway->loop);
}

static void warn_of_what_is_not_there(const struct config *config) {
    if (config->mqtt.qos == 0)
        log_warning(
            "mqtt.qos is 0: messages that are under way when the connection to the broker breaks are lost");
    for (size_t i = 0; i < config->channel_count; i++)
        if (config->channels[i].udp_ack != NULL && !config->channels[i].has_udp)
            log_warning("channel %s has udp_ack, but no udp", config->channels[i].name);
}

static struct store *open_store(struct gateway *gateway) {
    char *reason;
    struct store *store = store_open(&gateway->loop, gateway->config->store_path, &reason);
    if (store == NULL)
        log_error("%s", reason);
    free(reason);
    return store;
}

// Shells and service managers often allow 1024 descriptors at first and far more on request. Where there are
// fewer, connections are refused before there are none left: libuv would close them without a word.
static void allow_descriptors(struct gateway *gateway) {
    rlim_t wanted = (rlim_t)gateway->config->limits.connections + OTHER_DESCRIPTORS;
    struct rlimit limit;
    gateway->connections_max = gateway->config->limits.connections;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur == wanted)
        return;
    rlim_t others = limit.rlim_cur / 2 < OTHER_DESCRIPTORS ? limit.rlim_cur / 2 : OTHER_DESCRIPTORS;
    gateway->connections_max = (int)(limit.rlim_cur - others);
    log_warning("limits.connections is %d, but the system allows only %llu open files: %d connections",
                gateway->config->limits.connections, (unsigned long long)limit.rlim_cur,
                gateway->connections_max);
}

// Opens the channels and begins to connect to the broker. Returns 1, and stops, when there is nothing to do.
static int begin(struct running *running) {
    struct gateway *gateway = &running->gateway;
    const struct config *config = gateway->config;
    for (size_t i = 0; i < config->channel_count; i++)
        channel_open(&gateway->channels[i], gateway, &config->channels[i]);
    if (gateway->listening == 0 && !config->hand_over) {
        log_error("no tracker can connect: none of the channels is open");
        stop(running);
        return 1;
    }
    mqtt_link_start(gateway->link);
    if (config->hand_over)
        uv_timer_start(&running->drain_timer, on_hand_over_timer, HAND_OVER_INTERVAL, HAND_OVER_INTERVAL);
    return 0;
}

int gateway_run(struct config *config) {
    static struct running running;
    struct gateway *gateway = &running.gateway;
    log_setup(config->log_level, config->log_format, config->worker);
    gateway->log_limiter.per_second = LOG_LINES;
    gateway->datagram_limiter.per_second = (unsigned)config->limits.datagrams_per_second;
    gateway->config = config;
    gateway->started = gateway_clock();
    uv_loop_init(&gateway->loop);
    uv_timer_init(&gateway->loop, &running.drain_timer);
    uv_idle_init(&gateway->loop, &gateway->resumer);
    uv_prepare_init(&gateway->loop, &gateway->turn);
    gateway->resumer.data = gateway->turn.data = gateway;
    uv_prepare_start(&gateway->turn, on_turn);
    uv_unref((uv_handle_t *)&gateway->turn);
    running.drain_timer.data = &running;
    gateway->registry = registry_new(config->devices, config->unknown_devices);
    config->devices = NULL; // the registry has them
    gateway->channels = must_have(calloc(config->channel_count + 1, sizeof *gateway->channels));
    gateway->store = open_store(gateway);
    if (gateway->store == NULL)
        return 1;
    gateway->outbox = outbox_new(&gateway->loop, gateway->store, (unsigned)config->mqtt.inflight,
                                 config->store_max_bytes, on_intake, &running);
    make_link(&running);
    commands_start(gateway);
    command_sync_start(gateway);
    state_start(gateway);
    catch_signals(&running);
    warn_of_what_is_not_there(config);
    allow_descriptors(gateway);
    int code = begin(&running);
    uv_run(&gateway->loop, UV_RUN_DEFAULT);
    log_info("stopped");
    if (mqtt_link_is_connecting(gateway->link) || state_reader_is_connecting(gateway->state.reader)) {
        // The thread may wait for the network for minutes, and nothing can call it back.
        while (store_is_writing(gateway->store))
            uv_run(&gateway->loop, UV_RUN_ONCE);
        store_close(gateway->store);
        _exit(code);
    }
    uv_close((uv_handle_t *)&running.drain_timer, NULL);
    uv_run(&gateway->loop, UV_RUN_DEFAULT);
    free_all(&running);
    if (config->hand_over && running.nothing_left)
        remove_store(config->store_path);
    return code;
}
