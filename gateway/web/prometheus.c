// Metrics as Prometheus reads them; see prometheus.h. What a gateway publishes as JSON (run/metrics.c) is flat but for the
// parts that get a label: `channels`, and below them `verdicts`, `commands` by their end, and
// `geolocation` by its result.
#include "gateway/web/prometheus.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

// Where a metric stands in the JSON.
enum place { IN_INSTANCE, IN_CHANNELS, IN_VERDICTS, IN_COMMANDS, IN_GEOLOCATION };

static const struct metric {
    const char *name, *type, *help;
    enum place place;
    const char *key; // within its place
} metrics[] = {
    {"trackbus_connections", "gauge", "Connections of devices over TCP.", IN_CHANNELS, "connections"},
    {"trackbus_messages_total", "counter", "Messages that were decoded.", IN_CHANNELS, "messages"},
    {"trackbus_received_bytes_total", "counter", "Bytes that came from devices.", IN_CHANNELS, "bytes"},
    {"trackbus_answers_total", "counter", "Answers of devices to commands.", IN_CHANNELS, "answers"},
    {"trackbus_junk_bytes_total", "counter", "Bytes that were no frame.", IN_CHANNELS, "junk_bytes"},
    {"trackbus_values_left_out_total", "counter", "Values that failed their range check.", IN_CHANNELS,
     "values_left_out"},
    {"trackbus_refused_connections_total", "counter", "Connections over a limit.", IN_CHANNELS,
     "refused_connections"},
    {"trackbus_refused_datagrams_total", "counter", "Datagrams over a limit.", IN_CHANNELS,
     "refused_datagrams"},
    {"trackbus_frames_total", "counter", "Frames by verdict.", IN_VERDICTS, NULL},
    {"trackbus_commands_total", "counter", "Commands that have ended, by their end.", IN_COMMANDS, NULL},
    {"trackbus_commands_waiting", "gauge",
     "Commands that have not ended; all gateways on a broker see the same, so do not add them up.",
     IN_INSTANCE, "commands_waiting"},
    {"trackbus_geolocation_total", "counter",
     "Reports without coordinates, by what a geolocation service made of them.", IN_GEOLOCATION, NULL},
    {"trackbus_geolocation_requests_total", "counter", "Requests to it.", IN_INSTANCE,
     "geolocation_requests"},
    {"trackbus_geolocation_failures_total", "counter", "Requests that it did not answer, or refused.",
     IN_INSTANCE, "geolocation_failures"},
    {"trackbus_geolocation_waiting", "gauge", "Reports that wait for their position.", IN_INSTANCE,
     "geolocation_waiting"},
    {"trackbus_geolocation_remembered", "gauge", "Surroundings that need not be asked about.", IN_INSTANCE,
     "geolocation_remembered"},
    {"trackbus_devices", "gauge", "Devices of the registry, and others that were heard.", IN_INSTANCE,
     "devices"},
    {"trackbus_devices_connected", "gauge",
     "Devices that are connected to this gateway, over TCP or UDP (until limits.idle_timeout).", IN_INSTANCE,
     "devices_connected"},
    {"trackbus_outbox_messages", "gauge", "Messages that the broker does not have yet.", IN_INSTANCE,
     "outbox_messages"},
    {"trackbus_outbox_unsafe_messages", "gauge", "Those of them that only memory holds.", IN_INSTANCE,
     "outbox_unsafe_messages"},
    {"trackbus_outbox_oldest_seconds", "gauge", "Age of the oldest of them.", IN_INSTANCE,
     "outbox_oldest_seconds"},
    {"trackbus_store_bytes", "gauge", "Bytes that the store has on disk.", IN_INSTANCE, "store_bytes"},
    {"trackbus_store_full", "gauge", "Whether nothing more is taken from devices (1).", IN_INSTANCE,
     "store_full"},
    {"trackbus_set_aside_messages", "gauge", "Messages that the broker refuses.", IN_INSTANCE,
     "set_aside_messages"},
    {"trackbus_broker_up", "gauge", "Whether the broker is connected (1).", IN_INSTANCE, "broker_up"},
    {"trackbus_broker_connections_total", "counter", "Connections to the broker that were made.", IN_INSTANCE,
     "broker_connections"},
    {"trackbus_broker_reconnections_total", "counter", "Those of them after the first.", IN_INSTANCE,
     "broker_reconnections"},
    {"trackbus_publishes_total", "counter", "Publishes that the broker has acknowledged.", IN_INSTANCE,
     "publishes"},
    {"trackbus_resident_memory_bytes", "gauge", "Resident memory.", IN_INSTANCE, "resident_memory_bytes"},
    {"trackbus_loop_lag_seconds", "gauge", "The longest turn of the loop in the last minute.", IN_INSTANCE,
     "loop_lag_seconds"},
    {"trackbus_start_time_seconds", "gauge", "When this run began, Unix seconds.", IN_INSTANCE, "started"},
};

struct writing {
    struct text_out *out;
    const struct metric *metric;
};

static void write_label(struct text_out *out, const char *name, const char *value) {
    text_out_print(out, "%s=\"", name);
    for (; *value != '\0'; value++)
        if (*value == '\n')
            text_out_bytes(out, "\\n", 2);
        else if (*value == '"' || *value == '\\')
            text_out_bytes(out, (char[]){'\\', *value}, 2);
        else
            text_out_bytes(out, value, 1);
    text_out_bytes(out, "\"", 1);
}

struct label {
    const char *name, *value;
};

// labels end with a name of NULL. What is no number is left out.
static void write_sample(struct text_out *out, const char *name, const struct label *labels,
                         const json_t *value) {
    if (!json_is_number(value) && !json_is_boolean(value))
        return;
    text_out_print(out, "%s{", name);
    for (const struct label *label = labels; label->name != NULL; label++) {
        if (label != labels)
            text_out_bytes(out, ",", 1);
        write_label(out, label->name, label->value);
    }
    if (json_is_integer(value))
        text_out_print(out, "} %lld\n", (long long)json_integer_value(value));
    else
        text_out_print(out, "} %.15g\n",
                       json_is_number(value) ? json_number_value(value) : json_is_true(value));
}

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : "";
}

static void write_channel(const struct writing *writing, const char *instance, json_t *channel) {
    const struct metric *metric = writing->metric;
    const json_t *number = json_object_get(channel, "id");
    char id[24]; // two channels may have one name
    snprintf(id, sizeof id, "%lld", (long long)json_integer_value(number));
    struct label labels[] = {{"instance", instance},
                             {"channel_id", id},
                             {"channel", text_of(channel, "name")},
                             {"protocol", text_of(channel, "protocol")},
                             {NULL, NULL},
                             {NULL, NULL}};
    const char *verdict;
    json_t *count;
    if (metric->place == IN_CHANNELS) {
        write_sample(writing->out, metric->name, labels, json_object_get(channel, metric->key));
        return;
    }
    json_object_foreach(json_object_get(channel, "verdicts"), verdict, count) {
        labels[4] = (struct label){"verdict", verdict};
        write_sample(writing->out, metric->name, labels, count);
    }
}

// One sample for each key of an object, which becomes the label of that name.
static void write_each(const struct writing *writing, const char *instance, const char *label,
                       json_t *object) {
    const char *key;
    json_t *count;
    json_object_foreach(object, key, count) {
        const struct label labels[] = {{"instance", instance}, {label, key}, {NULL, NULL}};
        write_sample(writing->out, writing->metric->name, labels, count);
    }
}

// What one that is away said last is not what holds now.
static void write_of_instance(void *context, const char *instance, bool online, const json_t *state,
                              const json_t *json) {
    const struct writing *writing = context;
    const struct metric *metric = writing->metric;
    const struct label labels[] = {{"instance", instance}, {NULL, NULL}};
    size_t i;
    json_t *channel;
    if (!online)
        return;
    if (metric->place == IN_INSTANCE)
        write_sample(writing->out, metric->name, labels, json_object_get(json, metric->key));
    else if (metric->place == IN_COMMANDS)
        write_each(writing, instance, "end", json_object_get(json, "commands"));
    else if (metric->place == IN_GEOLOCATION)
        write_each(writing, instance, "result", json_object_get(json, "geolocation"));
    else
        json_array_foreach(json_object_get(json, "channels"), i, channel)
            write_channel(writing, instance, channel);
}

static void write_up(void *context, const char *instance, bool online, const json_t *state,
                     const json_t *json) {
    text_out_print(context, "trackbus_instance_up{");
    write_label(context, "instance", instance);
    text_out_print(context, "} %d\n", online);
}

static void write_build(void *context, const char *instance, bool online, const json_t *state,
                        const json_t *json) {
    if (!online || state == NULL)
        return;
    text_out_print(context, "trackbus_build_info{");
    write_label(context, "instance", instance);
    text_out_bytes(context, ",", 1);
    write_label(context, "version", text_of(state, "version"));
    text_out_print(context, "} 1\n");
}

static void write_head(struct text_out *out, const char *name, const char *type, const char *help) {
    text_out_print(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void prometheus_write(const struct gateways *gateways, struct text_out *out) {
    write_head(out, "trackbus_instance_up", "gauge", "Whether the gateway says that it is online (1).");
    gateways_each(gateways, write_up, out);
    write_head(out, "trackbus_build_info", "gauge", "The version that runs.");
    gateways_each(gateways, write_build, out);
    for (size_t i = 0; i < sizeof metrics / sizeof metrics[0]; i++) {
        struct writing writing = {out, &metrics[i]};
        write_head(out, metrics[i].name, metrics[i].type, metrics[i].help);
        gateways_each(gateways, write_of_instance, &writing);
    }
}
