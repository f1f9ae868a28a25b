// trackbus send: a command for a device, and what becomes of it.
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/cli/cli.h"
#include "gateway/cli/sending.h"
#include "gateway/commands/parse.h"
#include "gateway/config/config.h"

#define WAIT     60 // seconds
#define WAIT_MAX 31536000

static const char help[] =
    "trackbus send [-c FILE] DEVICE COMMAND [--wait SECONDS]\n"
    "\n"
    "Publishes a command for a device and prints each step of its life (queued, sent, processed) and the\n"
    "answer. DEVICE is an ident, an id or a name. COMMAND is text as the device understands it, or JSON:\n"
    "\n"
    "  trackbus send 866425031361423 'mode,6,60#'\n"
    "  trackbus send 'Van 1' '{\"name\":\"mode\",\"properties\":{\"mode\":6,\"interval\":60}}'\n"
    "\n"
    "  -c, --config FILE   the gateway's configuration; only mqtt, devices and log are used. Without it,\n"
    "                      defaults are used\n"
    "  -w, --wait SECONDS  how long to wait for the end, 60 unless given, 0 not at all; the command itself\n"
    "                      waits for its device as long as its ttl says\n"
    "\n"
    "Environment: TRACKBUS_MQTT_URL, TRACKBUS_MQTT_USERNAME, TRACKBUS_MQTT_PASSWORD and\n"
    "TRACKBUS_TOPIC_PREFIX override the file.\n"
    "\n"
    "Exit codes: 0 executed, 1 failed or not published, 2 wrong usage,\n"
    "3 it still waits, or how it ended is not known.\n";

struct request {
    const char *file; // of the configuration, or NULL
    const char *device, *command;
    unsigned wait; // seconds
};

// -1, or the exit code.
static int read_wait(const char *text, unsigned *wait) {
    char *end;
    errno = 0;
    unsigned long seconds = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || seconds > WAIT_MAX)
        return cli_usage_fault("send", "--wait '%s' is not a number of seconds from 0 to %d", text, WAIT_MAX);
    *wait = (unsigned)seconds;
    return -1;
}

static int read_option(int option, char **argv, struct request *request) {
    switch (option) {
    case 'h':
        fputs(help, stdout);
        return 0;
    case 'c':
        request->file = optarg;
        return -1;
    case 'w':
        return read_wait(optarg, &request->wait);
    default:
        return cli_usage_fault("send", "wrong or incomplete option '%s'", argv[optind - 1]);
    }
}

static int read_arguments(int argc, char **argv, struct request *request) {
    static const struct option longs[] = {{"config", required_argument, NULL, 'c'},
                                          {"wait", required_argument, NULL, 'w'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    int option, code = -1;
    opterr = 0;
    while (code < 0 && (option = getopt_long(argc, argv, ":c:w:h", longs, NULL)) != -1)
        code = read_option(option, argv, request);
    if (code >= 0)
        return code;
    if (argc - optind != 2)
        return cli_usage_fault("send", "a DEVICE and a COMMAND, in quotation marks if it has blanks");
    request->device = argv[optind];
    request->command = argv[optind + 1];
    return -1;
}

static bool is_command(const json_t *command) {
    const char *name = json_string_value(json_object_get(command, "name"));
    const json_t *meta = json_object_get(command, "meta");
    if (name == NULL || *name == '\0')
        cli_usage_fault("send", "a command is a JSON object with a name");
    else if (meta != NULL && !json_is_object(meta))
        cli_usage_fault("send", "the meta of a command is a JSON object");
    else
        return true;
    return false;
}

// What the gateway would not understand is not published at all.
static json_t *read_commands(const struct request *request) {
    char *reason = NULL;
    json_t *commands = command_parse(request->command, strlen(request->command), &reason);
    const json_t *command;
    size_t i;
    json_array_foreach(commands, i, command) {
        if (is_command(command))
            continue;
        json_decref(commands);
        return NULL;
    }
    if (commands == NULL)
        cli_usage_fault("send", "%s", reason);
    free(reason);
    return commands;
}

int cli_send(int argc, char **argv) {
    struct request request = {.wait = WAIT};
    int code = read_arguments(argc, argv, &request);
    if (code >= 0)
        return code;
    json_t *commands = read_commands(&request);
    if (commands == NULL)
        return EXIT_USAGE;
    struct config *config = cli_load_config(request.file, FILES_OF_MQTT | FILES_WITH_DEVICES);
    if (config != NULL)
        code = sending_run(config, request.device, commands, request.wait);
    json_decref(commands);
    if (config == NULL)
        return 1;
    config_free(config);
    return code;
}
