// Reading the configuration; see config.h.
#include "gateway/config/config.h"

#include <curl/curl.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gateway/base/address.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/config/environment.h"
#include "gateway/config/faults.h"
#include "gateway/config/listing.h"
#include "gateway/config/prune.h"
#include "gateway/config/rules.h"
#include "schema/json_schema.h"
#include "schema/schemas.h"
#include "schema/utf8.h"

#define OPTION_LENGTH_MAX 255 // characters

static const char *text_of(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static int integer_of(const json_t *object, const char *key) {
    return (int)json_schema_integer(json_object_get(object, key));
}

// The index of a value in names; the schema has made sure that it is there.
static int choice_of(const json_t *object, const char *key, const char *const *names) {
    int choice = 0;
    while (names[choice] != NULL && strcmp(names[choice], text_of(object, key)) != 0)
        choice++;
    return choice;
}

static void add_json_fault(struct faults *faults, const char *file, const char *path, json_error_t *error) {
    static const char near[] = " near '", duplicate[] = "duplicate object key";
    char *quote = strstr(error->text, near); // of the file, which may be a password; a key is none
    if (quote != NULL && strncmp(error->text, duplicate, strlen(duplicate)) != 0)
        *quote = '\0';
    utf8_mend(error->text); // the quote may be cut anywhere
    if (error->line < 0)
        faults_add(faults, path, "%s", error->text);
    else
        faults_add(faults, path, "%s, line %d, column %d: %s%s", file, error->line, error->column,
                   error->text, strstr(error->text, "expected") != NULL ? "" : ", expected JSON");
}

static json_t *load_json(struct faults *faults, const char *file, const char *path) {
    json_error_t error;
    json_t *json = json_load_file(file, JSON_REJECT_DUPLICATES, &error);
    if (json == NULL)
        add_json_fault(faults, file, path, &error);
    return json;
}

// --- what a schema cannot say ---

static void read_address(struct faults *faults, const json_t *channel, const char *key, size_t index,
                         struct sockaddr_storage *address, bool *present) {
    const char *text = text_of(channel, key);
    char path[48];
    *present = text != NULL;
    snprintf(path, sizeof path, "$.channels[%zu].%s", index, key);
    if (text != NULL && !address_parse(text, address))
        faults_add(faults, path,
                   "is \"%s\", expected HOST:PORT with a numeric host, such as 0.0.0.0:7700 or [::]:7700",
                   text);
}

static void known_protocols(char *list, size_t capacity) {
    *list = '\0';
    for (size_t i = 0; codec_at(i) != NULL; i++) {
        size_t used = strlen(list);
        snprintf(list + used, capacity - used, "%s%s", i == 0 ? "" : " or ", codec_at(i)->name);
    }
}

// Takes the options of the channel's codec; the others' are faults.
static void read_options(struct faults *faults, struct config_channel *channel, const json_t *json,
                         const char *path) {
    for (size_t c = 0; channel->codec != NULL && codec_at(c) != NULL; c++)
        for (size_t i = 0; codec_at(c)->options != NULL && codec_at(c)->options[i] != NULL; i++) {
            const char *name = codec_at(c)->options[i];
            int place = codec_option_index(channel->codec, name);
            if (place >= 0)
                channel->options[place] = text_of(json, name);
            else if (text_of(json, name) != NULL)
                faults_add(faults, path, "has %s, which the protocol %s does not know", name,
                           channel->codec->name);
        }
}

static void read_proxy(struct faults *faults, struct config_channel *channel, const json_t *json,
                       const char *path) {
    const json_t *from = json_object_get(json, "proxy_from"), *range;
    size_t i;
    channel->proxy_protocol = json_is_true(json_object_get(json, "proxy_protocol"));
    channel->proxy_from = must_have(calloc(json_array_size(from) + 1, sizeof *channel->proxy_from));
    json_array_foreach(from, i, range) {
        struct address_range *next = &channel->proxy_from[channel->proxy_from_count];
        if (address_range_parse(json_string_value(range), next))
            channel->proxy_from_count++;
        else
            faults_add(faults, path,
                       "has \"%s\" in proxy_from, expected an address or a network such as 192.0.2.0/24",
                       json_string_value(range));
    }
    if (channel->proxy_protocol && json_array_size(from) == 0)
        faults_add(faults, path,
                   "has proxy_protocol, expected proxy_from as well: the addresses of the balancers");
}

static struct codec_battery read_point(const json_t *point) {
    return (struct codec_battery){.millivolts =
                                      (unsigned)lround(json_number_value(json_array_get(point, 0)) * 1000),
                                  .percent = (unsigned)lround(json_number_value(json_array_get(point, 1)))};
}

static bool rises(const struct codec_battery *points, size_t count) {
    bool rises = count >= 2 && points[0].percent == 0 && points[count - 1].percent == 100;
    for (size_t i = 1; i < count; i++)
        rises = rises && points[i].millivolts > points[i - 1].millivolts &&
                points[i].percent > points[i - 1].percent;
    return rises;
}

static void read_battery(struct faults *faults, struct config_channel *channel, const json_t *json,
                         const char *path) {
    const json_t *points = json_object_get(json, "battery"), *point;
    size_t i;
    if (!json_is_array(points))
        return;
    channel->battery = must_have(calloc(json_array_size(points) + 1, sizeof *channel->battery));
    json_array_foreach(points, i, point) channel->battery[i] = read_point(point);
    if (!rises(channel->battery, json_array_size(points)))
        faults_add(faults, path,
                   "has a battery whose points do not rise, expected [volts, percent] from 0 to 100 percent, "
                   "such as "
                   "[[3.5, 0], [4.2, 100]]");
}

static void read_channel(struct faults *faults, struct config *config, const json_t *json, size_t index) {
    struct config_channel *channel = &config->channels[index];
    const char *protocol = text_of(json, "protocol");
    char path[48], list[256];
    *channel = (struct config_channel){
        .id = json_schema_integer(json_object_get(json, "id")),
        .name = text_of(json, "name") != NULL ? text_of(json, "name") : protocol,
        .codec = protocol != NULL ? codec_find(protocol) : NULL,
    };
    snprintf(path, sizeof path, "$.channels[%zu]", index);
    if (channel->codec == NULL && protocol != NULL) {
        known_protocols(list, sizeof list);
        faults_add(faults, path, "has the protocol \"%s\", expected %s", protocol, list);
    }
    read_options(faults, channel, json, path);
    read_proxy(faults, channel, json, path);
    read_battery(faults, channel, json, path);
    read_address(faults, json, "tcp", index, &channel->tcp, &channel->has_tcp);
    read_address(faults, json, "udp", index, &channel->udp, &channel->has_udp);
}

static void read_channels(struct faults *faults, struct config *config) {
    const json_t *channels = json_object_get(config->json, "channels");
    config->channel_count = json_array_size(channels);
    config->channels = must_have(calloc(config->channel_count + 1, sizeof *config->channels));
    for (size_t i = 0; i < config->channel_count; i++)
        read_channel(faults, config, json_array_get(channels, i), i);
}

static void add_url_fault(struct faults *faults, const char *url, const char *path) {
    char *masked = broker_url_masked(url);
    faults_add(faults, path, "is \"%s\", expected mqtt://HOST:PORT or mqtts://HOST:PORT%s", masked,
               strchr(url, '@') != NULL ? "; user and password are mqtt.username and mqtt.password" : "");
    free(masked);
}

static void read_url(struct faults *faults, struct config *config, const char *url, const char *path) {
    struct broker_address *address = &config->mqtt.brokers[config->mqtt.broker_count];
    if (broker_url_parse(url, address))
        config->mqtt.broker_count++;
    else
        add_url_fault(faults, url, path);
}

// One URL, or a list of them.
static void read_urls(struct faults *faults, struct config *config, const json_t *urls) {
    size_t i;
    json_t *url;
    config->mqtt.brokers = must_have(calloc(json_array_size(urls) + 1, sizeof *config->mqtt.brokers));
    if (json_is_string(urls))
        read_url(faults, config, json_string_value(urls), "$.mqtt.url");
    json_array_foreach(urls, i, url) {
        char path[48];
        snprintf(path, sizeof path, "$.mqtt.url[%zu]", i);
        read_url(faults, config, json_string_value(url), path);
    }
    config->mqtt.host = config->mqtt.brokers[0].host;
    config->mqtt.port = config->mqtt.brokers[0].port;
}

static void free_brokers(struct config *config) {
    for (size_t i = 0; i < config->mqtt.broker_count; i++)
        free(config->mqtt.brokers[i].host);
    free(config->mqtt.brokers);
}

// The first line of a file, for the caller to free, and what is wrong with it, or NULL.
static char *read_line(const char *path, const char **wrong) {
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t capacity = 0;
    errno = file != NULL ? 0 : errno;
    ssize_t length = file != NULL ? getline(&line, &capacity, file) : -1;
    *wrong = length < 0 && errno != 0 ? strerror(errno) : length <= 0 ? "it is empty" : NULL;
    if (length > 0 && memchr(line, '\0', (size_t)length) != NULL)
        *wrong = "it has a NUL byte";
    if (*wrong == NULL)
        line[strcspn(line, "\r\n")] = '\0';
    if (*wrong == NULL && *line == '\0')
        *wrong = "its first line is empty";
    if (file != NULL)
        fclose(file);
    return line;
}

static void read_password_file(struct faults *faults, struct config *config, const char *path) {
    const char *wrong;
    config->password_text = read_line(path, &wrong);
    if (wrong != NULL)
        faults_add(faults, "$.mqtt.password_file",
                   "is \"%s\", which cannot be read: %s, expected the password in its first line", path,
                   wrong);
    else
        config->mqtt.password = config->password_text;
}

#define KEY_MIN 16 // bytes: with fewer, all can be tried
#define KEY_MAX 4096

// As it stands, but for the end of its last line: editors add that.
static const char *read_key(struct config *config, const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return strerror(errno);
    char *key = config->commands.key = must_have(malloc(KEY_MAX + 2));
    errno = 0;
    size_t length = fread(key, 1, KEY_MAX + 2, file);
    bool failed = ferror(file) != 0;
    fclose(file);
    if (failed)
        return strerror(errno);
    length -= length > 0 && key[length - 1] == '\n';
    config->commands.key_length = length;
    return length < KEY_MIN ? "it is too short" : length > KEY_MAX ? "it is too long" : NULL;
}

static void read_commands(struct faults *faults, struct config *config) {
    const json_t *commands = json_object_get(config->json, "commands");
    const char *path = text_of(commands, "key_file");
    const char *wrong = path != NULL ? read_key(config, path) : NULL;
    if (wrong != NULL)
        faults_add(faults, "$.commands.key_file",
                   "is \"%s\", which is no key: %s, expected %d to %d bytes that nobody can guess", path,
                   wrong, KEY_MIN, KEY_MAX);
    config->commands.intake = json_is_true(json_object_get(commands, "intake"));
    config->commands.ttl = integer_of(commands, "ttl");
    config->commands.timeout = integer_of(commands, "timeout");
    config->commands.max_attempts = integer_of(commands, "max_attempts");
    config->commands.udp_reachable = integer_of(commands, "udp_reachable");
}

// The same parser as libcurl has for the request.
static bool is_web_url(const char *text) {
    CURLU *url = must_have(curl_url());
    char *host = NULL;
    bool good = (strncmp(text, "http://", 7) == 0 || strncmp(text, "https://", 8) == 0) &&
                curl_url_set(url, CURLUPART_URL, text, 0) == CURLUE_OK &&
                curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK && *host != '\0';
    curl_free(host);
    curl_url_cleanup(url);
    return good;
}

// Faults do not show the URL: somebody may have written the key into it.
static void read_geolocation(struct faults *faults, struct config *config) {
    const json_t *geolocation = json_object_get(config->json, "geolocation");
    const char *url = text_of(geolocation, "url"), *path = text_of(geolocation, "key_file"), *wrong;
    if (url != NULL && !is_web_url(url))
        faults_add(faults, "$.geolocation.url", "is no URL, expected http://HOST/… or https://HOST/…");
    config->geolocation.url = url != NULL ? must_have(strdup(url)) : NULL;
    if (path != NULL) {
        config->geolocation.key = read_line(path, &wrong);
        if (wrong != NULL)
            faults_add(faults, "$.geolocation.key_file",
                       "is \"%s\", which cannot be read: %s, expected the key in its first line", path,
                       wrong);
    }
    config->geolocation.timeout =
        (unsigned)(json_number_value(json_object_get(geolocation, "timeout")) * 1000);
    config->geolocation.cache = integer_of(geolocation, "cache");
    config->geolocation.max_accuracy = json_number_value(json_object_get(geolocation, "max_accuracy"));
}

static void check_readable(struct faults *faults, const char *path, const char *file) {
    struct stat status;
    if (file == NULL)
        return;
    if (access(file, R_OK) != 0 || stat(file, &status) != 0)
        faults_add(faults, path, "is \"%s\", which cannot be read: %s", file, strerror(errno));
    else if (S_ISDIR(status.st_mode))
        faults_add(faults, path, "is \"%s\", which cannot be read: %s", file, strerror(EISDIR));
}

static void read_mqtt(struct faults *faults, struct config *config) {
    static const char *const versions[] = {"auto", "5", "3.1.1", NULL};
    const json_t *mqtt = json_object_get(config->json, "mqtt");
    const char *password_file = text_of(mqtt, "password_file");
    read_urls(faults, config, json_object_get(mqtt, "url"));
    config->mqtt.version = (enum config_mqtt_version)choice_of(mqtt, "version", versions);
    config->mqtt.client_id = text_of(mqtt, "client_id");
    config->mqtt.username = text_of(mqtt, "username");
    config->mqtt.password = text_of(mqtt, "password");
    config->mqtt.ca_file = text_of(mqtt, "ca_file");
    config->mqtt.cert_file = text_of(mqtt, "cert_file");
    config->mqtt.key_file = text_of(mqtt, "key_file");
    config->mqtt.topic_prefix = text_of(mqtt, "topic_prefix");
    config->mqtt.qos = integer_of(mqtt, "qos");
    config->mqtt.inflight = integer_of(mqtt, "inflight");
    if (password_file != NULL && config->mqtt.password != NULL)
        faults_add(faults, "$.mqtt.password_file", "is set, and so is password, expected only one of them");
    else if (password_file != NULL)
        read_password_file(faults, config, password_file);
    check_readable(faults, "$.mqtt.ca_file", config->mqtt.ca_file);
    check_readable(faults, "$.mqtt.cert_file", config->mqtt.cert_file);
    check_readable(faults, "$.mqtt.key_file", config->mqtt.key_file);
    if ((config->mqtt.cert_file == NULL) != (config->mqtt.key_file == NULL))
        faults_add(faults, "$.mqtt", "has one of cert_file and key_file, expected both or none");
}

static void add_devices(struct config_devices *devices, const json_t *array) {
    size_t i;
    json_t *json;
    json_array_foreach(array, i, json) {
        devices->list[devices->count++] = listing_of(text_of(json, "ident"), json);
    }
}

// What a schema says of a value, and the value without what it finds faulty.
struct pruning {
    struct faults *faults;
    json_t *json;
    const char *name; // of the whole: "$", or of the file with devices
    json_t *paths;    // of what is to go, once all has been looked at
};

static void on_schema_fault(void *context, const char *path, const char *problem) {
    struct pruning *pruning = context;
    json_array_append_new(pruning->paths, json_string(path));
    faults_add_of_schema(pruning->faults, path, problem);
}

static void check_schema(struct pruning *pruning, const json_t *root, const json_t *schema) {
    size_t i;
    json_t *path;
    pruning->paths = json_array();
    json_schema_check(root, schema, pruning->json, pruning->name, on_schema_fault, pruning);
    json_array_foreach(pruning->paths, i, path) {
        if (strcmp(pruning->name, "$") == 0)
            prune(pruning->json, json_string_value(path));
        else
            prune_entry(pruning->json, json_string_value(path) + strlen(pruning->name));
    }
    json_decref(pruning->paths);
    json_schema_fill_defaults(schema, pruning->json);
}

// The array in devices_file; NULL when there is no file or it is no JSON.
static json_t *read_devices_file(struct faults *faults, const struct config *config) {
    const json_t *schema = schema_find("config.schema.json");
    const json_t *rules = json_object_get(json_object_get(schema, "properties"), "devices");
    if (config->devices_file == NULL)
        return NULL;
    json_t *json = load_json(faults, config->devices_file, "$.devices_file");
    struct pruning pruning = {.faults = faults, .json = json, .name = config->devices_file};
    if (json != NULL)
        check_schema(&pruning, schema, rules);
    return json;
}

static struct config_devices *read_devices(struct faults *faults, const struct config *config) {
    json_t *array = json_object_get(config->json, "devices");
    struct config_devices *devices = must_have(calloc(1, sizeof *devices));
    devices->array = json_incref(array);
    devices->file = read_devices_file(faults, config);
    size_t inner = json_array_size(array);
    devices->list = must_have(calloc(inner + json_array_size(devices->file) + 1, sizeof *devices->list));
    add_devices(devices, array);
    add_devices(devices, devices->file);
    rules_check_devices(faults, config, devices, inner);
    return devices;
}

void config_devices_free(struct config_devices *devices) {
    if (devices == NULL)
        return;
    free(devices->list);
    json_decref(devices->array);
    json_decref(devices->file);
    free(devices);
}

static void read_web(struct faults *faults, struct config *config) {
    const json_t *web = json_object_get(config->json, "web");
    struct sockaddr_storage address;
    config->web.listen = text_of(web, "listen");
    config->web.users_file = text_of(web, "users_file");
    config->web.commands = json_is_true(json_object_get(web, "commands"));
    config->web.behind_proxy = json_is_true(json_object_get(web, "behind_proxy"));
    config->web.tiles = text_of(web, "tiles");
    config->web.attribution = text_of(web, "attribution");
    config->web.trail = integer_of(web, "trail");
    config->web.cert_file = text_of(web, "cert_file");
    config->web.key_file = text_of(web, "key_file");
    if (config->web.listen != NULL && !address_parse(config->web.listen, &address))
        faults_add(faults, "$.web.listen",
                   "is \"%s\", expected HOST:PORT with a numeric host, such as 127.0.0.1:7780",
                   config->web.listen);
    if ((config->web.cert_file == NULL) != (config->web.key_file == NULL))
        faults_add(faults, "$.web", "has one of cert_file and key_file, expected both or none");
}

static void read_rest(struct config *config) {
    static const char *const unknown[] = {"accept", "channel", "reject", NULL};
    static const char *const telemetry[] = {"parameters", "position", "off", NULL};
    static const char *const takeovers[] = {"newest", "keep", NULL};
    static const char *const levels[] = {"error", "warning", "info", "debug", NULL};
    static const char *const formats[] = {"text", "json", NULL};
    static const char *const discoveries[] = {"entities", "device", NULL};
    const json_t *limits = json_object_get(config->json, "limits"), *entry;
    const json_t *log = json_object_get(config->json, "log");
    const json_t *home_assistant = json_object_get(config->json, "home_assistant");
    const json_t *owntracks = json_object_get(config->json, "owntracks");
    size_t i;
    config->telemetry = (enum config_telemetry)choice_of(config->json, "telemetry", telemetry);
    config->telemetry_interval = (int64_t)integer_of(config->json, "telemetry_interval") * 1000000;
    config->home_assistant.enabled = json_is_true(json_object_get(home_assistant, "enabled"));
    config->home_assistant.prefix = text_of(home_assistant, "prefix");
    config->home_assistant.unknown_devices = json_is_true(json_object_get(home_assistant, "unknown_devices"));
    config->home_assistant.alarm_hold = integer_of(home_assistant, "alarm_hold");
    config->home_assistant.discovery =
        (enum config_discovery)choice_of(home_assistant, "discovery", discoveries);
    config->owntracks.enabled = json_is_true(json_object_get(owntracks, "enabled"));
    config->owntracks.prefix = text_of(owntracks, "prefix");
    config->unknown_devices = (enum config_unknown)choice_of(config->json, "unknown_devices", unknown);
    json_array_foreach(json_object_get(config->json, "messages"), i, entry) {
        config->on_channels = config->on_channels || strcmp(json_string_value(entry), "channels") == 0;
        config->on_devices = config->on_devices || strcmp(json_string_value(entry), "devices") == 0;
    }
    config->limits.connections = integer_of(limits, "connections");
    config->limits.connections_per_address = integer_of(limits, "connections_per_address");
    config->limits.idle_timeout = integer_of(limits, "idle_timeout");
    config->limits.identify_timeout = integer_of(limits, "identify_timeout");
    config->limits.datagrams_per_second = integer_of(limits, "datagrams_per_second");
    config->limits.unknown_devices = integer_of(limits, "unknown_devices");
    config->limits.forget_unknown_after = integer_of(limits, "forget_unknown_after");
    config->limits.tcp_keepalive = integer_of(limits, "tcp_keepalive");
    config->limits.takeover = (enum config_takeover)choice_of(limits, "takeover", takeovers);
    config->store_max_bytes =
        (size_t)json_integer_value(json_object_get(json_object_get(config->json, "store"), "max_bytes"));
    config->store_path = text_of(json_object_get(config->json, "store"), "path");
    config->log_level = (enum log_level)choice_of(log, "level", levels);
    config->log_format = (enum log_format)choice_of(log, "format", formats);
}

// The schema, with the options of codecs that it does not describe itself. For the caller to free.
static json_t *schema_with_options(void) {
    json_t *schema = json_deep_copy(schema_find("config.schema.json"));
    json_t *channels = json_object_get(json_object_get(schema, "properties"), "channels");
    json_t *keys = json_object_get(json_object_get(channels, "items"), "properties");
    for (size_t c = 0; codec_at(c) != NULL; c++)
        for (size_t i = 0; codec_at(c)->options != NULL && codec_at(c)->options[i] != NULL; i++)
            if (json_object_get(keys, codec_at(c)->options[i]) == NULL)
                json_object_set_new(keys, codec_at(c)->options[i],
                                    json_pack("{s:[s, s], s:i, s:n}", "type", "string", "null", "maxLength",
                                              OPTION_LENGTH_MAX, "default"));
    return schema;
}

static void read_all(struct faults *faults, struct config *config) {
    read_channels(faults, config);
    read_mqtt(faults, config);
    read_commands(faults, config);
    config->devices_file = text_of(config->json, "devices_file");
    config->devices = read_devices(faults, config);
    read_web(faults, config);
    read_geolocation(faults, config);
    read_rest(config);
    rules_check_texts(faults, config);
    rules_check_channels(faults, config);
}

// Takes ownership of json. file is where it is from, or NULL.
static struct config *read_config(struct faults *faults, json_t *json, const char *file, unsigned needed) {
    json_t *schema = schema_with_options();
    struct config *config = must_have(calloc(1, sizeof *config));
    config->json = json;
    environment_apply(faults, json, schema);
    struct pruning pruning = {.faults = faults, .json = json, .name = "$"};
    check_schema(&pruning, schema, schema);
    files_find(faults, json, needed, file);
    if (json_is_object(json))
        read_all(faults, config);
    json_decref(schema);
    if (faults->count == 0)
        return config;
    config_free(config);
    return NULL;
}

struct config *config_load(const char *file, config_fault_fn *fault, void *context) {
    return config_load_with(file, FILES_ALL, fault, context);
}

struct config *config_load_with(const char *file, unsigned needed, config_fault_fn *fault, void *context) {
    struct faults faults = {.fault = fault, .context = context};
    json_t *json = file != NULL ? load_json(&faults, file, "$") : json_object();
    struct config *config = json != NULL ? read_config(&faults, json, file, needed) : NULL;
    if (config != NULL)
        config->file = file;
    return config;
}

struct config *config_parse(const char *text, size_t length, config_fault_fn *fault, void *context) {
    struct faults faults = {.fault = fault, .context = context};
    json_error_t error;
    json_t *json = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    if (json == NULL)
        add_json_fault(&faults, "the text", "$", &error);
    return json != NULL ? read_config(&faults, json, NULL, FILES_ALL) : NULL;
}

const struct codec_battery *config_battery(const struct config *config, const struct codec *codec) {
    for (size_t i = 0; codec != NULL && i < config->channel_count; i++)
        if (config->channels[i].codec == codec && config->channels[i].battery != NULL)
            return config->channels[i].battery;
    return codec != NULL ? codec->battery : NULL;
}

void config_drop_channels(struct config *config) {
    for (size_t i = 0; i < config->channel_count; i++) {
        free(config->channels[i].proxy_from);
        free(config->channels[i].battery);
    }
    free(config->channels);
    config->channels = NULL;
    config->channel_count = 0;
}

void config_free(struct config *config) {
    if (config == NULL)
        return;
    config_drop_channels(config);
    free_brokers(config);
    config_devices_free(config->devices);
    free(config->commands.key);
    free(config->password_text);
    free(config->geolocation.url);
    free(config->geolocation.key);
    json_decref(config->json);
    free(config);
}
