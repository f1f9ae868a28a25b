// trackbus watch: what comes through the broker, live.
#include "gateway/watch/watch.h"

#include <getopt.h> // optind
#include <stdio.h>

#include "gateway/cli/cli.h"
#include "gateway/config/config.h"
#include "gateway/config/registry.h"

static const char help[] =
    "trackbus watch [-c FILE] [IDENT]\n"
    "\n"
    "Shows what comes through the broker, for one device if you give its IDENT. On a terminal: one row\n"
    "per device, newest first; q or Ctrl-C quits. Otherwise: one line per message, and one whenever a\n"
    "device connects or disconnects: time, ident, name, position, speed, battery, event.\n"
    "\n"
    "  -c, --config FILE   the gateway's configuration; only mqtt, messages, unknown_devices and log\n"
    "                      are used. Without it, defaults are used\n"
    "\n"
    "Environment: TRACKBUS_MQTT_URL, TRACKBUS_MQTT_USERNAME, TRACKBUS_MQTT_PASSWORD and\n"
    "TRACKBUS_TOPIC_PREFIX override the file.\n";

static int watch(const char *file, const char *ident) {
    struct config *config = config_load(file, cli_print_fault, stderr);
    if (config == NULL)
        return 1;
    int code = watch_run(config, ident);
    config_free(config);
    return code;
}

int cli_watch(int argc, char **argv) {
    const char *file = NULL;
    int code = cli_read_config(argc, argv, help, &file);
    if (code >= 0)
        return code;
    if (optind + 1 < argc)
        return cli_usage_fault(argv[0], "one IDENT, not %d", argc - optind);
    const char *ident = argv[optind];
    if (ident != NULL && !device_ident_valid(ident))
        return cli_usage_fault(argv[0], "'%s' is not an IDENT: letters, digits, dots, dashes, underscores",
                               ident);
    return watch(file, ident);
}
