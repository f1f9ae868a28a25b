// Sending a command and following its life; see sending.h.
//
// First the devices that the broker retains tell which id the device has; then the command is published. What
// becomes of it comes as log entries and, with MQTT 5, on a response topic: whichever comes first is printed. A
// random text in the command's meta, which comes back with each of them, tells them from others.
//
// When the connection breaks, the broker keeps what comes meanwhile (a session). One that was restarted may have lost
// that: then the entries that it retains of waiting commands tell which of them have ended unheard.
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
#include "gateway/cli/step.h"
#include "gateway/commands/parse.h"
#include "gateway/config/registry.h"
#include "gateway/fleet/report.h"
#include "schema/schemas.h"

#define RESOLVE_TIME 3000 // milliseconds that the broker may take to say which devices there are
#define UNASKED_TIME                                                                                         \
    500 // the same without a word, when it does not let us ask whether that was all, or hear that
#define PUBLISH_TIME 10000 // milliseconds to publish when there is no time to wait
#define LOOK_TIME    10000 // milliseconds, after the connection broke, until a gateway has told what waits
#define ANSWERS      "answers/"
#define MARK         "send" // in meta

// READY: the device is known, and the command goes out as soon as the broker lets us.
enum phase { CONNECTING, RESOLVING, READY, PUBLISHING, FOLLOWING, ENDED };

// How well a device fits what was asked for.
enum fit { NO_FIT, BY_NAME, BY_ID, BY_IDENT };

struct sending {
    const char *prefix, *device;
    json_t *commands;
    uint64_t wait; // milliseconds
    char mark[24];
    char *response_topic, *topic, *queue_filter;
    enum phase phase;
    enum fit fit;
    int64_t id;                // of the device that fits
    const struct codec *codec; // that it speaks; NULL: not known
    bool ambiguous;
    bool broke;   // the connection did while the broker was asked: it may have been at the question
    bool taken;   // the broker has the command, or a gateway
    bool missed;  // the connection broke since it was published: some of its life may not have been heard
    bool refused; // a subscription was
    bool asked;   // the broker has taken our question
    bool heard;   // and given it back
    int question, mid;
    size_t executed, failed;
    json_t *known, *ended; // ids of commands that were queued, and of those that have ended, as keys
    json_t *standing;      // ids of those that the broker retains as waiting, since the connection broke
    uv_loop_t loop;
    uv_timer_t deadline, resolving, looking;
    uv_signal_t signals[2];
    struct mqtt_link *link;
    int code;
};

// --- ending ---

static void close_all(struct sending *sending) {
    uv_close((uv_handle_t *)&sending->deadline, NULL);
    uv_close((uv_handle_t *)&sending->resolving, NULL);
    uv_close((uv_handle_t *)&sending->looking, NULL);
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
    char *text = text_vformat(format, arguments), clean[2048];
    fprintf(stderr, "trackbus send: %s\n", clean_text(text, strlen(text), clean, sizeof clean));
    free(text);
    va_end(arguments);
    end(sending, code);
}

// How many commands have ended while nobody heard it.
static size_t count_lost(const struct sending *sending) {
    size_t lost = 0;
    const char *id;
    json_t *value;
    json_object_foreach(sending->known, id, value) {
        lost += json_object_get(sending->ended, id) == NULL && json_object_get(sending->standing, id) == NULL;
    }
    return sending->missed && mqtt_link_is_up(sending->link) ? lost : 0;
}

// What is known at the end, when it is not known that all have ended.
static void give_up_following(struct sending *sending) {
    size_t ended = sending->executed + sending->failed, all = json_array_size(sending->commands);
    bool heard = ended > 0 || json_object_size(sending->known) > 0;
    size_t lost = count_lost(sending);
    int code = sending->failed > 0 ? 1 : EXIT_WAITING;
    if (!heard && !sending->taken)
        fail(sending, code, "the broker has not confirmed the command: it may have arrived");
    else if (!heard && sending->wait == 0)
        fail(sending, code, "published; with --wait 0 nothing is waited for");
    else if (!heard && sending->missed)
        fail(sending, code,
             "published; then the connection broke, and nothing was heard of the command since");
    else if (!heard)
        fail(sending, code, "published, but no gateway has taken it in yet");
    else if (lost > 0)
        fail(sending, code,
             "%zu of %zu commands no longer stand at the broker: they ended while the connection was broken, "
             "or the "
             "gateway is not back; whether they were executed is not "
             "known",
             lost, all);
    else
        fail(sending, code, "still waiting: %zu of %zu command%s ended", ended, all,
             all == 1 ? " has" : "s have");
}

static void give_up(struct sending *sending) {
    if (sending->phase >= PUBLISHING)
        give_up_following(sending);
    else if (sending->phase == RESOLVING && sending->asked)
        fail(sending, 1, "not published: the broker has not yet told all devices that it knows");
    else
        fail(sending, 1, "not published: the broker %s",
             sending->phase == CONNECTING ? "cannot be reached" : "does not answer");
}

static void on_deadline(uv_timer_t *timer) {
    give_up(timer->data);
}

static void on_signal(uv_signal_t *handle, int number) {
    give_up(handle->data);
}

// --- which device ---

static enum fit fit_of(const struct sending *sending, const char *ident, const char *name, int64_t id) {
    char number[24];
    snprintf(number, sizeof number, "%lld", (long long)id);
    return strcmp(sending->device, ident) == 0                  ? BY_IDENT
           : strcmp(sending->device, number) == 0               ? BY_ID
           : name != NULL && strcmp(sending->device, name) == 0 ? BY_NAME
                                                                : NO_FIT;
}

static void take_candidate(struct sending *sending, const char *ident, const char *name, int64_t id,
                           const struct codec *codec) {
    enum fit fit = fit_of(sending, ident, name, id);
    if (fit == NO_FIT || fit < sending->fit)
        return;
    sending->ambiguous =
        fit == BY_NAME && sending->fit == BY_NAME && (sending->ambiguous || sending->id != id);
    sending->fit = fit;
    sending->id = id;
    sending->codec = codec;
}

static void look_into_registry(struct sending *sending, const struct config_devices *devices) {
    for (size_t i = 0; i < devices->count; i++)
        take_candidate(sending, devices->list[i].ident, devices->list[i].name, devices->list[i].id, NULL);
}

static void on_resolved(uv_timer_t *timer);

// The broker has our question: who may read it hears it soon. For who may not, a device that was found is enough;
// otherwise the broker gets its time.
static void expect_question(struct sending *sending) {
    if (sending->phase == RESOLVING && sending->asked && sending->fit != NO_FIT)
        uv_timer_start(&sending->resolving, on_resolved, UNASKED_TIME, 0);
}

static void take_identity(struct sending *sending, const struct mqtt_received *received) {
    struct report identity;
    json_t *json = json_loadb(received->payload, received->length, 0, NULL);
    json_int_t protocol = json_integer_value(json_object_get(json, "protocol_id"));
    if (sending->phase <= RESOLVING && json != NULL &&
        report_identity(&identity, received->payload, received->length) && identity.id >= 0)
        take_candidate(sending, identity.ident, identity.name, identity.id, codec_by_id((unsigned)protocol));
    expect_question(sending);
    json_decref(json);
}

// --- publishing ---

static char *list_commands(const struct codec *codec) {
    const char *name;
    json_t *schema;
    char *list = text_format("%s", "");
    json_object_foreach(json_object_get(schema_of_commands(codec->name), "$defs"), name, schema) {
        char *longer = text_format("%s%s%s", list, *list != '\0' ? ", " : "", name);
        free(list);
        list = longer;
    }
    return list;
}

// Whether the device's protocol, where it is known, has commands of these names. What else is wrong with one the gateway
// says.
static bool check_names(struct sending *sending) {
    const json_t *command;
    size_t i;
    json_array_foreach(sending->commands, i, command) {
        if (sending->codec == NULL || command_is_of(command, sending->codec))
            continue;
        char *list = list_commands(sending->codec);
        const char *name = json_string_value(json_object_get(command, "name"));
        char clean[80];
        fail(sending, 1, "not published: %s has no command \"%s\"; it has %s", sending->codec->name,
             clean_text(name, strlen(name), clean, sizeof clean), list);
        free(list);
        return false;
    }
    return true;
}

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
    switch (carrier->publish(carrier->context, &command, &sending->mid)) {
    case MQTT_SENT:
        sending->phase = PUBLISHING;
        break;
    case MQTT_NOT_NOW:
        break; // it goes out once the link is up again, or the broker lets us
    case MQTT_REFUSED:
        fail(sending, 1, "the command cannot be published: it is too large for the broker");
    }
    free(text);
}

// By the id where one is known.
static void choose_topics(struct sending *sending) {
    bool found = sending->fit != NO_FIT;
    int64_t id = found ? sending->id : device_default_id(sending->device);
    sending->topic =
        found ? text_format("%s/" TOPIC_COMMAND TOPIC_DEVICES "%lld", sending->prefix, (long long)id)
              : text_format("%s/" TOPIC_COMMAND TOPIC_DEVICES "%s", sending->prefix, sending->device);
    sending->queue_filter =
        text_format("%s/" TOPIC_STATE TOPIC_DEVICES "%lld" TOPIC_QUEUE "+", sending->prefix, (long long)id);
}

static void say_unheard(const struct sending *sending) {
    if (sending->asked && !sending->heard)
        fprintf(stderr,
                "trackbus send: nothing comes back from %s: may this user read " ANSWERS
                "#? The answer is taken "
                "from the log\n",
                sending->response_topic);
}

// What the broker retains has come, or does not come.
static void on_resolved(uv_timer_t *timer) {
    struct sending *sending = timer->data;
    say_unheard(sending);
    if (sending->ambiguous) {
        fail(sending, 1, "several devices are called '%s': use the ident", sending->device);
    } else if (sending->fit == NO_FIT && !device_ident_valid(sending->device)) {
        fail(sending, 1, "there is no device '%s'", sending->device);
    } else if (check_names(sending)) {
        choose_topics(sending);
        sending->phase = READY;
        publish(sending);
    }
}

// What we say to ourselves behind the subscriptions comes when all that is retained has come.
static void ask(struct sending *sending) {
    const struct mqtt_carrier *carrier = mqtt_link_carrier(sending->link);
    const struct mqtt_publish question = {
        .topic = sending->response_topic, .payload = "?", .length = 1, .qos = 1};
    uint64_t half = sending->wait / 2; // the other one is the command's
    sending->phase = RESOLVING;
    uv_timer_start(&sending->resolving, on_resolved, half > 0 && half < RESOLVE_TIME ? half : RESOLVE_TIME,
                   0);
    sending->question = 0;
    if (!sending->broke)
        carrier->publish(carrier->context, &question, &sending->question);
}

// --- its life ---

static const char *id_of(const json_t *entry, char id[24]) {
    snprintf(id, 24, "%lld", (long long)json_integer_value(json_object_get(entry, "id")));
    return id;
}

// It comes twice: as log entry and on the response topic. One that was rejected has an id as well.
static void take_end(struct sending *sending, const char *step, const json_t *entry) {
    char id[24];
    if (json_object_get(sending->ended, id_of(entry, id)) != NULL)
        return;
    json_object_set_new(sending->ended, id, json_true());
    step_print(step, entry);
    step_print_response(json_object_get(entry, "response"));
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

static void take_queued(struct sending *sending, const json_t *entry) {
    char id[24];
    if (json_object_get(sending->known, id_of(entry, id)) != NULL)
        return;
    json_object_set_new(sending->known, id, json_true());
    step_print("queued", entry);
}

static void take_step(struct sending *sending, const char *step, const json_t *entry) {
    sending->taken = true;
    if (strcmp(step, "queued") == 0)
        take_queued(sending, entry);
    else if (strcmp(step, "sent") == 0)
        step_print(step, entry);
    else
        take_end(sending, step, entry);
    fflush(stdout);
}

// What the broker retains of a command that waits. Of one whose end was not heard it may still say how it ended.
static void take_standing(struct sending *sending, const json_t *entry) {
    const char *state = json_string_value(json_object_get(entry, "state"));
    char id[24];
    json_object_set_new(sending->standing, id_of(entry, id), json_true());
    if (state != NULL && (strcmp(state, "queued") == 0 || strcmp(state, "sent") == 0))
        take_step(sending, "queued", entry);
}

static void take_entry(struct sending *sending, const struct mqtt_received *received) {
    const char *topic = topic_after(received->topic, sending->prefix);
    json_t *entry = json_loadb(received->payload, received->length, 0, NULL);
    const char *mark = json_string_value(json_object_get(json_object_get(entry, "meta"), MARK));
    bool answer = strcmp(received->topic, sending->response_topic) == 0;
    if (sending->phase < PUBLISHING || sending->phase == ENDED || !json_is_object(entry))
        ; // not ours
    else if (answer)
        take_step(sending, end_of(entry), entry);
    else if (mark == NULL || strcmp(mark, sending->mark) != 0)
        ; // somebody else's
    else if (topic_after(topic, "/" TOPIC_STATE) != NULL)
        take_standing(sending, entry);
    else
        take_step(sending, strrchr(received->topic, '/') + 1, entry);
    json_decref(entry);
}

// --- when the connection broke ---

// By now a gateway has given a broker that forgot what waits all of it again.
static void on_looked(uv_timer_t *timer) {
    struct sending *sending = timer->data;
    size_t lost = count_lost(sending), ended = sending->executed + sending->failed;
    bool nothing = !sending->taken && json_object_size(sending->known) == 0;
    if (sending->phase == FOLLOWING && (nothing || lost + ended >= json_array_size(sending->commands)))
        give_up_following(sending);
}

static void look(struct sending *sending) {
    json_object_clear(sending->standing);
    mqtt_link_subscribe(sending->link, sending->queue_filter);
    uv_timer_start(&sending->looking, on_looked, LOOK_TIME, 0);
}

// --- the link ---

static bool is_identity(const struct sending *sending, const struct mqtt_received *received) {
    const char *topic = topic_after(received->topic, sending->prefix);
    const char *id = topic != NULL ? topic_after(topic, "/" TOPIC_STATE TOPIC_DEVICES) : NULL;
    return id != NULL && strchr(id, '/') == NULL;
}

static void on_received(void *context, const struct mqtt_received *received) {
    struct sending *sending = context;
    bool echo = sending->phase == RESOLVING && strcmp(received->topic, sending->response_topic) == 0;
    sending->heard = sending->heard || echo;
    if (echo)
        uv_timer_start(&sending->resolving, on_resolved, 0, 0);
    else if (is_identity(sending, received))
        take_identity(sending, received);
    else
        take_entry(sending, received);
}

static void on_ready(void *context) {
    struct sending *sending = context;
    if (sending->phase == READY)
        publish(sending);
}

static void on_up(void *context) {
    struct sending *sending = context;
    if (sending->phase == CONNECTING)
        ask(sending);
    else if (sending->phase == FOLLOWING)
        look(sending);
    else
        on_ready(context);
}

static void on_down(void *context, enum mqtt_end end) {
    struct sending *sending = context;
    if (sending->phase == RESOLVING) {
        uv_timer_stop(&sending->resolving);
        sending->phase = CONNECTING;
        sending->broke = true;
    } else if (sending->phase == PUBLISHING || sending->phase == FOLLOWING) {
        uv_timer_stop(&sending->looking);
        sending->phase = FOLLOWING;
        sending->missed = true;
    }
}

static void take_confirmation(struct sending *sending, enum mqtt_answer answer, const char *reason) {
    if (answer != MQTT_TAKEN) {
        fail(sending, 1, "the broker does not take the command: %s", reason);
        return;
    }
    sending->phase = FOLLOWING;
    sending->taken = true;
    if (sending->wait == 0)
        give_up(sending);
}

// A broker that does not take it gets a little time without it.
static void take_question(struct sending *sending, enum mqtt_answer answer) {
    sending->asked = answer == MQTT_TAKEN;
    if (sending->asked)
        expect_question(sending);
    else
        uv_timer_start(&sending->resolving, on_resolved, UNASKED_TIME, 0);
}

static void on_published(void *context, int mid, enum mqtt_answer answer, const char *reason) {
    struct sending *sending = context;
    if (sending->phase == PUBLISHING && mid == sending->mid)
        take_confirmation(sending, answer, reason);
    else if (sending->phase == RESOLVING && mid == sending->question && !sending->heard)
        take_question(sending, answer);
}

static void on_granted(void *context, const struct mqtt_subscription *subscription, bool granted) {
    struct sending *sending = context;
    if (!granted && !sending->refused)
        fprintf(stderr, "trackbus send: the broker does not let us read %s: not all is heard\n",
                subscription->filter);
    sending->refused = sending->refused || !granted;
}

static void on_connected(void *context) {
}

static const struct mqtt_link_handlers handlers = {.somebody_waits = true,
                                                   .purpose = "send",
                                                   .connected = on_connected,
                                                   .up = on_up,
                                                   .down = on_down,
                                                   .published = on_published,
                                                   .received = on_received,
                                                   .ready = on_ready,
                                                   .granted = on_granted};

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

static void set_up_loop(struct sending *sending) {
    static const int numbers[] = {SIGINT, SIGTERM};
    uv_loop_init(&sending->loop);
    uv_timer_init(&sending->loop, &sending->deadline);
    uv_timer_init(&sending->loop, &sending->resolving);
    uv_timer_init(&sending->loop, &sending->looking);
    sending->deadline.data = sending->resolving.data = sending->looking.data = sending;
    uv_timer_start(&sending->deadline, on_deadline, sending->wait > 0 ? sending->wait : PUBLISH_TIME, 0);
    for (size_t i = 0; i < 2; i++) {
        uv_signal_init(&sending->loop, &sending->signals[i]);
        sending->signals[i].data = sending;
        uv_signal_start(&sending->signals[i], on_signal, numbers[i]);
    }
}

static void run(struct sending *sending, const struct config *config) {
    struct mqtt_subscription subscriptions[] = {
        {.filter = sending->response_topic, .qos = 1},
        {.filter = text_format("%s/" TOPIC_LOG TOPIC_DEVICES "+" TOPIC_QUEUE "+/+", sending->prefix),
         .qos = 1},
        {.filter = text_format("%s/" TOPIC_STATE TOPIC_DEVICES "+", sending->prefix), .qos = 1},
    };
    sending->link = mqtt_link_new(&sending->loop, config, subscriptions, 3, MQTT_SESSION_BRIEF, NULL, NULL,
                                  &handlers, sending);
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

static void free_parts(struct sending *sending) {
    free(sending->response_topic);
    free(sending->topic);
    free(sending->queue_filter);
    json_decref(sending->known);
    json_decref(sending->ended);
    json_decref(sending->standing);
}

int sending_run(struct config *config, const char *device, json_t *commands, unsigned seconds) {
    static struct sending sending;
    uint64_t chance = 0;
    if (getrandom(&chance, sizeof chance, 0) < 0)
        must_have(NULL);
    sending = (struct sending){.prefix = config->mqtt.topic_prefix,
                               .device = device,
                               .commands = commands,
                               .wait = seconds * 1000ULL,
                               .known = json_object(),
                               .ended = json_object(),
                               .standing = json_object()};
    snprintf(sending.mark, sizeof sending.mark, "%016llx", (unsigned long long)chance);
    char *client_id =
        text_format("%s-send-%d-%04x", config->mqtt.client_id, (int)getpid(), (unsigned)(chance & 0xFFFF));
    config->mqtt.client_id = client_id;
    sending.response_topic = text_format(ANSWERS "%s", client_id);
    log_setup(config->log_level < LOG_WARNING ? config->log_level : LOG_WARNING, config->log_format, 0);
    mark_commands(&sending);
    look_into_registry(&sending, config->devices);
    set_up_loop(&sending);
    run(&sending, config);
    free_parts(&sending);
    free(client_id);
    return sending.code;
}
