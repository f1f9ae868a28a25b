// trackbus capture: the bytes of a device, in both directions, as a file.
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/cli/capturing.h"
#include "gateway/cli/cli.h"
#include "gateway/config/config.h"

#define SECONDS     600
#define SECONDS_MAX 3600

static const char help[] =
    "trackbus capture [-c FILE] (DEVICE | --channel NAME | --address IP) [--seconds N] [-o FILE]\n"
    "\n"
    "Asks the gateways for the bytes of a device, in both directions, says what comes, and writes a file\n"
    "that 'trackbus decode' reads. DEVICE is an ident, an id or a name. Ctrl-C ends it and writes what\n"
    "there is.\n"
    "\n"
    "  -C, --channel NAME    all devices of a channel\n"
    "  -a, --address IP      all connections from an address, whoever they are\n"
    "  -s, --seconds N       how long, 600 unless given, 3600 at most\n"
    "  -o, --output FILE     where to write; standard output without it\n"
    "      --anonymize       put a made-up IMEI in place of each, mend the checksums, and leave out\n"
    "                        addresses and names. Positions stay\n"
    "  -c, --config FILE     the gateway's configuration; only mqtt and log are used. Without it,\n"
    "                        defaults are used\n"
    "\n"
    "Environment: TRACKBUS_MQTT_URL, TRACKBUS_MQTT_USERNAME, TRACKBUS_MQTT_PASSWORD and\n"
    "TRACKBUS_TOPIC_PREFIX override the file.\n"
    "\n"
    "Exit codes: 0 written, 1 nothing came or it could not be written, 2 wrong usage.\n";

struct request {
    struct capture_order order;
    const char *config;
};

// -1, or the exit code.
static int read_seconds(const char *text, unsigned *seconds) {
    char *end;
    errno = 0;
    unsigned long number = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || number < 1 || number > SECONDS_MAX)
        return cli_usage_fault("capture", "--seconds '%s' is not a number from 1 to %d", text, SECONDS_MAX);
    *seconds = (unsigned)number;
    return -1;
}

static int choose(struct capture_order *order, const char *kind, const char *text) {
    if (order->kind != NULL)
        return cli_usage_fault("capture", "one of DEVICE, --channel and --address, and once");
    if (*text == '\0' || strlen(text) > 127)
        return cli_usage_fault("capture", "a %s has 1 to 127 bytes", kind);
    order->kind = kind;
    order->text = text;
    return -1;
}

static int read_option(int option, char **argv, struct request *request) {
    switch (option) {
    case 'h':
        fputs(help, stdout);
        return 0;
    case 'c':
        request->config = optarg;
        return -1;
    case 'C':
        return choose(&request->order, "channel", optarg);
    case 'a':
        return choose(&request->order, "address", optarg);
    case 's':
        return read_seconds(optarg, &request->order.seconds);
    case 'o':
        request->order.file = optarg;
        return -1;
    case 'x':
        request->order.anonymize = true;
        return -1;
    default:
        return cli_usage_fault("capture", "wrong or incomplete option '%s'", argv[optind - 1]);
    }
}

static int read_arguments(int argc, char **argv, struct request *request) {
    static const struct option longs[] = {
        {"config", required_argument, NULL, 'c'},  {"channel", required_argument, NULL, 'C'},
        {"address", required_argument, NULL, 'a'}, {"seconds", required_argument, NULL, 's'},
        {"output", required_argument, NULL, 'o'},  {"anonymize", no_argument, NULL, 'x'},
        {"help", no_argument, NULL, 'h'},          {0}};
    int option, code = -1;
    opterr = 0;
    while (code < 0 && (option = getopt_long(argc, argv, ":c:C:a:s:o:h", longs, NULL)) != -1)
        code = read_option(option, argv, request);
    for (; code < 0 && optind < argc; optind++)
        code = choose(&request->order, "device", argv[optind]);
    if (code < 0 && request->order.kind == NULL)
        code = cli_usage_fault("capture", "whose bytes? A DEVICE, --channel NAME or --address IP");
    return code;
}

// Found out before anything was captured; what stands there is not touched yet.
static bool may_write(const char *name) {
    FILE *file = name != NULL ? fopen(name, "a") : NULL;
    if (file != NULL)
        fclose(file);
    else if (name != NULL)
        cli_fault("capture", "cannot write %s: %s", name, strerror(errno));
    return name == NULL || file != NULL;
}

int cli_capture(int argc, char **argv) {
    struct request request = {.order.seconds = SECONDS};
    int code = read_arguments(argc, argv, &request);
    if (code >= 0)
        return code;
    struct config *config = cli_load_config(request.config, FILES_OF_MQTT);
    if (config == NULL)
        return 1;
    code = may_write(request.order.file) ? capturing_run(config, &request.order) : 1;
    config_free(config);
    return code;
}
