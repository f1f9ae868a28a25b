// trackbus watch: what comes through the broker, live.
#include <errno.h>
#include <getopt.h>
#include <mqtt_protocol.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <uv.h>

#include "gateway/base/limiter.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/broker/mqtt_link.h"
#include "gateway/cli/cli.h"
#include "gateway/config/config.h"
#include "gateway/config/registry.h"
#include "gateway/fleet/fleet.h"
#include "gateway/fleet/report.h"
#include "gateway/run/gateway.h"
#include "gateway/watch/terminal.h"
#include "gateway/watch/view.h"

#define REDRAW       200  // milliseconds
#define RATE_SECONDS 10   // over which messages are counted
#define TWINS        4096 // messages that may wait for their twin of the other topic
#define NOTE_MAX     256  // bytes
#define ODD_LINES    5    // about payloads that are not understood, a second

static const char help[] =
    "trackbus watch [-c FILE] [IDENT]\n"
    "\n"
    "Shows what comes through the broker, with an IDENT of that device only. On a terminal: a row a\n"
    "device, newest first; q or Ctrl-C ends it. Otherwise: a line a message, and one whenever a device\n"
    "connects or disconnects: time, ident, name, position, speed, battery, event.\n"
    "\n"
    "  -c, --config FILE   the gateway's configuration, of which mqtt and messages count; without it\n"
    "                      every default holds\n"
    "\n"
    "Environment: TRACKBUS_MQTT_URL, TRACKBUS_MQTT_USERNAME, TRACKBUS_MQTT_PASSWORD and\n"
    "TRACKBUS_TOPIC_PREFIX override the file.\n";

// What stands retained for each device, behind state/gw/devices/+.
static const char *const states[] = {"", "/telemetry/server.timestamp", "/connected", "/telemetry/position",
                                     "/telemetry/battery.voltage"};
#define STATES (sizeof states / sizeof states[0])

enum topic_kind { ON_CHANNELS = 1, ON_DEVICES = 2 };

struct watch {
    const struct config *config;
    const char *ident; // the only one, or NULL
    bool live;         // a screen, not lines
    uv_loop_t loop;
    struct mqtt_link *link;
    struct mqtt_subscription subscriptions[4];
    size_t subscription_count;
    size_t states_asked; // how many of the state topics are subscribed
    bool states_come;    // since the last look
    struct watch_fleet fleet;
    struct {
        uint64_t hash;
        enum topic_kind kind; // 0: none waits here
    } twins[TWINS];
    bool was_up, is_up;
    char broker[NOTE_MAX];
    unsigned counts[RATE_SECONDS]; // messages in each of the last seconds
    uint64_t second;               // that counts is up to
    unsigned long long odd;        // payloads that were not understood
    struct limiter odd_limiter;
    bool changed;
    uint64_t drawn; // second of the last redraw
    uv_timer_t redraw;
    uv_signal_t signals[5];
    uv_poll_t keys;
    bool stopping, stopped;
    int code;
};

// The last fault that the log has told; other threads log too.
static struct {
    pthread_mutex_t lock;
    enum log_level level;
    char text[NOTE_MAX];
} note = {.lock = PTHREAD_MUTEX_INITIALIZER};

// --- ending ---

static void stop(struct watch *watch) {
    if (watch->stopped)
        return;
    watch->stopped = true;
    mqtt_link_stop(watch->link);
    uv_close((uv_handle_t *)&watch->redraw, NULL);
    for (size_t i = 0; i < sizeof watch->signals / sizeof watch->signals[0]; i++)
        uv_close((uv_handle_t *)&watch->signals[i], NULL);
    if (watch->keys.data != NULL)
        uv_close((uv_handle_t *)&watch->keys, NULL);
    if (mqtt_link_is_connecting(watch->link))
        uv_stop(&watch->loop); // a thread that nothing can call back
}

static void on_stop(uv_timer_t *timer) {
    stop(timer->data);
}

// Not at once: the link may have called.
static void stop_soon(struct watch *watch, int code) {
    if (watch->stopping)
        return;
    watch->stopping = true;
    watch->code = code;
    uv_timer_start(&watch->redraw, on_stop, 0, 0);
}

// --- the screen ---

static void on_log(void *context, enum log_level level, const char *text) {
    if (level > LOG_WARNING)
        return;
    pthread_mutex_lock(&note.lock);
    note.level = level;
    watch_clean(text, strlen(text), note.text, sizeof note.text);
    pthread_mutex_unlock(&note.lock);
}

// Connected again: a warning is over, an error (a subscription that was refused) is not.
static void clear_note(void) {
    pthread_mutex_lock(&note.lock);
    if (note.level == LOG_WARNING)
        *note.text = '\0';
    pthread_mutex_unlock(&note.lock);
}

// Forgets the seconds that are over.
static void advance(struct watch *watch) {
    uint64_t second = uv_now(&watch->loop) / 1000;
    for (unsigned i = 0; watch->second < second && i < RATE_SECONDS; i++)
        watch->counts[++watch->second % RATE_SECONDS] = 0;
    watch->second = second;
}

static double rate(struct watch *watch) {
    unsigned sum = 0;
    advance(watch);
    for (size_t i = 0; i < RATE_SECONDS; i++)
        sum += watch->counts[i];
    return (double)sum / RATE_SECONDS;
}

static void draw(struct watch *watch) {
    char *text = NULL, why[NOTE_MAX];
    size_t length = 0;
    int rows, columns;
    FILE *memory = must_have(open_memstream(&text, &length));
    pthread_mutex_lock(&note.lock);
    strcpy(why, note.text);
    pthread_mutex_unlock(&note.lock);
    const struct watch_status status = {
        .broker = watch->broker,
        .state = watch->is_up    ? "connected"
                 : watch->was_up ? "reconnecting"
                                 : "connecting",
        .note = *why != '\0' ? why : NULL,
        .ident = watch->ident,
        .rate = rate(watch),
        .odd = watch->odd,
    };
    terminal_size(&rows, &columns);
    watch_view_screen(memory, &watch->fleet, &status, rows, columns, gateway_clock());
    fclose(memory);
    bool written = terminal_write(text, length);
    free(text);
    watch->changed = false;
    watch->drawn = uv_now(&watch->loop) / 1000;
    if (!written)
        stop_soon(watch, 0);
}

// A broker drops what it cannot send quickly, such as the states of very many devices: they are not part of
// the link's subscriptions, and one topic is asked for after the other.
static void ask_for_states(struct watch *watch) {
    char filter[512];
    snprintf(filter, sizeof filter, "%s/state/gw/devices/+%s", watch->config->mqtt.topic_prefix,
             states[watch->states_asked]);
    if (mqtt_link_subscribe(watch->link, filter))
        watch->states_asked++;
}

// Ages grow each second, also when nothing comes.
static void on_redraw(uv_timer_t *timer) {
    struct watch *watch = timer->data;
    if (watch->is_up && !watch->states_come && watch->states_asked < STATES)
        ask_for_states(watch);
    // While the states of many devices come in no particular order, sorting them for each look is too much.
    bool wanted = watch->changed && !watch->states_come;
    watch->states_come = false;
    if (wanted || uv_now(&watch->loop) / 1000 != watch->drawn)
        draw(watch);
}

// --- lines ---

static void print_line(struct watch *watch, const struct watch_report *report) {
    struct watch_line line = {.length = 0};
    watch_view_line(&line, report);
    if (printf("%s\n", line.text) >= 0 && fflush(stdout) == 0)
        return;
    bool seen_enough = errno == EPIPE;
    if (!seen_enough)
        log_error("cannot write: %s", strerrordesc_np(errno));
    stop_soon(watch, seen_enough ? 0 : 1);
}

// --- what comes in ---

static void note_odd(struct watch *watch, const struct mqtt_received *received) {
    char topic[128];
    watch->odd++;
    watch->changed = true;
    if (!watch->live && limiter_allows(&watch->odd_limiter, uv_now(&watch->loop), "", 0, NULL))
        log_warning(
            "what came on %s is not understood",
            log_quote((const uint8_t *)received->topic, strlen(received->topic), topic, sizeof topic));
}

// Whether the same came on the other kind of topic just before: a message is published on both.
static bool is_twin(struct watch *watch, enum topic_kind kind, const struct mqtt_received *received) {
    uint64_t hash = 14695981039346656037U; // FNV-1a
    for (size_t i = 0; i < received->length; i++)
        hash = (hash ^ (unsigned char)received->payload[i]) * 1099511628211U;
    enum topic_kind *waiting = &watch->twins[hash % TWINS].kind;
    bool twin = *waiting != 0 && *waiting != kind && watch->twins[hash % TWINS].hash == hash;
    *waiting = twin ? 0 : kind;
    watch->twins[hash % TWINS].hash = hash;
    return twin;
}

static bool is_wanted(const struct watch *watch, const char *ident) {
    return watch->ident == NULL || strcmp(watch->ident, ident) == 0;
}

static void take_message(struct watch *watch, enum topic_kind kind, const struct mqtt_received *received) {
    struct watch_report report;
    if (is_twin(watch, kind, received))
        return;
    if (!watch_report_message(&report, received->payload, received->length, gateway_clock())) {
        note_odd(watch, received);
        return;
    }
    if (!is_wanted(watch, report.ident))
        return;
    advance(watch);
    watch->counts[watch->second % RATE_SECONDS]++;
    watch_fleet_report(&watch->fleet, &report);
    if (!watch->live)
        print_line(watch, &report);
}

static void take_presence(struct watch *watch, bool connected, const struct mqtt_received *received) {
    struct watch_presence presence;
    if (!watch_report_presence(&presence, connected, received->payload, received->length, gateway_clock())) {
        note_odd(watch, received);
        return;
    }
    if (!is_wanted(watch, presence.report.ident))
        return;
    watch_fleet_presence(&watch->fleet, &presence);
    const struct watch_device *device = watch_fleet_by_ident(&watch->fleet, presence.report.ident);
    strcpy(presence.report.name, device->name); // which the entry does not say
    if (!watch->live)
        print_line(watch, &presence.report);
}

static void take_identity(struct watch *watch, int64_t id, const struct mqtt_received *received) {
    struct watch_report identity;
    if (received->length == 0)
        watch_fleet_identity(&watch->fleet, id, NULL);
    else if (!watch_report_identity(&identity, received->payload, received->length) || identity.id != id)
        note_odd(watch, received);
    else if (is_wanted(watch, identity.ident))
        watch_fleet_identity(&watch->fleet, id, &identity);
}

static void take_connected(struct watch *watch, int64_t id, const struct mqtt_received *received) {
    bool yes = received->length == 4 && memcmp(received->payload, "true", 4) == 0;
    bool no = received->length == 5 && memcmp(received->payload, "false", 5) == 0;
    if (yes || no || received->length == 0)
        watch_fleet_connected(&watch->fleet, id,
                              yes  ? WATCH_CONNECTED
                              : no ? WATCH_DISCONNECTED
                                   : WATCH_UNKNOWN);
    else
        note_odd(watch, received);
}

// What is known of a device before its messages say it.
static void take_telemetry(struct watch *watch, int64_t id, const char *name,
                           const struct mqtt_received *received) {
    struct watch_report position;
    const struct watch_device *device = watch_fleet_by_id(&watch->fleet, id);
    double heard;
    if (received->length == 0 || (device != NULL && device->live))
        return;
    if (strcmp(name, "position") == 0) {
        if (watch_report_position(&position, received->payload, received->length))
            watch_fleet_position(&watch->fleet, id, &position);
        else
            note_odd(watch, received);
    } else if (strcmp(name, field_table[FIELD_BATTERY_VOLTAGE].key) == 0) {
        watch_fleet_battery(&watch->fleet, id,
                            watch_report_number(FIELD_BATTERY_VOLTAGE, received->payload, received->length));
    } else {
        heard = watch_report_number(FIELD_SERVER_TIMESTAMP, received->payload, received->length) * 1e6;
        if (heard <= (double)gateway_clock())
            watch_fleet_heard(&watch->fleet, id, (int64_t)heard);
    }
}

// topic is what follows state/gw/devices/.
static void take_state(struct watch *watch, const char *topic, const struct mqtt_received *received) {
    char *end;
    watch->states_come = watch->states_come || received->retain;
    errno = 0;
    long long id = strtoll(topic, &end, 10);
    if (end == topic || *topic == '-' || errno != 0 || (*end != '\0' && *end != '/')) {
        note_odd(watch, received);
        return;
    }
    if (*end == '\0')
        take_identity(watch, id, received);
    else if (watch->ident != NULL && watch_fleet_by_id(&watch->fleet, id) == NULL)
        return; // identities come first: it is another device's
    else if (strcmp(end, "/connected") == 0)
        take_connected(watch, id, received);
    else
        take_telemetry(watch, id, strrchr(end, '/') + 1, received);
}

static const char *topic_after(const char *topic, const char *start) {
    size_t length = strlen(start);
    return strncmp(topic, start, length) == 0 ? topic + length : NULL;
}

static void on_received(void *context, const struct mqtt_received *received) {
    struct watch *watch = context;
    const char *topic = received->topic + strlen(watch->config->mqtt.topic_prefix) + 1; // as subscribed
    const char *rest;
    if (watch->stopping)
        return;
    watch->changed = true;
    if ((rest = topic_after(topic, "state/gw/devices/")) != NULL)
        take_state(watch, rest, received);
    else if ((rest = topic_after(topic, "log/gw/devices/")) != NULL)
        take_presence(watch, strcmp(strchrnul(rest, '/'), "/connected") == 0, received);
    else
        take_message(watch, topic_after(topic, "message/gw/channels/") != NULL ? ON_CHANNELS : ON_DEVICES,
                     received);
}

static void on_connected(void *context) {
}

static void on_up(void *context) {
    struct watch *watch = context;
    watch->is_up = watch->was_up = watch->changed = true;
    clear_note();
    watch->states_asked = 0;
    ask_for_states(watch); // names first; lines need nothing else
}

static void on_down(void *context) {
    struct watch *watch = context;
    watch->is_up = false;
    watch->changed = true;
    watch_fleet_lost(&watch->fleet);
}

static void on_published(void *context, int mid, enum mqtt_answer answer, const char *reason) {
}

static const struct mqtt_link_handlers handlers = {.connected = on_connected,
                                                   .up = on_up,
                                                   .down = on_down,
                                                   .published = on_published,
                                                   .received = on_received};

// --- beginning ---

static void subscribe(struct watch *watch, int options, const char *format, const char *part) {
    struct mqtt_subscription *subscription = &watch->subscriptions[watch->subscription_count++];
    char *filter;
    if (asprintf(&filter, format, watch->config->mqtt.topic_prefix, part) < 0)
        must_have(NULL);
    *subscription = (struct mqtt_subscription){.filter = filter, .qos = 0, .options = options};
}

static void subscribe_all(struct watch *watch) {
    const struct config *config = watch->config;
    const int live = MQTT_SUB_OPT_SEND_RETAIN_NEVER;
    subscribe(watch, live, "%s/log/gw/devices/+/%s", "connected");
    subscribe(watch, live, "%s/log/gw/devices/+/%s", "disconnected");
    // A device without an identity is on the channel's topic in any case.
    if (config->on_channels || config->unknown_devices == UNKNOWN_CHANNEL)
        subscribe(watch, live, "%s/message/gw/channels/+/%s", watch->ident != NULL ? watch->ident : "+");
    if (config->on_devices)
        subscribe(watch, live, "%s/message/gw/devices/+", "");
}

static void take_terminal(struct watch *watch) {
    terminal_take();
    draw(watch);
}

static void on_signal(uv_signal_t *handle, int number) {
    struct watch *watch = handle->data;
    if (number == SIGWINCH && watch->live) {
        watch->changed = true;
    } else if (number == SIGTSTP) {
        terminal_give_back();
        raise(SIGSTOP);
    } else if (number == SIGCONT) {
        if (watch->live)
            take_terminal(watch);
    } else if (number != SIGWINCH) {
        stop(watch);
    }
}

static void catch_signals(struct watch *watch) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGWINCH, SIGTSTP, SIGCONT};
    signal(SIGPIPE, SIG_IGN);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        uv_signal_init(&watch->loop, &watch->signals[i]);
        watch->signals[i].data = watch;
        uv_signal_start(&watch->signals[i], on_signal, numbers[i]);
    }
}

static void on_keys(uv_poll_t *poll, int status, int events) {
    struct watch *watch = poll->data;
    char keys[64];
    ssize_t count = status == 0 ? read(STDIN_FILENO, keys, sizeof keys) : 0;
    if (count <= 0)
        uv_poll_stop(poll);
    else if (memchr(keys, 'q', (size_t)count) != NULL)
        stop(watch);
}

static void begin_live(struct watch *watch) {
    log_divert(on_log, watch);
    if (terminal_has_keys() && uv_poll_init(&watch->loop, &watch->keys, STDIN_FILENO) == 0) {
        watch->keys.data = watch;
        uv_poll_start(&watch->keys, UV_READABLE, on_keys);
    }
    uv_timer_start(&watch->redraw, on_redraw, REDRAW, REDRAW);
    take_terminal(watch);
}

static void free_all(struct watch *watch) {
    mqtt_link_free(watch->link);
    watch_fleet_free(&watch->fleet);
    for (size_t i = 0; i < watch->subscription_count; i++)
        free(watch->subscriptions[i].filter);
    uv_loop_close(&watch->loop);
}

static int run(struct watch *watch) {
    log_setup(watch->config->log_level, watch->config->log_format, 0);
    watch_text_setup();
    watch->live = terminal_is_there();
    watch->odd_limiter.per_second = ODD_LINES;
    snprintf(watch->broker, sizeof watch->broker, "%s:%d", watch->config->mqtt.host,
             watch->config->mqtt.port);
    uv_loop_init(&watch->loop);
    uv_timer_init(&watch->loop, &watch->redraw);
    watch->redraw.data = watch;
    subscribe_all(watch);
    watch->link = mqtt_link_new(&watch->loop, watch->config, watch->subscriptions, watch->subscription_count,
                                false, NULL, NULL, &handlers, watch);
    catch_signals(watch);
    if (watch->live)
        begin_live(watch);
    mqtt_link_start(watch->link);
    uv_run(&watch->loop, UV_RUN_DEFAULT);
    terminal_give_back();
    if (mqtt_link_is_connecting(watch->link))
        _exit(watch->code);
    free_all(watch);
    return watch->code;
}

// Of several that watch, on several machines, each has its own.
static char *make_client_id(const struct config *config) {
    char *client_id;
    uint16_t chance = 0;
    if (getrandom(&chance, sizeof chance, 0) < 0 ||
        asprintf(&client_id, "%s-watch-%d-%04x", config->mqtt.client_id, (int)getpid(), chance) < 0)
        must_have(NULL);
    return client_id;
}

static void print_fault(void *context, const char *path, const char *problem) {
    fprintf(context, "%s: %s\n", path, problem);
}

static int watch_all(const char *file, const char *ident) {
    static struct watch watch;
    struct config *config = config_load(file, print_fault, stderr);
    if (config == NULL)
        return 1;
    char *client_id = make_client_id(config);
    config->mqtt.client_id = client_id;
    watch.config = config;
    watch.ident = ident;
    int code = run(&watch);
    free(client_id);
    config_free(config);
    return code;
}

int cli_watch(int argc, char **argv) {
    static const struct option longs[] = {
        {"config", required_argument, NULL, 'c'}, {"help", no_argument, NULL, 'h'}, {0}};
    const char *file = NULL;
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":c:h", longs, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return 0;
        }
        if (option != 'c')
            return cli_usage_fault(argv[0], "wrong or incomplete option '%s'", argv[optind - 1]);
        file = optarg;
    }
    if (optind + 1 < argc)
        return cli_usage_fault(argv[0], "one IDENT, not %d", argc - optind);
    const char *ident = argv[optind];
    if (ident != NULL && !device_ident_valid(ident))
        return cli_usage_fault(argv[0], "'%s' is no IDENT: letters, digits, dots, dashes, underscores",
                               ident);
    return watch_all(file, ident);
}
