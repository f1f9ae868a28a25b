// The numbers of this gateway; see metrics.h.
#include "gateway/run/metrics.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/base/clock.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/topic.h"

#define INTERVAL 10000 // milliseconds
#define FIRST                                                                                                \
    1000 // the same, from the connection: one that breaks at once has more important things to carry

struct metrics {
    struct metrics_parts parts;
    uv_timer_t timer;
    uint64_t connections; // to the broker
};

// --- what is counted ---

static json_t *verdicts_json(const struct stream_counters *counters) {
    json_t *verdicts = must_have(json_object());
    for (int verdict = 0; verdict < CODEC_VERDICT_COUNT; verdict++)
        if (counters->verdicts[verdict] > 0 || verdict == CODEC_OK)
            json_object_set_new(verdicts, codec_verdict_name((enum codec_verdict)verdict),
                                json_integer((json_int_t)counters->verdicts[verdict]));
    return verdicts;
}

static json_t *channel_json(const struct channel *channel, const struct config_channel *config) {
    const struct stream_counters *counters = &channel->counters;
    return json_pack("{s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "id",
                     (json_int_t)config->id, "name", config->name, "protocol", config->codec->name,
                     "connections", (json_int_t)channel_connections(channel), "bytes",
                     (json_int_t)counters->bytes, "messages", (json_int_t)counters->messages, "answers",
                     (json_int_t)counters->answers, "junk_bytes", (json_int_t)counters->junk_bytes,
                     "values_left_out", (json_int_t)counters->removed_values, "refused_connections",
                     (json_int_t)channel->tcp.refused, "refused_datagrams", (json_int_t)channel->udp.refused,
                     "verdicts", verdicts_json(counters));
}

static json_t *channels_json(const struct metrics *metrics) {
    const struct config *config = metrics->parts.config;
    json_t *channels = must_have(json_array());
    for (size_t i = 0; i < config->channel_count; i++)
        json_array_append_new(channels, channel_json(&metrics->parts.channels[i], &config->channels[i]));
    return channels;
}

static json_t *commands_json(const struct metrics *metrics) {
    const struct command_counts *counts = commands_counts(metrics->parts.commands);
    return json_pack("{s:I, s:I, s:I, s:I}", "executed", (json_int_t)counts->executed, "failed",
                     (json_int_t)counts->failed, "expired", (json_int_t)counts->expired, "canceled",
                     (json_int_t)counts->canceled);
}

static json_t *geolocation_json(const struct metrics *metrics) {
    const struct metrics_parts *parts = &metrics->parts;
    const struct locator_counts *counts = locator_counts(parts->locator);
    return json_pack("{s:{s:I, s:I, s:I, s:I}, s:I, s:I, s:I, s:I}", "geolocation", "cached",
                     (json_int_t)counts->cached, "found", (json_int_t)counts->found, "not_found",
                     (json_int_t)counts->not_found, "without", (json_int_t)counts->without,
                     "geolocation_requests", (json_int_t)counts->requests, "geolocation_failures",
                     (json_int_t)counts->failures, "geolocation_waiting", (json_int_t)held_count(parts->held),
                     "geolocation_remembered", (json_int_t)locator_remembered(parts->locator));
}

static json_t *devices_json(const struct metrics *metrics) {
    const struct metrics_parts *parts = &metrics->parts;
    return json_pack("{s:I, s:I, s:I}", "devices", (json_int_t)state_devices(parts->state),
                     "devices_connected", (json_int_t)sessions_count(parts->sessions), "commands_waiting",
                     (json_int_t)commands_waiting(parts->commands));
}

static json_int_t size_of(const char *path, const char *end) {
    char *whole = text_format("%s%s", path, end);
    struct stat status;
    json_int_t size = stat(whole, &status) == 0 ? (json_int_t)status.st_size : 0;
    free(whole);
    return size;
}

static json_int_t store_bytes(const struct metrics *metrics) {
    const char *path = metrics->parts.config->store_path;
    return size_of(path, "") + size_of(path, "-wal");
}

static json_int_t resident_bytes(void) {
    FILE *file = fopen("/proc/self/statm", "re");
    long long pages = 0;
    if (file == NULL)
        return 0;
    if (fscanf(file, "%*d %lld", &pages) != 1)
        pages = 0;
    fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

static json_t *store_json(const struct metrics *metrics) {
    const struct metrics_parts *parts = &metrics->parts;
    return json_pack("{s:I, s:b, s:b, s:I}", "store_bytes", store_bytes(metrics), "store_full",
                     bus_is_full(parts->bus), "store_writable", store_is_writable(parts->store),
                     "set_aside_messages", (json_int_t)bus_set_aside_count(parts->bus));
}

static json_t *broker_json(const struct metrics *metrics) {
    const struct metrics_parts *parts = &metrics->parts;
    uint64_t connections = metrics->connections;
    return json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:f}", "broker_up", bus_is_up(parts->bus),
                     "broker_connections", (json_int_t)connections, "broker_reconnections",
                     (json_int_t)(connections > 0 ? connections - 1 : 0), "publishes",
                     (json_int_t)outbox_taken(parts->outbox), "outbox_messages",
                     (json_int_t)outbox_count(parts->outbox), "outbox_unsafe_messages",
                     (json_int_t)outbox_unsafe_count(parts->outbox), "outbox_oldest_seconds",
                     (double)outbox_oldest_age(parts->outbox) / 1e3);
}

// Takes part over.
static void add(json_t *all, json_t *part) {
    json_object_update(all, part);
    json_decref(part);
}

static json_t *write_all(struct metrics *metrics) {
    json_t *all = json_pack("{s:f, s:f, s:I, s:f, s:o, s:o}", "timestamp", (double)clock_now() / 1e6,
                            "started", (double)metrics->parts.started / 1e6, "resident_memory_bytes",
                            resident_bytes(), "loop_lag_seconds", loop_lag_longest(metrics->parts.lag) / 1e3,
                            "commands", commands_json(metrics), "channels", channels_json(metrics));
    add(all, devices_json(metrics));
    add(all, broker_json(metrics));
    add(all, store_json(metrics));
    add(all, geolocation_json(metrics));
    return all;
}

// --- when ---

static void tell(const struct metrics *metrics, const json_t *all) {
    if (metrics->parts.told == NULL)
        return;
    char *text = text_of_json(all, TEXT_VALUE_DIGITS);
    metrics->parts.told(metrics->parts.context, text);
    free(text);
}

static void on_timer(uv_timer_t *timer) {
    struct metrics *metrics = timer->data;
    const struct bus *bus = metrics->parts.bus;
    json_t *all = write_all(metrics);
    if (bus_is_up(bus))
        bus_say(bus, all, TOPIC_STATE TOPIC_INSTANCES "%s" TOPIC_METRICS, bus_client_id(bus));
    tell(metrics, all);
    json_decref(all);
}

struct metrics *metrics_new(const struct metrics_parts *parts) {
    struct metrics *metrics = must_have(calloc(1, sizeof *metrics));
    metrics->parts = *parts;
    uv_timer_init(parts->loop, &metrics->timer);
    metrics->timer.data = metrics;
    return metrics;
}

void metrics_start(struct metrics *metrics) {
    uv_timer_start(&metrics->timer, on_timer, INTERVAL, INTERVAL);
}

void metrics_link(struct metrics *metrics, bool up) {
    metrics->connections += up;
    if (up && !uv_is_closing((uv_handle_t *)&metrics->timer))
        uv_timer_start(&metrics->timer, on_timer, FIRST, INTERVAL);
    json_t *all = write_all(metrics);
    tell(metrics, all);
    json_decref(all);
}

void metrics_stop(struct metrics *metrics) {
    uv_close((uv_handle_t *)&metrics->timer, NULL);
}

void metrics_free(struct metrics *metrics) {
    free(metrics);
}
