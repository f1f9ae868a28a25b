// Captures; see captures.h.
#include "gateway/channels/captures.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "gateway/base/clock.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"

#define CAPTURES_MAX 64    // as many as there are bits
#define NAME_MAX_    128   // bytes of what a request asks for
#define MINUTE       60000 // milliseconds

enum kind { BY_DEVICE, BY_CHANNEL, BY_ADDRESS, KINDS };

static const char *const kind_names[KINDS] = {"device", "channel", "address"};

struct capture {
    enum kind kind;
    uint64_t bit;                        // no other that runs has it
    char text[NAME_MAX_], by[NAME_MAX_]; // by: who asked; empty when that was not said
    unsigned char ip[16];                // BY_ADDRESS
    uint64_t until;                      // by uv_now()
    uint64_t bytes, left_out;
    struct capture *prev, *next;
};

// What devices are called in requests.
struct asked {
    char text[NAME_MAX_];
    uint64_t bits; // of the captures that call one so
    UT_hash_handle hh;
};

// What was published of a device in this minute.
struct usage {
    char key[CODEC_IDENT_MAX + 1]; // its ident, or the IP address of one that has not said it
    size_t bytes;
    UT_hash_handle hh;
};

struct captures {
    uv_loop_t *loop;
    const struct bus *bus;
    uv_timer_t timer; // the end of the next one
    struct capture *list;
    unsigned count; // of these
    uint64_t bits;  // of all that run
    struct asked *asked;
    uint64_t asked_changed; // how often that has
    size_t looks;           // for a device in it
    uint64_t minute;        // when this one began, by uv_now()
    size_t bytes, chunks;   // in this minute
    struct usage *usages;
};

// --- what is said about them ---

static json_t *describe(const struct captures *captures, const struct capture *capture) {
    json_t *entry = json_pack("{s:f, s:s, s:s}", "timestamp", (double)clock_now() / 1e6, "instance",
                              bus_client_id(captures->bus), kind_names[capture->kind], capture->text);
    if (capture->by[0] != '\0')
        json_object_set_new(entry, "by", json_string(capture->by));
    return entry;
}

static void publish(const struct captures *captures, json_t *entry, const char *event) {
    bus_publish(captures->bus, entry, MQTT_NOT_RETAINED, TOPIC_LOG TOPIC_CAPTURES "%s", event);
    json_decref(entry);
}

static void tell_started(const struct captures *captures, const struct capture *capture, unsigned seconds) {
    json_t *entry = describe(captures, capture);
    json_object_set_new(entry, "seconds", json_integer(seconds));
    publish(captures, entry, "started");
    log_info("capture of %s '%s' started, for %u s: who may read the broker's log entries sees its bytes",
             kind_names[capture->kind], capture->text, seconds);
}

static void tell_ended(const struct captures *captures, const struct capture *capture) {
    json_t *entry = describe(captures, capture);
    json_object_set_new(entry, "bytes", json_integer((json_int_t)capture->bytes));
    json_object_set_new(entry, "left_out", json_integer((json_int_t)capture->left_out));
    publish(captures, entry, "ended");
    log_info("capture of %s '%s' ended: %llu bytes published, %llu left out", kind_names[capture->kind],
             capture->text, (unsigned long long)capture->bytes, (unsigned long long)capture->left_out);
}

static void refuse(const struct captures *captures, const struct capture *capture, const char *why) {
    json_t *entry = json_pack("{s:f, s:s, s:s}", "timestamp", (double)clock_now() / 1e6, "instance",
                              bus_client_id(captures->bus), "reason", why);
    if (capture->by[0] != '\0')
        json_object_set_new(entry, "by", json_string(capture->by));
    publish(captures, entry, "refused");
    log_about("capture", LOG_WARNING, "capture refused: %s", why);
}

// --- which devices are asked for ---

static struct asked *find_asked(const struct captures *captures, const char *text) {
    struct asked *asked;
    HASH_FIND_STR(captures->asked, text, asked);
    return asked;
}

static void ask(struct captures *captures, const struct capture *capture) {
    struct asked *asked = find_asked(captures, capture->text);
    if (asked == NULL) {
        asked = must_have(calloc(1, sizeof *asked));
        strcpy(asked->text, capture->text);
        HASH_ADD_STR(captures->asked, text, asked);
    }
    asked->bits |= capture->bit;
    captures->asked_changed++;
}

static void ask_no_more(struct captures *captures, const struct capture *capture) {
    struct asked *asked = find_asked(captures, capture->text);
    asked->bits &= ~capture->bit;
    captures->asked_changed++;
    if (asked->bits != 0)
        return;
    HASH_DEL(captures->asked, asked);
    free(asked);
}

static uint64_t bits_of(const struct captures *captures, const char *text) {
    const struct asked *asked = find_asked(captures, text);
    return asked != NULL ? asked->bits : 0;
}

uint64_t captures_of(struct captures *captures, const char *ident, const struct device *device) {
    char id[24];
    if (!captures_follow(captures))
        return 0;
    captures->looks++;
    if (!device->known)
        return bits_of(captures, ident);
    snprintf(id, sizeof id, "%lld", (long long)device->id);
    return bits_of(captures, ident) | bits_of(captures, id) | bits_of(captures, device->name);
}

uint64_t captures_asked(const struct captures *captures) {
    return captures != NULL ? captures->asked_changed : 0;
}

size_t captures_looks(const struct captures *captures) {
    return captures->looks;
}

// --- beginning and ending ---

static void on_timer(uv_timer_t *timer);

static void set_timer(struct captures *captures) {
    const struct capture *capture, *first = NULL;
    uint64_t now = uv_now(captures->loop);
    DL_FOREACH(captures->list, capture) {
        if (first == NULL || capture->until < first->until)
            first = capture;
    }
    if (first == NULL)
        uv_timer_stop(&captures->timer);
    else
        uv_timer_start(&captures->timer, on_timer, first->until > now ? first->until - now : 0, 0);
}

static void forget_minute(struct captures *captures) {
    struct usage *usage, *next;
    HASH_ITER(hh, captures->usages, usage, next) {
        HASH_DEL(captures->usages, usage);
        free(usage);
    }
    captures->bytes = captures->chunks = 0;
}

static void end(struct captures *captures, struct capture *capture) {
    tell_ended(captures, capture);
    captures->count--;
    captures->bits &= ~capture->bit;
    if (capture->kind == BY_DEVICE)
        ask_no_more(captures, capture);
    DL_DELETE(captures->list, capture);
    free(capture);
}

static void on_timer(uv_timer_t *timer) {
    struct captures *captures = timer->data;
    struct capture *capture, *next;
    DL_FOREACH_SAFE(captures->list, capture, next) {
        if (capture->until <= uv_now(captures->loop))
            end(captures, capture);
    }
    set_timer(captures);
}

void captures_end(struct captures *captures) {
    while (captures->list != NULL)
        end(captures, captures->list);
    set_timer(captures);
}

// The one that was asked for in the same words, or NULL.
static struct capture *find(const struct captures *captures, const struct capture *like) {
    struct capture *capture;
    DL_FOREACH(captures->list, capture) {
        if (capture->kind == like->kind && strcmp(capture->text, like->text) == 0 &&
            strcmp(capture->by, like->by) == 0)
            return capture;
    }
    return NULL;
}

static void begin(struct captures *captures, const struct capture *like, unsigned seconds) {
    struct capture *capture = must_have(malloc(sizeof *capture));
    *capture = *like;
    capture->bit = 1ULL << __builtin_ctzll(~captures->bits);
    captures->count++;
    captures->bits |= capture->bit;
    if (capture->kind == BY_DEVICE)
        ask(captures, capture);
    DL_APPEND(captures->list, capture);
    tell_started(captures, capture, seconds);
}

// It runs for so long from now. A request that is only sent again says no more than that.
static void prolong(struct captures *captures, struct capture *running, unsigned seconds) {
    uint64_t before = running->until;
    running->until = uv_now(captures->loop) + seconds * 1000ULL;
    if (running->until > before + 1000 || running->until + 1000 < before)
        tell_started(captures, running, seconds);
}

static void take(struct captures *captures, struct capture *like, unsigned seconds) {
    struct capture *running = find(captures, like);
    like->until = uv_now(captures->loop) + seconds * 1000ULL;
    if (running != NULL && seconds == 0)
        end(captures, running);
    else if (running != NULL)
        prolong(captures, running, seconds);
    else if (seconds > 0 && captures->count == CAPTURES_MAX)
        refuse(captures, like, "64 captures run already");
    else if (seconds > 0)
        begin(captures, like, seconds);
    set_timer(captures);
}

// --- requests ---

// Texts, and numbers as text: an id, an IMEI.
static const char *read_text(const json_t *value, char text[NAME_MAX_]) {
    if (json_is_integer(value))
        snprintf(text, NAME_MAX_, "%lld", (long long)json_integer_value(value));
    else if (!json_is_string(value) || json_string_length(value) == 0)
        return "device, channel, address and by are texts that are not empty";
    else if (json_string_length(value) >= NAME_MAX_)
        return "device, channel, address and by have at most 127 bytes";
    else
        strcpy(text, json_string_value(value));
    return NULL;
}

static const char *read_address(struct capture *capture) {
    char text[NAME_MAX_ + 8];
    struct sockaddr_storage address;
    snprintf(text, sizeof text, strchr(capture->text, ':') != NULL ? "[%s]:1" : "%s:1", capture->text);
    if (!address_parse(text, &address))
        return "address is not an IP address";
    memcpy(capture->ip, address_key_of((struct sockaddr *)&address).ip, sizeof capture->ip);
    return NULL;
}

static const char *read_seconds(const json_t *value, unsigned *seconds) {
    double number = json_is_number(value) ? json_number_value(value) : -1;
    if (!(number >= 0))
        return "seconds is not a number from 0 to 3600";
    *seconds = number < CAPTURE_TIME_MAX ? (unsigned)number : CAPTURE_TIME_MAX;
    return NULL;
}

// One key of a request. *found counts what it asks for.
static const char *read_key(struct capture *capture, const char *key, const json_t *value, unsigned *seconds,
                            unsigned *found) {
    if (strcmp(key, "seconds") == 0)
        return read_seconds(value, seconds);
    if (strcmp(key, "by") == 0)
        return read_text(value, capture->by);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        if (strcmp(key, kind_names[kind]) != 0)
            continue;
        ++*found;
        capture->kind = kind;
        return read_text(value, capture->text);
    }
    return "a request has device, channel or address, and may have seconds and by; nothing else";
}

// NULL, or what is wrong.
static const char *read_request(const json_t *request, struct capture *capture, unsigned *seconds) {
    const char *key, *wrong = NULL;
    json_t *value;
    unsigned found = 0;
    if (!json_is_object(request))
        return "a request is a JSON object";
    json_object_foreach((json_t *)request, key, value) {
        const char *fault = read_key(capture, key, value, seconds, &found);
        wrong = wrong == NULL ? fault : wrong;
    }
    if (wrong == NULL && found != 1)
        wrong = "a request has exactly one of device, channel and address";
    return wrong == NULL && capture->kind == BY_ADDRESS ? read_address(capture) : wrong;
}

void captures_request(struct captures *captures, const char *payload, size_t length) {
    struct capture capture = {0};
    unsigned seconds = CAPTURE_TIME;
    if (length == 0) {
        captures_end(captures);
        return;
    }
    json_t *request = json_loadb(payload, length, JSON_REJECT_DUPLICATES, NULL);
    const char *wrong = read_request(request, &capture, &seconds);
    json_decref(request);
    if (wrong != NULL)
        refuse(captures, &capture, wrong);
    else
        take(captures, &capture, seconds);
}

// --- who is wanted ---

bool captures_run(const struct captures *captures) {
    return captures != NULL && captures->count > 0;
}

bool captures_follow(const struct captures *captures) {
    return captures != NULL && captures->asked != NULL;
}

// A connection that speaks for several devices is wanted when one of them is.
uint64_t captures_by_device(const struct captures *captures, const struct peer *peer) {
    return peer->captured | (peer->turned_away != NULL ? bits_of(captures, peer->turned_away) : 0);
}

static bool is_at_place(const struct capture *capture, const struct peer *peer) {
    if (capture->kind == BY_CHANNEL)
        return strcmp(peer->channel->name, capture->text) == 0;
    return capture->kind == BY_ADDRESS && memcmp(peer->ip, capture->ip, sizeof capture->ip) == 0;
}

uint64_t captures_by_place(const struct captures *captures, const struct peer *peer) {
    const struct capture *capture;
    uint64_t bits = 0;
    DL_FOREACH(captures->list, capture) {
        bits |= is_at_place(capture, peer) ? capture->bit : 0;
    }
    return bits;
}

json_t *captures_names(const struct captures *captures, uint64_t wanted) {
    const struct capture *capture;
    json_t *names = json_array();
    DL_FOREACH(captures->list, capture) {
        if (capture->by[0] != '\0' && (capture->bit & wanted) != 0)
            json_array_append_new(names, json_string(capture->by));
    }
    if (json_array_size(names) > 0)
        return names;
    json_decref(names);
    return NULL;
}

// --- how much ---

static void key_of(const struct peer *peer, char key[CODEC_IDENT_MAX + 1]) {
    memset(key, 0, CODEC_IDENT_MAX + 1);
    if (peer->ident != NULL)
        strcpy(key, peer->ident);
    else
        memcpy(key, peer->ip, sizeof peer->ip);
}

static struct usage *find_usage(const struct captures *captures, const struct peer *peer) {
    char key[CODEC_IDENT_MAX + 1];
    struct usage *usage;
    key_of(peer, key);
    HASH_FIND(hh, captures->usages, key, sizeof key, usage);
    return usage;
}

static struct usage *add_usage(struct captures *captures, const struct peer *peer) {
    struct usage *usage = must_have(calloc(1, sizeof *usage));
    key_of(peer, usage->key);
    HASH_ADD(hh, captures->usages, key, sizeof usage->key, usage);
    return usage;
}

// The minute of the bounds begins with the first bytes after the last one.
static void keep_minute(struct captures *captures) {
    uint64_t now = uv_now(captures->loop);
    if (now - captures->minute < MINUTE && captures->minute != 0)
        return;
    forget_minute(captures);
    captures->minute = now;
}

// The broker is to have it soon, or never: the disk is for messages.
static size_t room_for(const struct captures *captures, const struct usage *usage) {
    size_t used = usage != NULL ? usage->bytes : 0;
    size_t device = CAPTURE_DEVICE_MAX - used, all = CAPTURE_INSTANCE_MAX - captures->bytes;
    if (captures->chunks >= CAPTURE_CHUNKS_MAX || !bus_is_up(captures->bus) || !bus_keeps_up(captures->bus))
        return 0;
    return device < all ? device : all;
}

static void count(struct captures *captures, uint64_t wanted, size_t allowed, size_t length) {
    struct capture *capture;
    DL_FOREACH(captures->list, capture) {
        if ((capture->bit & wanted) == 0)
            continue;
        capture->bytes += allowed;
        capture->left_out += length - allowed;
    }
}

static void note_usage(struct captures *captures, struct usage *usage, size_t allowed) {
    usage->bytes += allowed;
    captures->bytes += allowed;
    captures->chunks++;
}

// Whoever gets nothing is not remembered: there are as many addresses as a sender of datagrams makes up.
size_t captures_allow(struct captures *captures, const struct peer *peer, uint64_t wanted, size_t length) {
    keep_minute(captures);
    struct usage *usage = find_usage(captures, peer);
    size_t room = room_for(captures, usage), allowed = length <= room ? length : room;
    if (allowed < length && peer->transport->is_udp)
        allowed = 0;
    if (allowed > 0)
        note_usage(captures, usage != NULL ? usage : add_usage(captures, peer), allowed);
    count(captures, wanted, allowed, length);
    if (allowed < length)
        peer_warn(peer, "capture", NULL,
                  "capture: bytes left out: %zu. A device may have 64 KiB a minute and all together 1 MiB, "
                  "and no more than the broker takes",
                  length - allowed);
    return allowed;
}

// --- the whole ---

struct captures *captures_new(uv_loop_t *loop, const struct bus *bus) {
    struct captures *captures = must_have(calloc(1, sizeof *captures));
    captures->loop = loop;
    captures->bus = bus;
    uv_timer_init(loop, &captures->timer);
    captures->timer.data = captures;
    return captures;
}

void captures_stop(struct captures *captures) {
    uv_close((uv_handle_t *)&captures->timer, NULL);
}

void captures_free(struct captures *captures) {
    struct capture *capture, *next;
    DL_FOREACH_SAFE(captures->list, capture, next) {
        if (capture->kind == BY_DEVICE)
            ask_no_more(captures, capture);
        free(capture);
    }
    forget_minute(captures);
    free(captures);
}
