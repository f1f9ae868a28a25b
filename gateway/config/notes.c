// Notes on a configuration; see notes.h.
#include "gateway/config/notes.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

// What MQTT 3.1.1 has no place for.
static void note_version(struct faults *notes, const struct config *config) {
    static const char path[] = "$.mqtt.version";
    if (config->mqtt.version != MQTT_VERSION_3_1_1)
        return;
    if (config->commands.intake)
        faults_add(notes, path,
                   "\"3.1.1\" has no response topics: results of commands are in the log entries only");
    faults_add(notes, path, "\"3.1.1\" has no user properties: messages and state come without any");
    faults_add(notes, path,
               "\"3.1.1\" cannot bound what the broker sends: set the largest message there (Mosquitto: "
               "message_size_limit)");
}

static void note_options(struct faults *notes, const struct config_channel *channel, size_t index) {
    const char *const *options = channel->codec->options;
    char path[48];
    snprintf(path, sizeof path, "$.channels[%zu]", index);
    for (size_t i = 0; options != NULL && options[i] != NULL; i++)
        if (channel->options[i] != NULL && strncmp(options[i], "udp_", 4) == 0 && !channel->has_udp)
            faults_add(notes, path, "has %s, but no udp", options[i]);
}

static void note_readers(struct faults *notes, const char *path, const char *file) {
    struct stat status;
    if (file == NULL || stat(file, &status) != 0 || (status.st_mode & (S_IROTH | S_IWOTH)) == 0)
        return;
    faults_add(notes, path, "everybody may %s \"%s\" (mode %03o): 600 keeps others out",
               (status.st_mode & S_IWOTH) != 0 ? "change" : "read", file, status.st_mode & 0777U);
}

void config_notes(const struct config *config, config_fault_fn *note, void *context) {
    struct faults notes = {.fault = note, .context = context};
    const json_t *mqtt = json_object_get(config->json, "mqtt");
    const json_t *commands = json_object_get(config->json, "commands");
    const json_t *geolocation = json_object_get(config->json, "geolocation");
    note_version(&notes, config);
    if (config->mqtt.qos == 0)
        faults_add(&notes, "$.mqtt.qos",
                   "is 0: messages that are in flight when the connection to the broker breaks are lost");
    for (size_t i = 0; i < config->channel_count; i++)
        note_options(&notes, &config->channels[i], i);
    if (config->unknown_devices == UNKNOWN_REJECT && config->devices->count == 0)
        faults_add(
            &notes, "$.unknown_devices",
            "is \"reject\", and no device is listed: all but those of the broker's registry are turned away");
    note_readers(&notes, "$.mqtt.password_file", json_string_value(json_object_get(mqtt, "password_file")));
    note_readers(&notes, "$.mqtt.key_file", config->mqtt.key_file);
    note_readers(&notes, "$.commands.key_file", json_string_value(json_object_get(commands, "key_file")));
    note_readers(&notes, "$.geolocation.key_file",
                 json_string_value(json_object_get(geolocation, "key_file")));
}
