// Collecting a capture; see capturing.h.
//
// The request carries a name of our own, `by`, which comes back with each chunk. It is repeated while the capture runs:
// a gateway that was started meanwhile, or was away, then takes part too.
#include "gateway/cli/capturing.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <uv.h>

#include "gateway/base/clean.h"
#include "gateway/base/clock.h"
#include "gateway/base/hex.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/mqtt_link.h"
#include "gateway/broker/topic.h"
#include "gateway/cli/anonymize.h"
#include "gateway/cli/capture_file.h"
#include "gateway/config/ident.h"
#include "gateway/fleet/report.h"

#define REPEAT_TIME 20000 // milliseconds between requests
#define ANSWER_TIME 5000  // the same that the gateways may take to take part
#define END_TIME    3000  // the same to say that it has ended
#define LOOK_TIME   1000  // of silence after which all devices and channels that the broker knows have come
#define QUOTE_MAX   44
#define TOPICS      5 // that are subscribed to

enum phase { CONNECTING, RUNNING, ENDING, ENDED };

struct capturing {
    const struct capture_order *order;
    const char *prefix;
    char by[24];
    char *topic;
    enum phase phase;
    struct capture_file *file;
    json_t *gateways; // that take part, by name: how often each has begun
    json_t *times;    // of the last chunk of each connection and direction, microseconds
    json_t *channels; // that there are, by name
    bool known;       // what is to be captured
    size_t left_out;
    bool failed;
    bool warned;    // of an ident that is too short
    uint64_t until; // by uv_now()
    uv_loop_t loop;
    uv_timer_t deadline, repeat, answer, looking;
    uv_signal_t signals[2];
    struct mqtt_link *link;
};

// --- ending ---

static void close_all(struct capturing *capturing) {
    uv_close((uv_handle_t *)&capturing->deadline, NULL);
    uv_close((uv_handle_t *)&capturing->repeat, NULL);
    uv_close((uv_handle_t *)&capturing->answer, NULL);
    uv_close((uv_handle_t *)&capturing->looking, NULL);
    for (size_t i = 0; i < 2; i++)
        uv_close((uv_handle_t *)&capturing->signals[i], NULL);
    mqtt_link_stop(capturing->link);
    if (mqtt_link_is_connecting(capturing->link))
        uv_stop(&capturing->loop); // on a thread, which cannot be interrupted
}

static void on_end(uv_timer_t *timer) {
    close_all(timer->data);
}

// Not at once: we may have been called by the link.
static void end(struct capturing *capturing) {
    if (capturing->phase == ENDED)
        return;
    capturing->phase = ENDED;
    uv_timer_start(&capturing->deadline, on_end, 0, 0);
}

__attribute__((format(printf, 2, 3))) static void fail(struct capturing *capturing, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = text_vformat(format, arguments), clean[2048];
    fprintf(stderr, "trackbus capture: %s\n", clean_text(text, strlen(text), clean, sizeof clean));
    free(text);
    va_end(arguments);
    capturing->failed = true;
    end(capturing);
}

// --- asking ---

static bool request(struct capturing *capturing, unsigned seconds) {
    json_t *json = json_pack("{s:s, s:I, s:s}", capturing->order->kind, capturing->order->text, "seconds",
                             (json_int_t)seconds, "by", capturing->by);
    char *text = text_of_json(json, TEXT_VALUE_DIGITS);
    const struct mqtt_publish publish = {
        .topic = capturing->topic, .payload = text, .length = strlen(text), .qos = 1};
    const struct mqtt_carrier *carrier = mqtt_link_carrier(capturing->link);
    int mid;
    bool sent =
        mqtt_link_is_up(capturing->link) && carrier->publish(carrier->context, &publish, &mid) == MQTT_SENT;
    free(text);
    json_decref(json);
    return sent;
}

// For what is left, in whole seconds.
static void on_repeat(uv_timer_t *timer) {
    struct capturing *capturing = timer->data;
    uint64_t now = uv_now(&capturing->loop);
    if (capturing->phase == RUNNING && capturing->until > now)
        request(capturing, (unsigned)((capturing->until - now + 999) / 1000));
}

static void on_deadline(uv_timer_t *timer);

// The gateways say how much they have left out.
static void stop(struct capturing *capturing) {
    if (capturing->phase != RUNNING || !request(capturing, 0)) {
        end(capturing);
        return;
    }
    capturing->phase = ENDING;
    uv_timer_start(&capturing->deadline, on_deadline,
                   json_object_size(capturing->gateways) > 0 ? END_TIME : 0, 0);
}

static void on_deadline(uv_timer_t *timer) {
    struct capturing *capturing = timer->data;
    if (capturing->phase == CONNECTING)
        fail(capturing, "the broker cannot be reached");
    else
        stop(capturing);
}

static void on_signal(uv_signal_t *handle, int number) {
    stop(handle->data);
}

// --- whether there is what is to be captured ---

static void give_up_channel(struct capturing *capturing) {
    const char *name, *joint = "";
    json_t *value;
    char text[CAPTURE_LABEL_MAX];
    fprintf(stderr, "trackbus capture: there is no channel '%s'; there are: ",
            clean_text(capturing->order->text, strlen(capturing->order->text), text, sizeof text));
    json_object_foreach(capturing->channels, name, value) {
        fprintf(stderr, "%s%s", joint, clean_text(name, strlen(name), text, sizeof text));
        joint = ", ";
    }
    fputc('\n', stderr);
    capturing->failed = true;
    stop(capturing);
}

// An ident may be that of a device which has never been heard.
static void miss_device(struct capturing *capturing) {
    char text[CAPTURE_LABEL_MAX];
    const char *device = capturing->order->text;
    clean_text(device, strlen(device), text, sizeof text);
    if (device_ident_valid(device)) {
        fprintf(stderr, "trackbus capture: no device '%s' is known so far; waiting for one with this ident\n",
                text);
        return;
    }
    fprintf(stderr, "trackbus capture: there is no device '%s'\n", text);
    capturing->failed = true;
    stop(capturing);
}

static void on_looked(uv_timer_t *timer) {
    struct capturing *capturing = timer->data;
    const char *kind = capturing->order->kind;
    if (capturing->known || capturing->phase != RUNNING)
        return;
    if (strcmp(kind, "device") == 0)
        miss_device(capturing);
    else if (strcmp(kind, "channel") == 0 && json_object_size(capturing->channels) > 0)
        give_up_channel(capturing);
}

// What the broker retains was asked for before the gateways were: once one has answered, it is coming.
static void look(struct capturing *capturing) {
    if (json_object_size(capturing->gateways) > 0 && !capturing->known)
        uv_timer_start(&capturing->looking, on_looked, LOOK_TIME, 0);
}

static void take_channel(struct capturing *capturing, const json_t *channel) {
    const char *name = json_string_value(json_object_get(channel, "name"));
    if (name == NULL)
        return;
    json_object_set_new(capturing->channels, name, json_true());
    capturing->known = capturing->known || (strcmp(capturing->order->kind, "channel") == 0 &&
                                            strcmp(capturing->order->text, name) == 0);
}

static void take_device(struct capturing *capturing, const struct mqtt_received *received) {
    struct report identity;
    char id[24];
    const char *text = capturing->order->text;
    if (!report_identity(&identity, received->payload, received->length))
        return;
    snprintf(id, sizeof id, "%lld", (long long)identity.id);
    capturing->known = capturing->known || strcmp(text, identity.ident) == 0 || strcmp(text, id) == 0 ||
                       strcmp(text, identity.name) == 0;
}

// topic is what follows state/gw/.
static void take_state(struct capturing *capturing, const char *topic, const struct mqtt_received *received) {
    json_t *channel = topic_after(topic, TOPIC_CHANNELS) != NULL
                          ? json_loadb(received->payload, received->length, 0, NULL)
                          : NULL;
    if (channel != NULL)
        take_channel(capturing, channel);
    else
        take_device(capturing, received);
    look(capturing);
    json_decref(channel);
}

static void on_unanswered(uv_timer_t *timer) {
    const struct capturing *capturing = timer->data;
    if (capturing->phase == RUNNING && json_object_size(capturing->gateways) == 0)
        fprintf(
            stderr,
            "trackbus capture: no gateway has answered: does one run, and may it read %s? Still waiting\n",
            capturing->topic);
}

// --- what the gateways say ---

static const char *text_at(const json_t *entry, const char *key) {
    const char *text = json_string_value(json_object_get(entry, key));
    return text != NULL ? text : "";
}

// Copies a text of the broker's to out, cleaned for the terminal and for a line of the file.
static const char *clean_at(const json_t *entry, const char *key, char *out, size_t capacity) {
    const char *text = text_at(entry, key);
    clean_text(text, strlen(text), out, capacity);
    for (char *c = out; *c != '\0'; c++)
        *c = *c == ' ' ? '_' : *c;
    return out;
}

static void take_started(struct capturing *capturing, const json_t *entry, const char *gateway) {
    json_int_t times = json_integer_value(json_object_get(capturing->gateways, gateway));
    json_object_set_new(capturing->gateways, gateway, json_integer(times + 1));
    fprintf(stderr, "gateway %s captures for %lld s\n", gateway,
            (long long)json_integer_value(json_object_get(entry, "seconds")));
    look(capturing);
}

static void take_ended(struct capturing *capturing, const json_t *entry, const char *gateway) {
    json_int_t left_out = json_integer_value(json_object_get(entry, "left_out"));
    capturing->left_out += left_out > 0 ? (size_t)left_out : 0;
    json_object_del(capturing->gateways, gateway);
    if (json_object_size(capturing->gateways) == 0 && capturing->phase == ENDING)
        end(capturing);
}

static void take_word(struct capturing *capturing, const char *word, const json_t *entry) {
    char gateway[CAPTURE_LABEL_MAX / 2];
    if (strcmp(text_at(entry, "by"), capturing->by) != 0)
        return;
    clean_at(entry, "instance", gateway, sizeof gateway);
    if (strcmp(word, "started") == 0)
        take_started(capturing, entry, gateway);
    else if (strcmp(word, "ended") == 0)
        take_ended(capturing, entry, gateway);
    else if (strcmp(word, "refused") == 0)
        fail(capturing, "gateway %s refuses: %s", gateway, text_at(entry, "reason"));
}

// --- chunks ---

static bool is_ours(const struct capturing *capturing, const json_t *entry) {
    const json_t *name;
    size_t i;
    json_array_foreach(json_object_get(entry, "by"), i, name) {
        if (json_is_string(name) && strcmp(json_string_value(name), capturing->by) == 0)
            return true;
    }
    return false;
}

// A gateway that was started again counts its connections from the beginning.
static size_t find_connection(struct capturing *capturing, const json_t *entry, unsigned long long number) {
    char gateway[CAPTURE_LABEL_MAX / 2], label[CAPTURE_LABEL_MAX];
    clean_at(entry, "instance", gateway, sizeof gateway);
    json_int_t times = json_integer_value(json_object_get(capturing->gateways, gateway));
    snprintf(label, sizeof label, times > 1 ? "%s/%llu/%lld" : "%s/%llu", gateway, number, (long long)times);
    size_t place =
        capture_file_connection(capturing->file, label, strcmp(text_at(entry, "transport"), "udp") == 0);
    struct capture_connection *connection = &capturing->file->connections[place];
    connection->channel_id = json_integer_value(json_object_get(entry, "channel_id"));
    connection->codec = codec_find(text_at(entry, "protocol_name"));
    clean_at(entry, "source", connection->source, sizeof connection->source);
    if (json_object_get(entry, "ident") != NULL)
        clean_at(entry, "ident", connection->ident, sizeof connection->ident);
    return place;
}

// What is published at QoS 1 may come twice.
static bool is_repeat(struct capturing *capturing, const struct capture_chunk *chunk) {
    const struct capture_connection *connection = &capturing->file->connections[chunk->connection];
    char key[CAPTURE_LABEL_MAX + 4];
    snprintf(key, sizeof key, "%s %d%d", connection->label, connection->udp, chunk->sent);
    json_int_t last = json_integer_value(json_object_get(capturing->times, key));
    if (chunk->time <= last && chunk->offset < connection->next[chunk->sent])
        return true;
    json_object_set_new(capturing->times, key, json_integer(chunk->time));
    return false;
}

static void print_chunk(const struct capturing *capturing, const struct capture_chunk *chunk) {
    const struct capture_connection *connection = &capturing->file->connections[chunk->connection];
    char time[CAPTURE_TIME_TEXT], quote[QUOTE_MAX];
    capture_time(chunk->time, time);
    fprintf(stderr, "%.12s  %s  %5zu bytes  %s %s  %s  %s\n", time + strlen("2026-11-26T"),
            chunk->sent ? "send" : "recv", chunk->length, connection->udp ? "udp" : "tcp", connection->source,
            connection->ident[0] != '\0' ? connection->ident : "-",
            log_quote(chunk->bytes, chunk->length, quote, sizeof quote));
}

// As soon as it is known, and not after an hour.
static void warn_of_short_ident(struct capturing *capturing, const char *ident) {
    if (!capturing->order->anonymize || capturing->warned || *ident == '\0' || anonymize_can(ident))
        return;
    capturing->warned = true;
    fprintf(stderr,
            "trackbus capture: the connections of '%s' will be left out of the file: without at least %d "
            "characters an ident cannot be told from other bytes\n",
            ident, ANONYMIZE_IDENT_MIN);
}

static void take_chunk(struct capturing *capturing, unsigned long long number, bool sent,
                       const json_t *entry) {
    const char *packet = text_at(entry, "packet");
    struct capture_chunk chunk = {.sent = sent, .length = strlen(packet) / 2};
    if (!is_ours(capturing, entry))
        return;
    chunk.bytes = must_have(malloc(chunk.length + 1));
    chunk.connection = find_connection(capturing, entry, number);
    chunk.offset = (uint64_t)json_integer_value(json_object_get(entry, "offset"));
    chunk.time = llround(json_number_value(json_object_get(entry, "timestamp")) * 1e6);
    if (!hex_read(packet, strlen(packet), chunk.bytes) || is_repeat(capturing, &chunk)) {
        free(chunk.bytes);
        return;
    }
    print_chunk(capturing, &chunk);
    warn_of_short_ident(capturing, capturing->file->connections[chunk.connection].ident);
    capture_file_add(capturing->file, chunk);
}

// topic is what follows log/gw/channels/.
static void take_bytes(struct capturing *capturing, const char *topic, const json_t *entry) {
    unsigned long long number;
    char direction[8];
    if (sscanf(topic, "%*d" TOPIC_CONNECTIONS "%llu/%7s", &number, direction) == 2)
        take_chunk(capturing, number, strcmp(direction, "send") == 0, entry);
}

static void on_received(void *context, const struct mqtt_received *received) {
    struct capturing *capturing = context;
    const char *topic = received->topic + strlen(capturing->prefix) + 1; // as subscribed
    const char *word = topic_after(topic, TOPIC_LOG TOPIC_CAPTURES);
    const char *bytes = topic_after(topic, TOPIC_LOG TOPIC_CHANNELS),
               *state = topic_after(topic, TOPIC_STATE);
    if (state != NULL) {
        take_state(capturing, state, received);
        return;
    }
    json_t *entry = json_loadb(received->payload, received->length, 0, NULL);
    if (capturing->phase != ENDED && word != NULL)
        take_word(capturing, word, entry);
    else if (capturing->phase != ENDED && bytes != NULL)
        take_bytes(capturing, bytes, entry);
    json_decref(entry);
}

// --- the link ---

// The time counts from the first request on.
static void begin(struct capturing *capturing) {
    uint64_t time = capturing->order->seconds * 1000ULL;
    capturing->phase = RUNNING;
    capturing->until = uv_now(&capturing->loop) + time;
    uv_timer_start(&capturing->deadline, on_deadline, time, 0);
    uv_timer_start(&capturing->answer, on_unanswered, ANSWER_TIME, 0);
}

static void on_up(void *context) {
    struct capturing *capturing = context;
    if (capturing->phase == CONNECTING)
        begin(capturing);
    uv_timer_start(&capturing->repeat, on_repeat, 0, REPEAT_TIME);
}

static void on_down(void *context, enum mqtt_end end) {
    const struct capturing *capturing = context;
    if (capturing->phase == RUNNING)
        fputs("trackbus capture: the connection to the broker is lost; retrying\n", stderr);
}

static void on_published(void *context, int mid, enum mqtt_answer answer, const char *reason) {
    if (answer == MQTT_NOT_TAKEN || answer == MQTT_NEVER_TAKEN)
        fail(context, "the broker does not take the request: %s", reason);
}

static void on_granted(void *context, const struct mqtt_subscription *subscription, bool granted) {
    const struct capturing *capturing = context;
    const char *topic = topic_after(subscription->filter, capturing->prefix);
    if (!granted && topic_after(topic, "/" TOPIC_STATE) == NULL) // that only tells of what there is not
        fail(context, "the broker does not let us read %s", subscription->filter);
}

static void on_connected(void *context) {
}

static const struct mqtt_link_handlers handlers = {.somebody_waits = true,
                                                   .purpose = "capture",
                                                   .connected = on_connected,
                                                   .up = on_up,
                                                   .down = on_down,
                                                   .published = on_published,
                                                   .received = on_received,
                                                   .granted = on_granted};

// --- the file ---

static bool write_file(const struct capturing *capturing) {
    const char *name = capturing->order->file;
    FILE *out = name != NULL ? fopen(name, "w") : stdout;
    bool written = out != NULL;
    if (written) {
        capture_file_write(capturing->file, out);
        written = fflush(out) == 0 && ferror(out) == 0;
    }
    if (out != NULL && out != stdout)
        written = fclose(out) == 0 && written;
    if (!written)
        fprintf(stderr, "trackbus capture: cannot write %s: %s\n", name != NULL ? name : "standard output",
                strerror(errno));
    return written;
}

static void print_end(const struct capturing *capturing) {
    size_t bytes = 0;
    for (size_t i = 0; i < capturing->file->chunk_count; i++)
        bytes += capturing->file->chunks[i].length;
    fprintf(stderr, "%zu chunk%s of %zu connection%s, %zu bytes", capturing->file->chunk_count,
            TEXT_S(capturing->file->chunk_count), capturing->file->connection_count,
            TEXT_S(capturing->file->connection_count), bytes);
    if (capturing->left_out > 0)
        fprintf(stderr, "; %zu more bytes were left out (limits of captures)", capturing->left_out);
    if (json_object_size(capturing->gateways) > 0)
        fputs("; not every gateway has said that it has ended", stderr);
    fputc('\n', stderr);
}

static int finish(struct capturing *capturing) {
    char *left_out = capturing->order->anonymize ? anonymize(capturing->file) : NULL;
    if (left_out != NULL)
        fprintf(stderr, "trackbus capture: %s\n", left_out);
    print_end(capturing);
    // Nothing takes the place of what was in the file before.
    bool written = capturing->file->chunk_count == 0 || write_file(capturing);
    if (capturing->file->chunk_count == 0)
        fprintf(stderr, "trackbus capture: %s\n", left_out != NULL ? "nothing is left" : "nothing came");
    free(left_out);
    return written && !capturing->failed && capturing->file->chunk_count > 0 ? 0 : 1;
}

// --- the whole ---

static void set_up_loop(struct capturing *capturing) {
    static const int numbers[] = {SIGINT, SIGTERM};
    uv_timer_t *timers[] = {&capturing->deadline, &capturing->repeat, &capturing->answer,
                            &capturing->looking};
    uv_loop_init(&capturing->loop);
    for (size_t i = 0; i < 4; i++) {
        uv_timer_init(&capturing->loop, timers[i]);
        timers[i]->data = capturing;
    }
    uv_timer_start(&capturing->deadline, on_deadline, capturing->order->seconds * 1000ULL, 0);
    for (size_t i = 0; i < 2; i++) {
        uv_signal_init(&capturing->loop, &capturing->signals[i]);
        capturing->signals[i].data = capturing;
        uv_signal_start(&capturing->signals[i], on_signal, numbers[i]);
    }
}

// False when a thread still connects, which cannot be called back: then nothing may be freed.
static bool run(struct capturing *capturing, const struct config *config) {
    static const char *const topics[TOPICS] = {TOPIC_LOG TOPIC_CAPTURES "+",
                                               TOPIC_LOG TOPIC_CHANNELS "+" TOPIC_CONNECTIONS "+/recv",
                                               TOPIC_LOG TOPIC_CHANNELS "+" TOPIC_CONNECTIONS "+/send",
                                               TOPIC_STATE TOPIC_DEVICES "+", TOPIC_STATE TOPIC_CHANNELS "+"};
    struct mqtt_subscription subscriptions[TOPICS];
    for (size_t i = 0; i < TOPICS; i++)
        subscriptions[i] = (struct mqtt_subscription){
            .filter = text_format("%s/%s", capturing->prefix, topics[i]), .qos = 1};
    capturing->link = mqtt_link_new(&capturing->loop, config, subscriptions, TOPICS, MQTT_SESSION_BRIEF, NULL,
                                    NULL, &handlers, capturing);
    mqtt_link_start(capturing->link);
    uv_run(&capturing->loop, UV_RUN_DEFAULT);
    if (mqtt_link_is_connecting(capturing->link))
        return false;
    mqtt_link_free(capturing->link);
    uv_loop_close(&capturing->loop);
    for (size_t i = 0; i < TOPICS; i++)
        free(subscriptions[i].filter);
    return true;
}

static void free_parts(struct capturing *capturing) {
    capture_file_free(capturing->file);
    json_decref(capturing->gateways);
    json_decref(capturing->times);
    json_decref(capturing->channels);
    free(capturing->topic);
}

static void name_file(struct capturing *capturing) {
    char time[CAPTURE_TIME_TEXT], text[160];
    const struct capture_order *order = capturing->order;
    capturing->file->title = text_format("%s %s, from %s, trackbus " TRACKBUS_VERSION, order->kind,
                                         clean_text(order->text, strlen(order->text), text, sizeof text),
                                         capture_time(clock_now(), time));
}

int capturing_run(struct config *config, const struct capture_order *order) {
    static struct capturing capturing;
    uint64_t chance = 0;
    if (getrandom(&chance, sizeof chance, 0) < 0)
        must_have(NULL);
    capturing = (struct capturing){.order = order,
                                   .prefix = config->mqtt.topic_prefix,
                                   .file = capture_file_new(),
                                   .gateways = json_object(),
                                   .times = json_object(),
                                   .channels = json_object()};
    snprintf(capturing.by, sizeof capturing.by, "%016llx", (unsigned long long)chance);
    capturing.topic = text_format("%s/" TOPIC_REQUEST TOPIC_CAPTURE, capturing.prefix);
    char *client_id =
        text_format("%s-capture-%d-%04x", config->mqtt.client_id, (int)getpid(), (unsigned)(chance & 0xFFFF));
    config->mqtt.client_id = client_id;
    log_setup(config->log_level < LOG_WARNING ? config->log_level : LOG_WARNING, config->log_format, 0);
    name_file(&capturing);
    set_up_loop(&capturing);
    bool ended = run(&capturing, config);
    int code = finish(&capturing);
    if (!ended)
        _exit(code);
    free_parts(&capturing);
    free(client_id);
    return code;
}
