// trackbus check: is a configuration valid?
#include <getopt.h> // optind
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "gateway/cli/cli.h"
#include "gateway/config/config.h"
#include "gateway/web/policy.h"

static const char help[] =
    "trackbus check -c FILE\n"
    "\n"
    "Checks a configuration, with the environment variables that 'run' would use. Prints one line per\n"
    "fault: its JSON path, what is there and what was expected. A note names what is configured and\n"
    "cannot work.\n"
    "\n"
    "Exit codes: 0 no faults, 1 faults, 2 wrong usage.\n";

// -1 to go on, else the exit code.
static int read_options(int argc, char **argv, const char **file) {
    int code = cli_read_config(argc, argv, help, file);
    if (code >= 0)
        return code;
    if (optind < argc)
        return cli_usage_fault(argv[0], "unexpected argument '%s'", argv[optind]);
    return *file == NULL ? cli_usage_fault(argv[0], "which configuration? -c is missing") : -1;
}

// What MQTT 3.1.1 has no place for.
static void print_notes(const struct config *config) {
    if (config->mqtt.version != MQTT_VERSION_3_1_1)
        return;
    if (config->commands.intake)
        puts("note: $.mqtt.version: \"3.1.1\" has no response topics: results of commands are in the log "
             "entries "
             "only");
    puts("note: $.mqtt.version: \"3.1.1\" has no user properties: messages and state come without any");
    puts("note: $.mqtt.version: \"3.1.1\" cannot bound what the broker sends: set the largest message there "
         "(Mosquitto: message_size_limit)");
}

// What `run` or `web` will need to serve the page; a fault is on standard output like all others.
static bool check_web(const struct config *config) {
    char *in_use;
    bool sound = policy_check(config, NULL, cli_print_fault, stdout, &in_use) == 0;
    if (in_use != NULL)
        printf("warning: $.web.listen: %s; the gateway itself may be running\n", in_use);
    free(in_use);
    return sound;
}

int cli_check(int argc, char **argv) {
    const char *file = NULL;
    int code = read_options(argc, argv, &file);
    if (code >= 0)
        return code;
    struct config *config = config_load(file, cli_print_fault, stdout);
    if (config == NULL)
        return 1;
    if (!check_web(config)) {
        config_free(config);
        return 1;
    }
    printf("%s is valid: %zu channels, %zu devices\n", file, config->channel_count, config->devices->count);
    print_notes(config);
    config_free(config);
    return 0;
}
