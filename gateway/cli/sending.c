// Sending a command and following its life; see sending.h.
//
// First the devices that the broker retains tell which id the device has; then the command is published. What
// becomes of it comes as log entries and, with MQTT 5, on a response topic: whichever comes first is printed. A
// random text in the command's meta, which comes back with each of them, tells them from others.
#include "gateway/cli/sending.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <uv.h>

#include "gateway/base/clean.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/mqtt_link.h"
#include "gateway/broker/topic.h"
#include "gateway/config/registry.h"
#include "gateway/fleet/report.h"

#define RESOLVE_TIME 3000 // milliseconds that the broker may take to say which devices there are
#define ANSWERS      "answers/"
#define MARK         "send" // in meta
#define TEXT_MAX     4096

enum phase { CONNECTING, RESOLVING, PUBLISHING, FOLLOWING, ENDED };

// How well a device fits what was asked for.
enum fit { NO_FIT, BY_NAME, BY_ID, BY_IDENT };

struct sending {
    const char *prefix, *device;
    json_t *commands;
    char mark[24];
    char *response_topic, *topic;
    enum phase phase;
    enum fit fit;
    int64_t id; // of the device that fits
    bool ambiguous, queued;
    bool broke; // the connection did while the broker was asked: it may have been at the question
    int mid;
    size_t executed, failed;
    json_t *ended; // ids of commands that have, as keys
    uv_loop_t loop;
    uv_timer_t deadline, resolving;
    uv_signal_t signals[2];
    struct mqtt_link *link;
    int code;
};

// --- ending ---

static void close_all(struct sending *sending) {
    uv_close((uv_handle_t *)&sending->deadline, NULL);
    uv_close((uv_handle_t *)&sending->resolving, NULL);
    for (size_t i = 0; i < 2; i++)
        uv_close((uv_handle_t *)&sending->signals[i], NULL);
    mqtt_link_stop(sending->link);
    if (mqtt_link_is_connecting(sending->link))
        uv_stop(&sending->loop); // on a thread, which cannot be interrupted
}

static void on_end(uv_timer_t *timer) {
    close_all(timer->data);
}

// Not at once: we may have been called by the link.
static void end(struct sending *sending, int code) {
    if (sending->phase == ENDED)
        return;
    sending->phase = ENDED;
    sending->code = code;
    uv_timer_start(&sending->resolving, on_end, 0, 0);
}

__attribute__((format(printf, 3, 4))) static void fail(struct sending *sending, int code, const char *format,
                                                       ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("trackbus send: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    end(sending, code);
}

static void give_up(struct sending *sending) {
    size_t all = json_array_size(sending->commands);
    if (sending->phase < FOLLOWING)
        fail(sending, 1, "not published: the broker %s",
             sending->phase == CONNECTING ? "cannot be reached" : "does not answer");
    else if (!sending->queued)
        fail(sending, EXIT_WAITING, "published, but no gateway has taken it in yet");
    else
        fail(sending, sending->failed > 0 ? 1 : EXIT_WAITING, "still waiting: %zu of %zu commands have ended",
             sending->executed + sending->failed, all);
}

static void on_deadline(uv_timer_t *timer) {
    give_up(timer->data);
}

static void on_signal(uv_signal_t *handle, int number) {
    give_up(handle->data);
}

// --- which device ---

static void take_candidate(struct sending *sending, const char *ident, const char *name, int64_t id) {
    char number[24];
    snprintf(number, sizeof number, "%lld", (long long)id);
    enum fit fit = strcmp(sending->device, ident) == 0                  ? BY_IDENT
                   : strcmp(sending->device, number) == 0               ? BY_ID
                   : name != NULL && strcmp(sending->device, name) == 0 ? BY_NAME
                                                                        : NO_FIT;
    if (fit == NO_FIT || fit < sending->fit)
        return;
    sending->ambiguous =
        fit == BY_NAME && sending->fit == BY_NAME && (sending->ambiguous || sending->id != id);
    sending->fit = fit;
    sending->id = id;
}

static void look_into_registry(struct sending *sending, const struct config_devices *devices) {
    for (size_t i = 0; i < devices->count; i++)
        take_candidate(sending, devices->list[i].ident, devices->list[i].name, devices->list[i].id);
}

static void take_identity(struct sending *sending, const struct mqtt_received *received) {
    struct report identity;
    if (received->length > 0 && report_identity(&identity, received->payload, received->length) &&
        identity.id >= 0)
        take_candidate(sending, identity.ident, identity.name, identity.id);
}

// --- publishing ---

static void publish(struct sending *sending) {
    char *text = text_of_json(sending->commands, TEXT_VALUE_DIGITS);
    const struct mqtt_publish command = {.topic = sending->topic,
                                         .payload = text,
                                         .length = strlen(text),
                                         .qos = 1,
                                         .response_topic = sending->response_topic,
                                         .correlation = sending->mark,
                                         .correlation_length = strlen(sending->mark)};
    const struct mqtt_carrier *carrier = mqtt_link_carrier(sending->link);
    sending->phase = PUBLISHING;
    switch (carrier->publish(carrier->context, &command, &sending->mid)) {
    case MQTT_SENT:
        break;
    case MQTT_NOT_NOW:
        sending->phase = CONNECTING; // it goes out once the link is up again
        break;
    case MQTT_REFUSED:
        fail(sending, 1, "the command cannot be published: it is too large for the broker");
    }
    free(text);
}

// What the broker retains has come, or does not come.
static void on_resolved(uv_timer_t *timer) {
    struct sending *sending = timer->data;
    free(sending->topic);
    sending->topic = NULL;
    if (sending->ambiguous)
        fail(sending, 1, "several devices are called '%s': use the ident", sending->device);
    else if (sending->fit != NO_FIT)
        sending->topic =
            text_format("%s/" TOPIC_COMMAND TOPIC_DEVICES "%lld", sending->prefix, (long long)sending->id);
    else if (device_ident_valid(sending->device))
        sending->topic =
            text_format("%s/" TOPIC_COMMAND TOPIC_DEVICES "%s", sending->prefix, sending->device);
    else
        fail(sending, 1, "there is no device '%s'", sending->device);
    if (sending->topic != NULL)
        publish(sending);
}

// --- its life ---

static const char *text_at(const json_t *entry, const char *key, char *out, size_t capacity) {
    const char *text = json_string_value(json_object_get(entry, key));
    return clean_text(text != NULL ? text : "", text != NULL ? strlen(text) : 0, out, capacity);
}

static void print_response(const json_t *response) {
    static char clean[TEXT_MAX];
    char *text = json_is_string(response) ? must_have(strdup(json_string_value(response)))
                                          : text_of_json(response, TEXT_VALUE_DIGITS);
    if (!json_is_null(response))
        puts(clean_text(text, strlen(text), clean, sizeof clean));
    free(text);
}

static void print_step(const char *step, const json_t *entry) {
    char name[80], reason[512], source[80], transport[16];
    printf("%-10s %s", step, text_at(entry, "name", name, sizeof name));
    if (strcmp(step, "queued") == 0) {
        bool unknown = json_is_false(json_object_get(entry, "known"));
        printf("%s", unknown ? ", for a device that is neither in the registry nor was ever heard" : "");
    } else if (strcmp(step, "sent") == 0) {
        printf(", attempt %lld, %s %s", (long long)json_integer_value(json_object_get(entry, "attempts")),
               text_at(entry, "transport", transport, sizeof transport),
               text_at(entry, "source", source, sizeof source));
    } else if (json_is_true(json_object_get(entry, "executed"))) {
        printf(", executed");
    } else {
        printf(", not executed: %s", text_at(entry, "reason", reason, sizeof reason));
    }
    putchar('\n');
}

// It comes twice: as log entry and on the response topic. One that was rejected has an id as well.
static void take_end(struct sending *sending, const char *step, const json_t *entry) {
    char id[24];
    snprintf(id, sizeof id, "%lld", (long long)json_integer_value(json_object_get(entry, "id")));
    if (json_object_get(sending->ended, id) != NULL)
        return;
    json_object_set_new(sending->ended, id, json_true());
    print_step(step, entry);
    print_response(json_object_get(entry, "response"));
    bool executed = json_is_true(json_object_get(entry, "executed"));
    sending->executed += executed;
    sending->failed += !executed;
    if (sending->executed + sending->failed >= json_array_size(sending->commands))
        end(sending, sending->failed > 0 ? 1 : 0);
}

static const char *end_of(const json_t *entry) {
    json_int_t code = json_integer_value(json_object_get(entry, "event_code"));
    return code == 331 ? "canceled" : code == 333 ? "expired" : "processed";
}

static void take_step(struct sending *sending, const char *step, const json_t *entry) {
    sending->queued = true;
    if (strcmp(step, "queued") == 0 || strcmp(step, "sent") == 0)
        print_step(step, entry);
    else
        take_end(sending, step, entry);
    fflush(stdout);
}

static void take_entry(struct sending *sending, const struct mqtt_received *received) {
    json_t *entry = json_loadb(received->payload, received->length, 0, NULL);
    const char *mark = json_string_value(json_object_get(json_object_get(entry, "meta"), MARK));
    bool answer = strcmp(received->topic, sending->response_topic) == 0;
    if (sending->phase < PUBLISHING || sending->phase == ENDED || !json_is_object(entry))
        ; // not ours
    else if (answer)
        take_step(sending, end_of(entry), entry);
    else if (mark != NULL && strcmp(mark, sending->mark) == 0)
        take_step(sending, strrchr(received->topic, '/') + 1, entry);
    json_decref(entry);
}

// --- the link ---

static void on_received(void *context, const struct mqtt_received *received) {
    struct sending *sending = context;
    const char *topic = topic_after(received->topic, sending->prefix);
    bool echo = sending->phase == RESOLVING && strcmp(received->topic, sending->response_topic) == 0;
    if (echo)
        uv_timer_start(&sending->resolving, on_resolved, 0, 0);
    else if (topic != NULL && topic_after(topic, "/" TOPIC_STATE TOPIC_DEVICES) != NULL)
        take_identity(sending, received);
    else
        take_entry(sending, received);
}

// What we say to ourselves behind the subscriptions comes when all that is retained has come.
static void on_up(void *context) {
    struct sending *sending = context;
    const struct mqtt_carrier *carrier = mqtt_link_carrier(sending->link);
    int mid;
    if (sending->phase != CONNECTING)
        return;
    sending->phase = RESOLVING;
    uv_timer_start(&sending->resolving, on_resolved, RESOLVE_TIME, 0);
    const struct mqtt_publish question = {
        .topic = sending->response_topic, .payload = "?", .length = 1, .qos = 1};
    if (!sending->broke)
        carrier->publish(carrier->context, &question, &mid);
}

static void on_down(void *context, bool by_broker) {
    struct sending *sending = context;
    if (sending->phase == PUBLISHING)
        fail(sending, 1, "the connection broke before the broker confirmed: the command may have arrived");
    if (sending->phase != RESOLVING)
        return;
    uv_timer_stop(&sending->resolving);
    sending->phase = CONNECTING;
    sending->broke = true;
}

static void on_published(void *context, int mid, enum mqtt_answer answer, const char *reason) {
    struct sending *sending = context;
    if (sending->phase != PUBLISHING || mid != sending->mid)
        return;
    if (answer == MQTT_TAKEN)
        sending->phase = FOLLOWING;
    else
        fail(sending, 1, "the broker does not take the command: %s", reason);
}

static void on_connected(void *context) {
}

static const struct mqtt_link_handlers handlers = {.purpose = "send",
                                                   .connected = on_connected,
                                                   .up = on_up,
                                                   .down = on_down,
                                                   .published = on_published,
                                                   .received = on_received};

// --- beginning ---

static void mark_commands(struct sending *sending) {
    json_t *command;
    size_t i;
    json_array_foreach(sending->commands, i, command) {
        json_t *meta = json_object_get(command, "meta");
        if (meta == NULL)
            json_object_set_new(command, "meta", meta = json_object());
        json_object_set_new(meta, MARK, json_string(sending->mark));
    }
}

static void set_up_loop(struct sending *sending, unsigned seconds) {
    static const int numbers[] = {SIGINT, SIGTERM};
    uv_loop_init(&sending->loop);
    uv_timer_init(&sending->loop, &sending->deadline);
    uv_timer_init(&sending->loop, &sending->resolving);
    sending->deadline.data = sending->resolving.data = sending;
    uv_timer_start(&sending->deadline, on_deadline, seconds * 1000ULL, 0);
    for (size_t i = 0; i < 2; i++) {
        uv_signal_init(&sending->loop, &sending->signals[i]);
        sending->signals[i].data = sending;
        uv_signal_start(&sending->signals[i], on_signal, numbers[i]);
    }
}

static void follow(struct sending *sending, const struct config *config) {
    struct mqtt_subscription subscriptions[] = {
        {.filter = sending->response_topic, .qos = 1},
        {.filter = text_format("%s/" TOPIC_LOG TOPIC_DEVICES "+" TOPIC_QUEUE "+/+", sending->prefix),
         .qos = 1},
        {.filter = text_format("%s/" TOPIC_STATE TOPIC_DEVICES "+", sending->prefix), .qos = 1},
    };
    sending->link =
        mqtt_link_new(&sending->loop, config, subscriptions, 3, false, NULL, NULL, &handlers, sending);
    mqtt_link_start(sending->link);
    uv_run(&sending->loop, UV_RUN_DEFAULT);
    if (mqtt_link_is_connecting(sending->link)) {
        fflush(stdout);
        _exit(sending->code);
    }
    mqtt_link_free(sending->link);
    uv_loop_close(&sending->loop);
    free(subscriptions[1].filter);
    free(subscriptions[2].filter);
}

int sending_run(struct config *config, const char *device, json_t *commands, unsigned seconds) {
    static struct sending sending;
    uint64_t chance = 0;
    if (getrandom(&chance, sizeof chance, 0) < 0)
        must_have(NULL);
    sending = (struct sending){
        .prefix = config->mqtt.topic_prefix, .device = device, .commands = commands, .ended = json_object()};
    snprintf(sending.mark, sizeof sending.mark, "%016llx", (unsigned long long)chance);
    char *client_id =
        text_format("%s-send-%d-%04x", config->mqtt.client_id, (int)getpid(), (unsigned)(chance & 0xFFFF));
    config->mqtt.client_id = client_id;
    sending.response_topic = text_format(ANSWERS "%s", client_id);
    log_setup(config->log_level < LOG_WARNING ? config->log_level : LOG_WARNING, config->log_format, 0);
    mark_commands(&sending);
    look_into_registry(&sending, config->devices);
    set_up_loop(&sending, seconds);
    follow(&sending, config);
    free(sending.response_topic);
    free(sending.topic);
    json_decref(sending.ended);
    free(client_id);
    return sending.code;
}
